"""Checkpoints from and for elsewhere: the original's and transformers' weights, model cards, publishing with code."""
