import pytest
from accelerate.utils import DistributedType
from shapes_dataset import shapes_options
from shapes_run import fresh_accelerate

from m2f.training.training_setup import make_accelerator, sharding_remarks


def test_a_tracker_that_is_not_installed_is_an_error(tmp_path):
    fresh_accelerate()
    with pytest.raises(ValueError, match="of the trackers swanlab only none can be used"):
        make_accelerator(shapes_options(tmp_path, log_with=("swanlab",)))


def test_precision_that_the_device_has_not_is_an_error(tmp_path):
    fresh_accelerate()
    with pytest.raises(ValueError, match="fp16 needs a GPU.*bfloat16 or float32"):
        make_accelerator(shapes_options(tmp_path, mixed_precision="fp16"))


def test_sharding_that_accelerate_leaves_out_is_said(tmp_path, monkeypatch):
    """What `accelerate launch --use_fsdp --fsdp_version 2` says to the processes that it starts."""
    fresh_accelerate()
    accelerator = make_accelerator(shapes_options(tmp_path))
    assert sharding_remarks(accelerator) == []
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    (line,) = sharding_remarks(accelerator)
    assert "FSDP is not used" in line and "1 on cpu, each with the whole model" in line
    accelerator.state.distributed_type = DistributedType.FSDP
    assert sharding_remarks(accelerator) == []
