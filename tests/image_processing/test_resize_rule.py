import pytest
import torch

from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.image_processing.resize_rule import resized_size, round_up, shortest_edge_size

# (image height, width, shortest, longest) -> (height, width), from detectron2's
# ResizeShortestEdge.get_output_shape(height, width, shortest, longest).
DETECTRON2_SIZES = [
    ((480, 640, 800, 1333), (800, 1067)),
    ((427, 640, 800, 1333), (800, 1199)),
    ((640, 359, 800, 1333), (1333, 748)),
    ((640, 427, 800, 1333), (1199, 800)),
    ((375, 500, 800, 1333), (800, 1067)),
    ((500, 333, 800, 1333), (1201, 800)),
    ((1024, 2048, 1024, 2048), (1024, 2048)),
    ((512, 683, 512, 2048), (512, 683)),
    ((683, 512, 640, 2560), (854, 640)),
    ((100, 1000, 640, 2560), (256, 2560)),
    ((3024, 4032, 2048, 2048), (1536, 2048)),
    ((200, 300, 800, 1333), (800, 1200)),
    ((300, 437, 300, 1000), (300, 437)),
    ((333, 500, 333, 500), (333, 500)),
]


@pytest.mark.parametrize(("arguments", "expected"), DETECTRON2_SIZES)
def test_shortest_edge_rule_equals_detectron2(arguments, expected):
    height, width, shortest, longest = arguments
    assert shortest_edge_size((height, width), shortest, longest) == expected


def test_extreme_aspect_ratio_keeps_one_row():
    # 1333 / 10000 = 0.13 rows
    assert shortest_edge_size((1, 10000), 800, 1333) == (1, 1333)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ({"shortest_edge": 100}, (100, 250)),  # 2:5 kept, no limit
        ({"shortest_edge": 100, "longest_edge": 200}, (80, 200)),
        ({"longest_edge": 50}, (20, 50)),
        ({"height": 30, "width": 70}, (30, 70)),
        ({"max_height": 10, "max_width": 1000}, (10, 25)),
    ],
)
def test_every_kind_of_size(size, expected):
    assert resized_size((40, 100), size) == expected


@pytest.mark.parametrize("size", [{"edge": 3}, {"height": 3}, {"shortest_edge": 0}])
def test_bad_size_is_named(size):
    with pytest.raises(ValueError, match="edge|height"):
        resized_size((40, 100), size)


def test_round_up():
    assert [round_up(value, 32) for value in (1, 31, 32, 33)] == [32, 32, 32, 64]


def test_reference_row_03_images_are_padded_not_stretched():
    # transformers: 480 x 640 becomes 800 x 1088 by stretching, and 640 x 359 exceeds the longest edge with 1344.
    processor = M2FImageProcessor()
    batch = processor(torch.zeros((3, 480, 640), dtype=torch.uint8), return_tensors="pt")
    assert batch["pixel_values"].shape == (1, 3, 800, 1088)
    assert (
        batch["pixel_mask"][0].sum(0).count_nonzero() == 1067 and batch["pixel_mask"][0].sum(1).count_nonzero() == 800
    )
    batch = processor(torch.zeros((3, 640, 359), dtype=torch.uint8), return_tensors="pt")
    assert batch["pixel_mask"][0, :, 0].sum() == 1333 and batch["pixel_mask"][0, 0].sum() == 748
