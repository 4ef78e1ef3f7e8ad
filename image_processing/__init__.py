"""From image files to model inputs and from model outputs to segments.

Sizes are (height, width) in pixels everywhere. Letters in shapes: B images, Q queries, K classes, N masks, H x W
pixels, h x w mask logits (a quarter of the padded size).
"""
