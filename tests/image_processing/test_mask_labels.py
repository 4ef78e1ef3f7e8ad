import numpy as np
import pytest
import torch
from PIL import Image

from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.image_processing.mask_labels import binary_masks_and_classes

MAP = np.array([[0, 0, 3], [7, 7, 3]], dtype=np.int32)
SMALL = M2FImageProcessor(do_resize=False, return_tensors="pt")


def image_like(label_map: np.ndarray) -> np.ndarray:
    return np.zeros((*label_map.shape, 3), dtype=np.uint8)


def test_one_mask_per_label_in_ascending_order():
    masks, classes = binary_masks_and_classes(MAP, (2, 3))
    assert classes.tolist() == [0, 3, 7] and classes.dtype == torch.int64
    assert masks.dtype == torch.uint8
    assert masks.tolist() == [[[1, 1, 0], [0, 0, 0]], [[0, 0, 1], [0, 0, 1]], [[0, 0, 0], [1, 1, 0]]]


def test_padding_belongs_to_no_mask():
    masks, _ = binary_masks_and_classes(MAP, (4, 5))
    assert masks.shape == (3, 4, 5)
    assert masks.sum(0).tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [0] * 5, [0] * 5]


def test_instances_of_the_same_class_stay_apart():
    _, classes = binary_masks_and_classes(MAP, (2, 3), {0: 5, 3: 1, 7: 1})
    assert classes.tolist() == [5, 1, 1]


def test_ignore_index_is_left_out_and_compared_as_in_the_file():
    assert binary_masks_and_classes(MAP, (2, 3), ignore_index=3)[1].tolist() == [0, 7]
    # 256 becomes class 255 and is no void, even where void is 255 (transformers drops it)
    label_map = np.array([[0, 255, 256]], dtype=np.int32)
    masks, classes = binary_masks_and_classes(label_map, (1, 3), ignore_index=255, do_reduce_labels=True)
    assert classes.tolist() == [255] and masks.tolist() == [[[0, 0, 1]]]


def test_without_ignore_index_every_value_is_a_label():
    assert binary_masks_and_classes(np.full((2, 2), 255, np.int32), (2, 2))[1].tolist() == [255]


def test_reduced_labels():
    masks, classes = binary_masks_and_classes(MAP, (2, 3), do_reduce_labels=True)
    assert classes.tolist() == [2, 6] and masks.shape[0] == 2


def test_reference_row_20_reduction_shifts_classes_once_and_no_ids():
    # {3: 10, 7: 11} gives the classes 9 and 10; segment id 0 with a class is a segment, without one background.
    assert binary_masks_and_classes(MAP, (2, 3), {3: 10, 7: 11}, do_reduce_labels=True)[1].tolist() == [9, 10]
    assert binary_masks_and_classes(MAP, (2, 3), {0: 4, 3: 10, 7: 0}, do_reduce_labels=True)[1].tolist() == [3, 9]


def test_unmapped_ids_are_named():
    with pytest.raises(ValueError, match="2 ids .* 0, 7.*ignore_index"):
        binary_masks_and_classes(MAP, (2, 3), {3: 10})


@pytest.mark.parametrize(
    ("label_map", "options", "found"),
    [
        (MAP, {"num_labels": 4}, r"\[7\].*0 to 3 \(num_labels is 4\)"),
        (MAP - 1, {}, r"\[-1\].*0 or more"),
        (MAP, {"instance_id_to_semantic_id": {0: 1, 3: 4, 7: -2}, "num_labels": 4}, r"\[-2, 4\]"),
        (MAP, {"num_labels": 6, "do_reduce_labels": True}, r"\[6\] after do_reduce_labels"),
    ],
)
def test_labels_outside_the_range_are_named(label_map, options, found):
    with pytest.raises(ValueError, match=found):
        binary_masks_and_classes(label_map, label_map.shape, **options)


def test_negative_void_can_be_ignored():
    assert binary_masks_and_classes(MAP - 1, (2, 3), ignore_index=-1)[1].tolist() == [2, 6]


def test_wholly_ignored_map_has_no_masks():
    masks, classes = binary_masks_and_classes(np.full((2, 3), 255, np.int32), (4, 4), ignore_index=255)
    assert masks.shape == (0, 4, 4) and classes.shape == (0,) and classes.dtype == torch.int64


def test_ignored_id_that_has_a_class_is_warned_about(monkeypatch):
    warnings = []
    monkeypatch.setattr("m2f.image_processing.mask_labels.logger.warning_once", warnings.append)
    binary_masks_and_classes(MAP, (2, 3), {0: 0, 3: 1, 7: 2}, ignore_index=255)
    assert not warnings
    binary_masks_and_classes(MAP, (2, 3), {0: 0, 3: 1, 7: 2}, ignore_index=7)
    assert "segment id 7" in warnings[0]


