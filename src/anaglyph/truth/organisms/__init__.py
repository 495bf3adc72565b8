"""Real fine-tunes with known answers: how they are trained, tested and described."""
