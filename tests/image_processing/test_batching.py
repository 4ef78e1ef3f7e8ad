"""Batches that several threads prepare, and the one pass over 8-bit pixels."""

import numpy as np
import pytest
import torch
from PIL import Image

from m2f.image_processing.image_loading import _load_one_image
from m2f.image_processing.image_processing_m2f import M2FImageProcessor

pytest_plugins = ("thread_counts",)

RNG = np.random.default_rng(0)
IMAGES = [
    RNG.integers(0, 256, (48, 64, 3), dtype=np.uint8),
    Image.fromarray(RNG.integers(0, 256, (70, 40, 3), dtype=np.uint8)),
    RNG.integers(0, 65536, (33, 50), dtype=np.uint16),
    Image.fromarray(RNG.integers(0, 256, (30, 55), dtype=np.uint8)),
    (255 * RNG.random((40, 41, 3))).astype(np.float32),
]


@pytest.mark.parametrize("kernels", ["auto", "reference"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"do_normalize": False},
        {"do_rescale": False},
        {"do_rescale": False, "do_normalize": False},
        {"rescale_factor": 1 / 127, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.7, 0.8, 0.9]},
    ],
)
def test_pixels_are_those_of_the_single_steps(thread_count, kernels, settings, monkeypatch):
    """Bit for bit: float32, times the factor, minus the mean, divided by the deviation, each rounded."""
    monkeypatch.setenv("M2F_KERNELS", kernels)
    processor = M2FImageProcessor(size=37, **settings)
    batch = processor(IMAGES, return_tensors="pt")
    plain = M2FImageProcessor(size=37, do_rescale=False, do_normalize=False)(IMAGES, return_tensors="pt")
    for index in range(len(IMAGES)):
        mask = batch["pixel_mask"][index].bool()
        expected = plain["pixel_values"][index][:, mask]
        if processor.do_rescale:
            expected = expected * processor.rescale_factor
        if processor.do_normalize:
            mean, std = (torch.tensor(x)[:, None] for x in (processor.image_mean, processor.image_std))
            expected = (expected - mean) / std
        assert torch.equal(batch["pixel_values"][index][:, mask], expected)
        assert not batch["pixel_values"][index][:, ~mask].any()


def test_each_image_of_a_batch_is_its_own(thread_count):
    processor = M2FImageProcessor(size=37, pad_size={"height": 96, "width": 96})
    batch = processor(IMAGES * 3, return_tensors="pt")
    for index, image in enumerate(IMAGES * 3):
        alone = processor(image, return_tensors="pt")
        for name in batch:
            assert torch.equal(batch[name][index], alone[name][0])
    # lists hold tensors of their own, not parts of one
    lists = processor(IMAGES, return_tensors=None)
    assert all(x.untyped_storage().nbytes() == 4 * x.numel() for x in lists["pixel_values"])


def test_an_image_given_twice_is_decoded_once(thread_count, tmp_path, monkeypatch):
    """Two threads must not decode the same PIL image."""
    Image.fromarray(RNG.integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(tmp_path / "a.jpg")
    opened, path, loaded = Image.open(tmp_path / "a.jpg"), tmp_path / "a.jpg", []  # opened, but not decoded yet

    def load(image, **options):
        loaded.append(image)
        return _load_one_image(image, **options)

    monkeypatch.setattr("m2f.image_processing.image_loading._load_one_image", load)
    batch = M2FImageProcessor(size=50)([opened, opened, path] * 4, return_tensors="pt")["pixel_values"]
    assert all(torch.equal(item, batch[0]) for item in batch)
    assert loaded == [opened, path] or loaded == [path, opened]


def test_the_first_bad_image_is_named(thread_count, tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"no image")
    with pytest.raises(ValueError, match="a.png"):
        M2FImageProcessor()([IMAGES[0], tmp_path / "a.png", tmp_path / "b.png"])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_bits():
    processor = M2FImageProcessor(size=37)
    expected, found = (processor(IMAGES, return_tensors="pt", device=device) for device in ("cpu", "cuda"))
    for name in expected:
        assert found[name].is_cuda and torch.equal(found[name].cpu(), expected[name])
