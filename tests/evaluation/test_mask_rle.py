"""RLEs against pycocotools' own encoder, boundaries against erosion pixel by pixel."""

import numpy as np
import pytest
import torch
from evaluation_cases import encode, random_mask
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from scipy.ndimage import binary_erosion

from m2f.evaluation.mask_rle import annotation_rle, boundary_rle, encode_index_map, encode_masks


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), height=st.integers(1, 12), width=st.integers(1, 12), count=st.integers(0, 4))
def test_index_maps_are_encoded_as_pycocotools_encodes_each_mask(seed, height, width, count):
    indices = np.random.default_rng(seed).integers(-2, count, (height, width)) if count else -np.ones((height, width))
    assert encode_index_map(indices, count) == [encode(indices == index) for index in range(count)]


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), height=st.integers(1, 150), width=st.integers(1, 150))
def test_boundaries_are_the_mask_without_its_erosion(seed, height, width):
    """The published code erodes d times with 3 x 3 after adding a border of background, d at least 1."""
    mask = random_mask(np.random.default_rng(seed), height, width)
    distance = max(1, int(round(0.02 * np.sqrt(height**2 + width**2))))
    eroded = binary_erosion(np.pad(mask, 1), np.ones((3, 3)), iterations=distance)[1:-1, 1:-1]
    assert boundary_rle(encode(mask)) == encode(mask & ~eroded)


def test_the_width_of_the_boundary_is_two_percent_of_the_diagonal():
    """300 x 400 has a diagonal of 500: 10 pixels on each side."""
    boundary = coco_mask.decode(boundary_rle(encode(np.ones((300, 400)))))
    assert boundary.sum() == 300 * 400 - 280 * 380 and boundary[9].all() and not boundary[10, 10:390].any()


def test_masks_of_any_kind_are_encoded_alike():
    masks = np.random.default_rng(0).random((3, 5, 7)) < 0.5
    expected = [encode(mask) for mask in masks]
    runs = [{"size": [2, 2], "counts": [1, 2, 1]}]
    as_bytes = [{**rle, "counts": rle["counts"].encode()} for rle in expected]
    numbered = masks * np.arange(1, 36, dtype=np.uint8).reshape(5, 7)
    for form in (masks, torch.from_numpy(masks), masks * 0.5, numbered, list(masks), as_bytes):
        assert encode_masks(form) == expected
    assert encode_masks(runs) == [encode(np.array([[0, 1], [1, 0]]))]
    assert encode_masks(masks[:0]) == encode_masks([]) == []


def test_annotations_in_the_three_forms_of_coco():
    square = np.zeros((6, 8))
    square[1:4, 2:5] = 1
    polygon = [[2, 1, 5, 1, 5, 4, 2, 4]]
    uncompressed = {"size": [6, 8], "counts": [13, 3, 3, 3, 3, 3, 20]}
    for form in (polygon, uncompressed, encode(square)):
        assert annotation_rle(form, (6, 8)) == encode(square)
    two = np.concatenate([np.zeros((6, 5)), np.ones((6, 3))], axis=1)
    parts = [[5, 0, 8, 0, 8, 3, 5, 3], [5, 3, 8, 3, 8, 6, 5, 6]]
    assert annotation_rle(parts, (6, 8)) == encode(two)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (encode(np.ones((3, 3))), r"of size \[3, 3\], but the image \[6, 8\]"),
        ({"size": [6, 8], "counts": [5]}, "runs sum to 5, but its size is 6 x 8"),
        ({"counts": [5]}, r"needs \"size\" and \"counts\", got the keys \['counts'\]"),
        ([[0, 0, 4, 4]], "neither a list of polygons nor an RLE"),
        ([], "neither a list of polygons nor an RLE"),
        ("abc", "neither a list of polygons nor an RLE"),
    ],
)
def test_segmentations_that_cannot_be_read_are_refused(segmentation, message):
    with pytest.raises(ValueError, match=message):
        annotation_rle(segmentation, (6, 8))
