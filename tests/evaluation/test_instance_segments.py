import numpy as np
import pytest
from pycocotools import mask as coco_mask

from m2f.evaluation.instance_segments import rle_areas


@pytest.mark.parametrize("count", [0, 1, 255, 256, 300])
def test_areas_of_any_number_of_masks(count):
    """pycocotools 2.0.11 cannot take more than 255 at a time."""
    mask = np.zeros((6, 5), dtype=np.uint8, order="F")
    mask[1:4, 2:4] = 1
    rle = coco_mask.encode(mask)
    areas = rle_areas([rle] * count)
    assert areas.dtype == np.float64 and areas.tolist() == [6.0] * count
