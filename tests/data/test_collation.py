import numpy as np
import torch
from PIL import Image

from m2f.data.coco_instances import InstanceSample
from m2f.data.collation import InstanceCollator, resize_masks_nearest
from m2f.image_processing.image_processing_m2f import M2FImageProcessor


def make_sample(height: int, width: int, count: int) -> InstanceSample:
    generator = np.random.default_rng(height)
    masks = generator.integers(0, 2, (count, height, width), dtype=np.uint8)
    return InstanceSample(Image.new("RGB", (width, height)), masks, np.arange(count), 0)


def test_masks_stand_where_the_pixels_stand():
    """Two sizes in one batch; the canvas is 64 x 96, the largest of each rounded up to 32, masks in its top left."""
    samples = [make_sample(40, 96, 2), make_sample(64, 33, 0)]
    batch = InstanceCollator(M2FImageProcessor(do_resize=False))(samples)
    assert list(batch) == ["pixel_values", "pixel_mask", "mask_labels", "class_labels"]
    assert batch["pixel_values"].shape == (2, 3, 64, 96)
    assert [tuple(masks.shape) for masks in batch["mask_labels"]] == [(2, 64, 96), (0, 64, 96)]
    np.testing.assert_array_equal(batch["mask_labels"][0][:, :40], samples[0].masks)
    assert batch["mask_labels"][0].dtype == torch.uint8 and not batch["mask_labels"][0][:, 40:].any()
    assert batch["class_labels"][0].tolist() == [0, 1]
    assert batch["class_labels"][1].dtype == torch.int64


def test_masks_are_resized_with_their_image():
    """The image is shrunk from 40 x 80 to 20 x 40; nearest neighbours of PIL give the expected masks."""
    sample = make_sample(40, 80, 3)
    batch = InstanceCollator(M2FImageProcessor(size={"shortest_edge": 20}))([sample])
    expected = [np.asarray(Image.fromarray(mask).resize((40, 20), Image.Resampling.NEAREST)) for mask in sample.masks]
    assert batch["pixel_mask"][0, :20, :40].all()
    np.testing.assert_array_equal(batch["mask_labels"][0][:, :20, :40], np.stack(expected))


def test_nearest_is_that_of_pil():
    masks = make_sample(37, 53, 2).masks
    for height, width in ((37, 53), (80, 19), (5, 200)):
        expected = [
            np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST)) for mask in masks
        ]
        np.testing.assert_array_equal(resize_masks_nearest(masks, (height, width)), np.stack(expected))
