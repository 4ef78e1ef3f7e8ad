"""Metrics, each with `reset`, `process` (predictions and truth of some images) and `evaluate` (numbers by name).

Letters in shapes: H x W pixels, K classes, N segments of an image, G layers of a segment map.
"""
