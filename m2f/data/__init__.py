"""Datasets on disk as images with instance masks, their augmentation, and their collation into batches.

Sizes are (height, width) in pixels. Letters in shapes: B images, N instances, H x W pixels.
"""
