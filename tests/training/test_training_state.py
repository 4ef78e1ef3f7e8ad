import json
import os
import pickle

import pytest
import torch
from shapes_dataset import shapes_model, shapes_options, shapes_processor
from shapes_run import fresh_accelerate
from test_checkpoint_store import disk_of

from m2f.training.checkpoint_store import CheckpointError
from m2f.training.training_setup import make_accelerator, prepared_state
from m2f.training.training_state import AVERAGE, OPTIMIZER, PROGRESS, RANDOM_STATES, save_model, save_tensors


def state_of(tmp_path, model=None, **options):
    fresh_accelerate()
    options = shapes_options(tmp_path, **options)
    return prepared_state(options, model or shapes_model(), make_accelerator(options))


def update(state, seed: int):
    """A step with made gradients."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in state.model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    state.optimizer.step()
    state.optimizer.zero_grad()
    if state.average:
        state.average.update()


def copy_of(model):
    other = shapes_model(seed=1)
    other.load_state_dict(model.state_dict())
    return other


def test_optimizer_average_progress_and_random_numbers_go_on_bit_for_bit(tmp_path):
    one = state_of(tmp_path, ema_decay=0.9)
    for seed in range(3):
        update(one, seed)
    one.progress.step, one.progress.best_metric = 3, 1 / 3
    one.collect().write(tmp_path)
    numbers = torch.rand(4)
    other = state_of(tmp_path, copy_of(one.plain_model), ema_decay=0.9)
    other.restore(tmp_path)
    assert torch.equal(torch.rand(4), numbers)
    assert other.progress == one.progress
    update(one, 7)
    update(other, 7)
    for left, right in ((one.plain_model.state_dict(), other.plain_model.state_dict()),) + (
        (one.average.averages, other.average.averages),
    ):
        assert all(torch.equal(tensor, right[name]) for name, tensor in left.items())
    assert other.average.updates == 4


def test_learning_rates_are_those_of_todays_options(tmp_path):
    one = state_of(tmp_path, learning_rate=1e-3)
    update(one, 0)
    one.collect().write(tmp_path)
    other = state_of(tmp_path, learning_rate=5e-4, weight_decay=0.2)
    other.restore(tmp_path)
    groups = {group["name"]: group for group in other.optimizer.param_groups}
    assert (groups["head"]["lr"], groups["backbone"]["lr"]) == (5e-4, pytest.approx(5e-5))
    assert groups["head"]["weight_decay"] == 0.2


def test_the_gradient_scaler_goes_on(tmp_path):
    one = state_of(tmp_path)
    # Accelerate makes one for fp16 on a GPU alone; torch has it for a CPU too.
    one.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=128.0)
    one.collect().write(tmp_path)
    other = state_of(tmp_path)
    other.accelerator.scaler = torch.amp.GradScaler("cpu")
    other.restore(tmp_path)
    assert other.accelerator.scaler.get_scale() == 128.0


def test_nothing_in_a_checkpoint_is_pickled(tmp_path, monkeypatch):
    """Loading would run what a pickle says."""
    state = state_of(tmp_path, ema_decay=0.9)
    update(state, 0)
    state.collect().write(tmp_path)
    save_model(state.plain_model, state.model_weights(), shapes_processor(), tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}

    def refuse(*_, **__):
        raise AssertionError("something is unpickled")

    for module, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(module, name, refuse)
    state.restore(tmp_path)


@pytest.mark.parametrize("name", [OPTIMIZER, PROGRESS, RANDOM_STATES])
def test_a_missing_or_damaged_file_is_an_error_that_names_it(tmp_path, name):
    state = state_of(tmp_path)
    state.collect().write(tmp_path)
    (tmp_path / name).write_bytes(b"{")
    with pytest.raises(CheckpointError, match=f"{tmp_path.name} cannot be used"):
        state.restore(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(CheckpointError, match="No such file"):
        state.restore(tmp_path)


def test_progress_of_another_version_is_an_error(tmp_path):
    state = state_of(tmp_path)
    state.collect().write(tmp_path)
    (tmp_path / PROGRESS).write_text(json.dumps({"stepp": 1}))
    with pytest.raises(CheckpointError, match="stepp"):
        state.restore(tmp_path)


def test_a_checkpoint_without_an_average_cannot_give_one(tmp_path):
    state_of(tmp_path).collect().write(tmp_path)
    assert not (tmp_path / AVERAGE).exists()
    with pytest.raises(CheckpointError, match="without ema_decay"):
        state_of(tmp_path, ema_decay=0.9).restore(tmp_path)


def test_a_full_disk_is_an_oserror_in_every_library(tmp_path):
    with pytest.raises(OSError, match="a.safetensors"), disk_of(1000):
        save_tensors({"a": torch.zeros(1000)}, tmp_path / "a.safetensors")
    state = state_of(tmp_path)
    with pytest.raises(OSError, match="the weights"), disk_of(10_000):
        save_model(state.plain_model, state.model_weights(), shapes_processor(), tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="needs modes of files")
def test_tensors_may_be_read_by_whom_the_umask_lets(tmp_path):
    former = os.umask(0o027)
    try:
        save_tensors({"a": torch.zeros(2)}, tmp_path / "a.safetensors")
    finally:
        os.umask(former)
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == 0o640
