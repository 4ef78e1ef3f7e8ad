import pytest
from shapes_dataset import shapes_options
from shapes_run import fresh_accelerate

from m2f.training.training_setup import make_accelerator


def test_a_tracker_that_is_not_installed_is_an_error(tmp_path):
    fresh_accelerate()
    with pytest.raises(ValueError, match="of the trackers swanlab only none can be used"):
        make_accelerator(shapes_options(tmp_path, log_with=("swanlab",)))


def test_precision_that_the_device_has_not_is_an_error(tmp_path):
    fresh_accelerate()
    with pytest.raises(ValueError, match="fp16 needs a GPU.*bfloat16 or float32"):
        make_accelerator(shapes_options(tmp_path, mixed_precision="fp16"))
