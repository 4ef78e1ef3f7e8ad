"""Processors, sizes and masks that the tests of post-processing share."""

import numpy as np

from m2f.image_processing.image_processing_m2f import M2FImageProcessor

THINGS = [0, 1, 2]
PROCESSOR = M2FImageProcessor(thing_label_ids=THINGS, size={"shortest_edge": 41})
# padded, valid and target size of random_logits' 12 x 16 masks
SIZES = [((48, 64), (41, 57), (90, 125)), ((48, 64), (48, 64), (48, 64)), ((48, 64), (41, 57), (20, 30))]


# Masks of whole blocks: 8 x 8 logits, 32 x 32 pixels, columns from..to of each query on.
def columns(*spans: tuple[int, int], logit: float = 12.0) -> np.ndarray:
    masks = np.full((len(spans), 8, 8), -logit)
    for mask, (start, stop) in zip(masks, spans, strict=True):
        mask[:, start:stop] = logit
    return masks
