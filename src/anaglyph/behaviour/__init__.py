"""What the two models do: predictions, KL, prompts, replies, mixtures and null pairs."""
