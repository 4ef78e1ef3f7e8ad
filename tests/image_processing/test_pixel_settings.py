"""Settings of the pixels that cannot be worked with, and those given as None."""

import json

import numpy as np
import pytest

from m2f.image_processing.image_processing_m2f import M2FImageProcessor

IMAGE = np.full((10, 20, 3), 255, np.uint8)
SMALL = {"size": {"height": 5, "width": 6}, "size_divisor": 1}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_mean": [0.5, 0.5]}, r"image_mean has 2 values, but the images have 3 channels"),
        ({"image_std": [0.5] * 4}, r"image_std has 4 values, but the images have 3 channels"),
        ({"image_mean": []}, r"image_mean has 0 values"),
        ({"image_mean": [0.5, float("nan"), 0.5]}, r"image_mean must hold finite numbers"),
        ({"image_std": [0.5, 0.0, 0.5]}, r"image_std must be positive"),
        ({"image_std": -0.5}, r"image_std must be positive"),
        ({"rescale_factor": 0.0}, r"rescale_factor must be a positive number, got 0"),
        ({"rescale_factor": float("inf")}, r"rescale_factor must be a positive number, got inf"),
        ({"size_divisor": -32}, r"size_divisor must be a whole number.* got -32"),
    ],
)
def test_numbers_that_pixels_cannot_be_made_with_are_named(settings, message):
    """When the processor is made, and when it is called."""
    with pytest.raises(ValueError, match=message):
        M2FImageProcessor(**settings)
    with pytest.raises(ValueError, match=message):
        M2FImageProcessor()(IMAGE, **settings)


def test_numbers_of_a_step_that_is_off_are_not_read():
    off = {"do_normalize": False, "do_rescale": False}
    processor = M2FImageProcessor(image_mean=[0.5, 0.5], rescale_factor=0, **off, **SMALL)
    assert processor(IMAGE, return_tensors="np")["pixel_values"].max() == 255


def test_one_number_stands_for_all_channels():
    values = [M2FImageProcessor(image_mean=m, image_std=m, **SMALL)(IMAGE)["pixel_values"][0] for m in (0.5, [0.5])]
    assert (values[0] == 1).all() and (values[1] == 1).all()


@pytest.mark.parametrize("step", ["do_resize", "do_rescale", "do_normalize"])
def test_a_step_given_as_none_is_off_and_stays_so_in_the_file(step, tmp_path):
    """As in transformers' processors, whose common tests ask for it."""
    processor = M2FImageProcessor(**{**SMALL, step: None})
    assert processor.to_dict()[step] is None
    processor.save_pretrained(tmp_path)
    loaded = M2FImageProcessor.from_pretrained(tmp_path)
    assert getattr(loaded, step) is None
    off = M2FImageProcessor(**SMALL)(IMAGE, **{step: False})["pixel_values"][0]
    for made in (loaded(IMAGE), M2FImageProcessor(**SMALL)(IMAGE, **{step: None})):
        assert (made["pixel_values"][0] == off).all()


@pytest.mark.parametrize("name", ["image_mean", "image_std", "rescale_factor", "resample"])
def test_a_value_given_as_none_is_asked_for_by_the_step_that_needs_it(name):
    with pytest.raises(ValueError, match="must.* be specified"):
        M2FImageProcessor(**{name: None})(IMAGE)


def test_every_other_field_given_as_none_is_its_default(tmp_path):
    """Files of transformers' former fast processors hold null for all that their class has no value for."""
    default = M2FImageProcessor()
    kept = {"do_resize", "do_rescale", "do_normalize", "image_mean", "image_std", "rescale_factor", "resample"}
    fields = {name: None for name in default.valid_kwargs.__annotations__ if name not in kept}
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({**fields, "image_processor_type": "Mask2FormerImageProcessorFast"})
    )
    for processor in (M2FImageProcessor(**fields), M2FImageProcessor.from_pretrained(tmp_path)):
        assert processor.to_dict() == default.to_dict()
    grey = IMAGE[:, :, 0]
    called = default(grey, **{**fields, "return_tensors": "np"})
    assert (called["pixel_values"] == default(grey, return_tensors="np")["pixel_values"]).all()
