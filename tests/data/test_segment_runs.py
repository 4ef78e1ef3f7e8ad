"""Runs of segments against masks of them, one mask a segment."""

import numpy as np
import pytest
from random_segments import random_segments

from m2f.data.segment_map import SegmentMap
from m2f.data.segment_runs import segment_runs


@pytest.mark.parametrize("seed", range(40))
def test_runs_are_the_pixels_of_the_masks(seed):
    segments = random_segments(seed)
    masks, runs = segments.masks() > 0, segment_runs(segments)
    region = np.random.default_rng(seed).random(segments.size) < 0.5
    expected = [int((mask & region).sum()) for mask in masks]
    assert runs.pixels_in(region, len(masks)).tolist() == expected
    boxes = {}
    for number, mask in enumerate(masks):
        rows, columns = np.nonzero(mask)
        if rows.size:
            boxes[number] = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert runs.boxes() == boxes
    shapes = runs.shapes()
    assert sorted(shapes) == sorted(boxes)
    for one in boxes:
        for other in boxes:
            assert (shapes[one] == shapes[other]) == np.array_equal(masks[one], masks[other])


def test_only_the_wanted_segments():
    ids = np.array([[[0, 0, 1], [2, -2, 1]]], np.int32)
    segments = SegmentMap(ids, np.zeros(3, np.int64))
    assert segment_runs(segments, np.array([False, True, False])).boxes() == {1: (2, 0, 3, 2)}
    assert segment_runs(segments, np.zeros(3, bool)).boxes() == {}
    assert segment_runs(SegmentMap(ids[:, :, :0], np.zeros(0, np.int64))).shapes() == {}


def test_a_run_ends_with_its_row():
    """The pixels of one segment that touches the right border in a row and the left one in the next."""
    runs = segment_runs(SegmentMap(np.array([[[-1, 0], [0, -1]]], np.int32), np.zeros(1, np.int64)))
    assert (runs.starts.tolist(), runs.ends.tolist()) == ([1, 2], [2, 3])
    assert runs.boxes() == {0: (0, 0, 2, 2)}
