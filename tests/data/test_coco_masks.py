"""Masks of COCO's segmentations: pycocotools gives the expected ones, or they are drawn by hand."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from m2f.data.coco_masks import CocoObject, decode_strip, run_lengths, segments_of_objects
from m2f.image_processing.label_values import IGNORED, NOTHING

# 4 rows of 5: column-major runs of 6 off, 2 on, 1 off, 2 on, 9 off.
SQUARE = np.array([[0, 0, 0, 0, 0], [0, 0, 1, 0, 0], [0, 1, 1, 0, 0], [0, 1, 0, 0, 0]], np.uint8)
SQUARE_RUNS = [6, 2, 1, 2, 9]


def compressed(mask: np.ndarray) -> dict:
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(mask.shape), "counts": rle["counts"].decode()}


def decoded(segmentation, height: int, width: int) -> np.ndarray:
    """The whole mask."""
    strip, left = decode_strip(segmentation, height, width)
    return np.pad(strip, ((0, 0), (left, width - left - strip.shape[1])))


def test_all_forms_of_a_segmentation():
    packed = compressed(SQUARE)
    forms = (packed, {**packed, "counts": packed["counts"].encode()}, {"size": [4, 5], "counts": SQUARE_RUNS})
    for form in forms:
        mask = decoded(form, 4, 5)
        np.testing.assert_array_equal(mask, SQUARE)
        assert mask.dtype == np.uint8
    rectangle = np.zeros((4, 5))
    rectangle[1:3, 1:4] = 1
    np.testing.assert_array_equal(decoded([[1, 1, 4, 1, 4, 3, 1, 3]], 4, 5), rectangle)


def test_polygons_of_one_object_are_joined():
    joined = decoded([[0, 0, 1, 0, 1, 1, 0, 1], [3, 3, 5, 3, 5, 4, 3, 4]], 4, 5)
    assert joined.sum() == 3
    assert joined[0, 0] == joined[3, 3] == joined[3, 4] == 1


@pytest.mark.parametrize("seed", range(10))
def test_run_lengths_are_those_of_pycocotools(seed):
    """pycocotools compresses the runs, which are counted here from the mask; large ones take several characters."""
    rng = np.random.default_rng(seed)
    mask = (rng.random((60, 70)) < rng.choice([0.001, 0.1, 0.5])).astype(np.uint8)
    flat = mask.T.ravel()
    borders = np.flatnonzero(np.diff(flat, prepend=0))
    expected = np.diff([0, *borders, flat.size])
    np.testing.assert_array_equal(run_lengths(compressed(mask)["counts"]), expected)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("form", ["compressed", "list", "padded list"])
def test_strips_are_the_columns_of_the_mask(seed, form):
    """One rectangle with holes, anywhere; the padded list has runs without a pixel at its ends and in between."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((7, 9), np.uint8)
    top, left = rng.integers(0, (7, 9))
    mask[top : top + rng.integers(1, 8), left : left + rng.integers(1, 10)] = 1
    mask[rng.random(mask.shape) < 0.2] = 0
    segmentation = compressed(mask)
    if form != "compressed":
        runs = run_lengths(segmentation["counts"]).tolist()
        if form == "padded list":
            runs = [0, 0, *runs[:1], 0, 0, *runs[1:], *[0] * rng.integers(0, 3)]
        segmentation["counts"] = runs
    strip, first = decode_strip(segmentation, 7, 9)
    columns = np.flatnonzero(mask.any(0))
    expected = mask[:, columns[0] : columns[-1] + 1] if columns.size else mask[:, :0]
    np.testing.assert_array_equal(strip, expected)
    assert first == (columns[0] if columns.size else 0)
    np.testing.assert_array_equal(decoded(segmentation, 7, 9), mask)


