import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from m2f.evaluation.mask_rle import encode_masks
from m2f.inference.detection import detections_from_masks
from m2f.inference.segmentation_result import SegmentationResult


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**32 - 1), st.floats(0.05, 0.95))
def test_run_lengths_are_those_of_the_whole_mask(height, width, seed, density):
    """pycocotools, given the whole mask, makes the expected ones. A full column goes on in the next one."""
    mask = np.random.default_rng(seed).random((height, width)) < density
    mask[seed % height, seed % width] = True
    image = Image.new("RGB", (width, height))
    (found,) = detections_from_masks(torch.from_numpy(mask[None]), [{"label_id": 0, "score": 1.0}])
    result = SegmentationResult.from_detections(image, [found], {0: "cat"})
    assert result.segments[0].rle == encode_masks(mask[None])[0]
