"""Model organisms: real fine-tunes with a known answer, how they are made, tested and described."""
