"""Other people's models in, ours out."""
