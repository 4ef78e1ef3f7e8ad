"""Polygons against masks; pycocotools fills them, as our readers and COCO's tools do."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from m2f.output_formats.mask_outlines import mask_parts, part_polygons, whole_polygon
from m2f.output_formats.saved_image import Outliner, SavedObject


def filled(polygons, size) -> np.ndarray:
    flat = [polygon.ravel().tolist() for polygon in polygons]
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(flat, *size))).astype(bool)


def masks() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    sizes = generator.integers(1, 20, (150, 2))
    noise = [generator.random(size) < generator.choice([0.2, 0.5, 0.8]) for size in sizes]
    return [np.ones((4, 7), bool), *(mask for mask in noise if mask.any())]


def test_without_a_tolerance_polygons_have_the_pixels_and_no_others():
    """Noise has holes, parts in holes, and pixels that touch by a corner alone."""
    for mask in masks():
        parts = mask_parts(mask)
        np.testing.assert_array_equal(filled(part_polygons(parts), mask.shape), mask)
        np.testing.assert_array_equal(filled([whole_polygon(parts)], mask.shape), mask)


def test_parts_and_holes_are_told_apart():
    """A ring with a pixel in its hole, and a pixel that touches the ring by a corner."""
    mask = np.zeros((7, 8), bool)
    mask[:5, :5] = True
    mask[1:4, 1:4] = False
    mask[2, 2] = mask[5, 5] = True
    ring, inner, corner = mask_parts(mask, left=10, top=20)
    assert ring.outer.tolist() == [[10, 20], [15, 20], [15, 25], [10, 25]]  # clockwise on the screen
    assert [hole.tolist() for hole in ring.holes] == [[[14, 21], [11, 21], [11, 24], [14, 24]]] or len(ring.holes) == 1
    area = 0.5 * np.sum(
        ring.holes[0][:, 0] * np.roll(ring.holes[0][:, 1], -1) - np.roll(ring.holes[0][:, 0], -1) * ring.holes[0][:, 1]
    )
    assert area == -9  # the other way round
    assert not inner.holes and inner.outer.min(0).tolist() == [12, 22] and corner.outer.min(0).tolist() == [15, 25]


def disc(radius: float) -> np.ndarray:
    y, x = np.mgrid[:60, :60] - 29.5
    return np.hypot(y, x) <= radius


def test_a_tolerance_leaves_points_out():
    """And what is left of a contour is a triangle at least: a pixel stays a pixel."""
    mask = disc(20)
    counts = [len(mask_parts(mask, tolerance)[0].outer) for tolerance in (0, 0.7, 2, 1000)]
    assert counts[0] > 1.5 * counts[1] > 3 * counts[2] > 0 and counts[3] == counts[0]
    assert mask_parts(np.ones((1, 1), bool), 5)[0].outer.tolist() == [[0, 0], [1, 0], [1, 1], [0, 1]]
    for tolerance in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"tolerance of \S+ pixels; give 0 or more"):
            mask_parts(mask, tolerance)


def test_an_outliner_measures_what_is_lost():
    outliner = Outliner(1.5)
    mask = disc(20) & ~disc(8)
    polygons = part_polygons(outliner.parts(SavedObject(0, "a", 0.5, (5, 6, 65, 66), mask)))
    moved = [polygon - [5, 6] for polygon in polygons]
    found = filled(moved, mask.shape)
    iou = (found & mask).sum() / (found | mask).sum()
    assert outliner.ious == [pytest.approx(iou)] and 0.8 < iou < 1
    pixel = np.eye(3, dtype=bool)
    outliner.parts(SavedObject(0, "a", 0.5, (0, 0, 3, 3), pixel))
    lines = outliner.summary("each a polygon")
    assert (
        lines[0] == f"polygons: mean IoU with the masks {(iou + 1) / 2:.4f}, lowest {iou:.3f} (tolerance 1.5 pixels)"
    )
    assert lines[1].endswith(": 1") and lines[2] == "objects of several parts, each a polygon: 1"
    assert not Outliner().summary("x")