def test_run_lengths_of_millions_of_pixels():
    # 2^31 pixels: what no image has, but a broken file may say.
    rle = coco_mask.frPyObjects({"size": [1 << 16, 1 << 15], "counts": [5, 1 << 30, (1 << 30) - 5]}, 1 << 16, 1 << 15)
    assert run_lengths(rle["counts"]).tolist() == [5, 1 << 30, (1 << 30) - 5]


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"size": [5, 4], "counts": [20]}, r"size is \[5, 4\], but the image is \[4, 5\]"),
        ({"size": [4.0, 5.0], "counts": [20]}, r"size is \[4\.0, 5\.0\]"),
        ({"size": [4, 5], "counts": [6, 2]}, "runs sum to 8; 4 x 5 = 20"),
        ({"size": [4, 5], "counts": []}, "runs sum to 0"),
        ({"size": [4, 5], "counts": [-1, 21]}, "run of -1 pixels"),
        ({"size": [4, 5], "counts": [19.0, 1]}, "not all integers"),
        ({"size": [4, 5], "counts": [True, 19]}, "not all integers"),
        ({"size": [4, 5], "counts": "zzzz"}, 'other characters than "0" to "o"'),
        ({"size": [4, 5], "counts": "62é29"}, "other characters"),
        ({"size": [4, 5], "counts": "62125"}, "runs sum to 1[0-9]"),
        ({"size": [4, 5], "counts": "621d"}, "end within a number"),
        ({"size": [4, 5], "counts": "6" + "P" * 40 + "0"}, "one that is too long"),
        ({"size": [4, 5], "counts": ""}, "runs sum to 0"),
        ({"size": [4, 5], "counts": "O0d0"}, "run of -1 pixels"),
        ({"size": [4, 5]}, "NoneType"),
        ({"counts": [20]}, "size is None"),
        ([[0, 0, 1, 1]], "at least 3 points"),
        ([[0, 0, 1, 1, 2, 0, 1]], "even count"),
        ([[0, 0, 1, 1, 2, "0"]], "not all numbers"),
        ([[0, 0, 1, 1, 2, True]], "not all numbers"),
        ([[0, 0, 1, 1, 2, float("nan")]], "too far outside"),
        ([[0, 0, 1, 1, 2, float("inf")]], "too far outside"),
        ([[0, 0, 1, 1, 2, 10**400]], r"from 0 to 10{17,18}\.\.\.0+ pixels, too far outside"),
        ([[0, 0, 1, 1, -5.5, 0]], r"from -5\.5 to 1 pixels, too far outside an image of 4 x 5"),
        ([[0, 0, 1, 1, 10.5, 0]], "too far outside"),
        ([0, 0, 1, 1, 2, 0], "flat list"),
        ([], "a box is no mask"),
        (None, "a box is no mask"),
        ("text", "a box is no mask"),
    ],
)
def test_what_is_no_segmentation_is_refused(segmentation, message):
    with pytest.raises(ValueError, match=message):
        decoded(segmentation, 4, 5)


def test_polygons_may_reach_a_little_outside():
    """Both ends of what is allowed, as far outside as the image is large. pycocotools cuts at the border."""
    mask = decoded([[-5, -5, 10, -5, 10, 10, -5, 10]], 4, 5)
    assert mask.all()


def test_objects_keep_their_order_and_crowds_become_ignored():
    column = np.zeros((4, 5), np.uint8)
    column[:, 1] = 1
    objects = [
        CocoObject("a", 3, compressed(SQUARE), False),
        CocoObject("b", 0, {"size": [4, 5], "counts": [0, 12, 8]}, True),  # the first three columns
        CocoObject("c", 3, compressed(column), False),
    ]
    segments = segments_of_objects(objects, (4, 5), True, "x.json")
    np.testing.assert_array_equal(segments.masks(), [SQUARE, column])
    np.testing.assert_array_equal(segments.class_ids, [3, 3])
    # What belongs to an object is known, even inside a crowd.
    crowd = np.zeros((4, 5), bool)
    crowd[:, :3] = True
    np.testing.assert_array_equal(segments.ignored(), crowd & (SQUARE == 0) & (column == 0))
    without = segments_of_objects(objects, (4, 5), False, "x.json")
    np.testing.assert_array_equal(without.ids[0] == NOTHING, SQUARE == 0)
    assert IGNORED not in without.ids


def test_objects_without_a_pixel_are_kept_so_that_they_can_be_reported():
    """Runs that are all off, and a polygon beside the image."""
    for nothing in ({"size": [4, 5], "counts": [20]}, [[-3, 0, -1, 0, -1, 2]]):
        strip, first = decode_strip(nothing, 4, 5)
        assert (strip.shape, first) == ((4, 0), 0)
        objects = [CocoObject(1, 6, nothing, False), CocoObject(2, 7, compressed(SQUARE), False)]
        segments = segments_of_objects([*objects, CocoObject(3, 0, nothing, True)], (4, 5), True, "x.json")
        np.testing.assert_array_equal(segments.masks(), [np.zeros((4, 5)), SQUARE])
        np.testing.assert_array_equal(segments.class_ids, [6, 7])
        assert not segments.ignored().any()


@pytest.mark.parametrize("is_crowd", [False, True])
def test_a_bad_object_is_named(is_crowd):
    objects = [CocoObject(17, 0, [[0, 0, 1, 1]], is_crowd)]
    with pytest.raises(ValueError, match=r"x\.json, annotation 17: a polygon needs"):
        segments_of_objects(objects, (4, 5), False, "x.json")
