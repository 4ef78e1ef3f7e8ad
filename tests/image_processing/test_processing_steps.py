"""The processor's single steps. Expected: what `preprocess` makes of the same images, and what transformers' methods
of these names return."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.mask2former.image_processing_pil_mask2former import (
    Mask2FormerImageProcessorPil,
    convert_segmentation_map_to_binary_masks,
)

from m2f.image_processing.image_processing_m2f import M2FImageProcessor

RANDOM = np.random.default_rng(0)
IMAGE = RANDOM.integers(0, 256, (3, 21, 34), dtype=np.uint8)
SIZE = {"shortest_edge": 16, "longest_edge": 40}
PLAIN = {"do_rescale": False, "do_normalize": False, "do_pad": False, "size_divisor": 1, "size": SIZE}


@pytest.fixture(scope="module")
def processor() -> M2FImageProcessor:
    return M2FImageProcessor(**PLAIN)


@pytest.fixture(scope="module")
def theirs() -> Mask2FormerImageProcessorPil:
    return Mask2FormerImageProcessorPil()


def test_resize_makes_the_pixels_that_preprocess_makes_in_the_form_that_came_in(processor):
    expected = processor(IMAGE, input_data_format="channels_first", return_tensors="np")["pixel_values"][0]
    array = processor.resize(IMAGE, SIZE)
    tensor = processor.resize(torch.from_numpy(IMAGE)[None], processor.size)
    image = processor.resize(Image.fromarray(IMAGE.transpose(1, 2, 0)), SIZE)
    assert array.dtype == np.uint8 and tensor.dtype == torch.uint8 and image.size == (26, 16)  # 34 * 16 / 21 = 25.9
    for result in (array, tensor[0].numpy(), np.asarray(image).transpose(2, 0, 1)):
        assert np.array_equal(result, expected)
    floats = processor.resize(IMAGE.astype(np.float32), SIZE)
    assert floats.dtype == np.float32 and abs(floats - expected).max() <= 1  # not rounded in between


def test_resize_stretches_to_a_divisor_and_keeps_large_ids(processor):
    ids = np.full((21, 34), 70_000, np.int64)
    assert processor.resize(IMAGE, SIZE, size_divisor=32).shape == (3, 32, 32)
    resized = processor.resize(ids, {"height": 4, "width": 5}, resample=Image.Resampling.NEAREST)
    assert resized.dtype == np.int64 and (resized == 70_000).all() and resized.shape == (4, 5)


def test_pad_returns_what_transformers_pad_does(processor, theirs):
    maps = [RANDOM.integers(0, 9, (2, 21, 34))]
    ours = processor.pad([IMAGE], (24, 40), segmentation_maps=maps, fill=7, ignore_index=200)
    expected = theirs.pad([IMAGE], (24, 40), segmentation_maps=maps, fill=7, ignore_index=200)
    for one, other in zip(ours, expected, strict=True):
        assert np.array_equal(one[0], other[0]) and one[0].dtype == other[0].dtype
    images, masks, nothing = processor.pad(torch.from_numpy(IMAGE)[None], (24, 40), fill=7)
    assert np.array_equal(images[0], expected[0][0]) and np.array_equal(masks[0], expected[1][0]) and nothing is None
    with pytest.raises(ValueError, match=r"21 x 34 pixels .* do not fit into padded_size 20 x 40"):
        processor.pad([IMAGE], (20, 40))


def test_rescale_and_normalize_makes_the_values_that_preprocess_makes():
    processor = M2FImageProcessor(do_resize=False, do_pad=False)
    expected = processor(IMAGE, input_data_format="channels_first", return_tensors="pt")["pixel_values"]
    settings = (True, processor.rescale_factor, True, processor.image_mean, processor.image_std)
    for image in (torch.from_numpy(IMAGE)[None], IMAGE):
        result = processor.rescale_and_normalize(image, *settings)
        assert result.shape == (expected.shape if isinstance(image, torch.Tensor) else expected.shape[1:])
        torch.testing.assert_close(torch.as_tensor(result).view_as(expected), expected)
        untouched = processor.rescale_and_normalize(image, False, None, False, None, None)
        assert (torch.as_tensor(untouched) == torch.as_tensor(image)).all()


def test_encode_inputs_pads_and_makes_targets_of_what_is_processed_already():
    values = [RANDOM.normal(size=(3, 10, 12)).astype(np.float32), RANDOM.normal(size=(3, 8, 15)).astype(np.float32)]
    maps = [np.full((10, 12), 3), np.full((8, 15), 4)]
    classes_of = [{3: 1}, {4: 2}]
    encoded = M2FImageProcessor().encode_inputs(values, maps, classes_of, return_tensors="pt")
    assert encoded["pixel_values"].shape == (2, 3, 10, 15)
    assert np.array_equal(encoded["pixel_values"][1, :, :8], values[1])
    assert encoded["pixel_mask"].sum((1, 2)).tolist() == [120, 120]
    assert [classes.tolist() for classes in encoded["class_labels"]] == [[1], [2]]


@pytest.mark.parametrize("classes_of", [None, {id_: id_ % 3 + 1 for id_ in range(6)}])
def test_binary_masks_of_a_map_are_those_of_transformers(processor, classes_of):
    label_map = RANDOM.integers(1, 6, (9, 11))
    ours = processor.convert_segmentation_map_to_binary_masks(label_map, classes_of, ignore_index=5)
    theirs = convert_segmentation_map_to_binary_masks(label_map, classes_of, ignore_index=5)
    for one, other in zip(ours, theirs, strict=True):
        assert np.array_equal(one, other) and one.dtype == other.dtype
