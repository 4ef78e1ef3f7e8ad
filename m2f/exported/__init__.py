"""Checkpoints as graphs of other inference libraries: made, described, checked, and run."""
