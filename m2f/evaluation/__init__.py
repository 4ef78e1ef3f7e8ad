"""Metrics, each with `reset`, `process` (predictions of one image) and `evaluate` (numbers by name)."""
