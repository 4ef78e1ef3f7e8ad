"""Measurements of speed and memory beside the models that people have."""
