"""What differs without any dictionary: predictions, directions, weights, mixtures of the two."""