def test_reference_row_18_target_masks_are_padded_with_zero():
    # transformers pads the masks of a 320 x 240 and a 240 x 320 image with 255: 27% of the target.
    maps = [np.ones((320, 240), np.uint8), np.ones((240, 320), np.uint8)]
    images = [image_like(label_map) for label_map in maps]
    batch = M2FImageProcessor(do_resize=False, ignore_index=255)(images, maps, return_tensors="pt")
    assert batch["pixel_values"].shape == (2, 3, 320, 320)
    for masks, pixel_mask in zip(batch["mask_labels"], batch["pixel_mask"], strict=True):
        assert masks.shape == (1, 320, 320)
        assert torch.equal(masks[0].long(), pixel_mask)


def test_reference_row_19_no_ignore_index_and_ids_of_24_bits():
    # transformers' PIL backend raises for padding without ignore_index, and for ids above 255.
    label_map = np.zeros((40, 50), np.int64)
    label_map[:10], label_map[10:20] = 2**24 - 1, 255
    mapping = {0: 2, 255: 0, 2**24 - 1: 1}
    batch = M2FImageProcessor(size=80)(image_like(label_map), label_map, mapping, return_tensors="pt")
    assert batch["class_labels"][0].tolist() == [2, 0, 1]  # ascending ids
    # doubled by nearest neighbours: 20 rows of each id, 100 columns, padded to 96 x 128
    assert batch["mask_labels"][0].shape == (3, 96, 128)
    assert batch["mask_labels"][0].sum((1, 2)).tolist() == [40 * 100, 20 * 100, 20 * 100]
    assert batch["mask_labels"][0][2, :20, :100].all()


def test_one_mapping_per_image_or_one_for_all():
    images, maps = [image_like(MAP)] * 2, [MAP] * 2
    one = {0: 0, 3: 1, 7: 2}
    both = SMALL(images, maps, one)["class_labels"]
    assert [classes.tolist() for classes in both] == [[0, 1, 2]] * 2
    each = SMALL(images, maps, [one, {0: 5, 3: 5, 7: 5}])["class_labels"]
    assert [classes.tolist() for classes in each] == [[0, 1, 2], [5, 5, 5]]
    with pytest.raises(ValueError, match="1 dicts for 2"):
        SMALL(images, maps, [one])


def test_map_of_another_size_is_named():
    with pytest.raises(ValueError, match="map 0 is 2 x 3.*its image 4 x 3"):
        M2FImageProcessor()(np.zeros((4, 3, 3), np.uint8), MAP)


FORMS_OF_IDS = (
    {"0": 5, "3": 1, "7": 2},  # what json makes of a dict
    {np.int64(0): np.int64(5), np.uint8(3): np.uint8(1), 7: torch.tensor(2)},
    {0: "5", "3": 1.0, 7: 2},
)


@pytest.mark.parametrize("class_of", FORMS_OF_IDS)
def test_segment_ids_may_be_text_and_numbers_of_any_type(class_of):
    assert SMALL(image_like(MAP), MAP, class_of)["class_labels"][0].tolist() == [5, 1, 2]
    # 0 has a class here, and is no background of reduced labels.
    assert binary_masks_and_classes(MAP, (2, 3), class_of, do_reduce_labels=True)[1].tolist() == [4, 0, 1]


@pytest.mark.parametrize(
    ("class_of", "error", "words"),
    [
        ({0: 1, "0": 2, 3: 1, 7: 1}, ValueError, "segment id 0 twice.*class 1.*class 2"),
        ({0: 1, 3: 1.5, 7: 1}, ValueError, r"\[3\] is 1.5; a class is an integer"),
        ({0: 1, 3: None, 7: 1}, ValueError, r"\[3\] is None"),
        ({"a": 1}, ValueError, "3 ids"),
        ([[(0, 1), (3, 1), (7, 1)]], TypeError, "list; a dict"),
        ("0: 1", TypeError, "str; a dict"),
    ],
)
def test_a_mapping_that_cannot_be_one_is_named(class_of, error, words):
    with pytest.raises(error, match=words):
        SMALL(image_like(MAP), MAP, class_of)


FLOAT_MAPS = (MAP.astype(np.float32), MAP.astype(np.float16), torch.tensor(MAP).double(), torch.tensor(MAP).bfloat16())


@pytest.mark.parametrize("label_map", [*FLOAT_MAPS, Image.fromarray(MAP.astype(np.float32))])
def test_label_maps_of_whole_floats_are_taken(label_map):
    batch, expected = SMALL(image_like(MAP), label_map), SMALL(image_like(MAP), MAP)
    assert batch["class_labels"][0].tolist() == [0, 3, 7]
    assert torch.equal(batch["mask_labels"][0], expected["mask_labels"][0])


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.nan, "float32 and holds nan"),
        (0.5, "holds 0.5; labels must be integers"),
        (-np.inf, "holds -inf"),
        (2.0**31, "values from 0 to 2147483648"),  # int32's largest value is this one in float32
    ],
)
def test_a_label_that_is_no_integer_is_named(value, words):
    label_map = MAP.astype(np.float32)
    label_map[1, 1] = value
    with pytest.raises(ValueError, match=words):
        SMALL(image_like(MAP), label_map)
