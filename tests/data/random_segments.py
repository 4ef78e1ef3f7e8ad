"""Labels in which segments overlap."""

import numpy as np

from m2f.data.segment_map import SegmentMap, pack_strips


def random_segments(seed: int) -> SegmentMap:
    """Rectangles, of which many lie over others, some have the same pixels, and some have no pixel; and ignored
    pixels."""
    draw = np.random.default_rng(seed)
    height, width, count = draw.integers(1, 12, 3)
    strips = []
    for _ in range(count):
        if strips and draw.random() < 0.3:
            strips.append(strips[draw.integers(len(strips))])
            continue
        top, left = draw.integers(0, height), draw.integers(0, width)
        strip = np.zeros((height, draw.integers(1, width - left + 1)), np.uint8)
        strip[top : top + draw.integers(0, 5)] = draw.random(strip.shape[1]) < 0.8
        strips.append((strip, int(left)))
    segments = pack_strips(strips, draw.integers(0, 3, count).tolist(), (height, width))
    segments.ids[0, (draw.random((height, width)) < 0.1) & (segments.ids < 0).all(0)] = -2
    return segments
