"""Checkpoints that are installed with the package: a folder for each, beside the file that finds them."""
