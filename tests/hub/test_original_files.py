"""Checkpoint files in the formats of the original and of those who passed its weights on."""

import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from m2f.hub.original_files import read_original_checkpoint

WEIGHTS = {"backbone.norm0.weight": np.arange(4, dtype=np.float32), "criterion.empty_weight": np.ones(3, np.float16)}
# As detectron2 writes them: model zoo files, training checkpoints, flat files.
WRAPPERS = {
    "zoo": lambda weights: {"model": weights, "__author__": "x", "matching_heuristics": True},
    "training": lambda weights: {"model": weights, "optimizer": {"state": {}, "param_groups": []}, "iteration": 7},
    "nested": lambda weights: {"state_dict": {"model": weights}},
    "flat": lambda weights: {**weights, "__author__": "x"},
    "plain": OrderedDict,
}


def write(path, checkpoint):
    if path.suffix == ".pkl":
        path.write_bytes(pickle.dumps(checkpoint))
    else:
        torch.save(checkpoint, path)


def tensors() -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value) for name, value in WEIGHTS.items()}


def check(weights):
    assert list(weights) == list(WEIGHTS)
    for name, value in WEIGHTS.items():
        assert weights[name].dtype == torch.from_numpy(value).dtype
        np.testing.assert_array_equal(weights[name].numpy(), value)


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("ending", [".pkl", ".pth", ".pt", ".bin"])
def test_weights_are_found(ending, wrapper, tmp_path):
    path = tmp_path / f"model_final{ending}"
    write(path, WRAPPERS[wrapper](WEIGHTS if ending == ".pkl" else tensors()))
    check(read_original_checkpoint(path))
    check(read_original_checkpoint(str(path)))


def test_safetensors_are_read(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(tensors(), path)
    check(read_original_checkpoint(path))


class Attack:
    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("ending", [".pkl", ".pth", ".pt", ".bin"])
def test_file_that_asks_for_code_is_refused(ending, tmp_path):
    path, target = tmp_path / f"model{ending}", tmp_path / "written"
    write(path, {"model": {**(WEIGHTS if ending == ".pkl" else tensors()), "x": Attack(target)}})
    with pytest.raises(ValueError, match="(posix|nt).system") as error:
        read_original_checkpoint(path)
    assert str(path) in str(error.value)
    assert "weights_only" not in str(error.value)  # torch's advice to load it all the same
    assert not target.exists()
    # The attack is one: the readers that run code carry it out.
    pickle.loads(path.read_bytes()) if ending == ".pkl" else torch.load(path, weights_only=False)
    assert target.exists()


@pytest.mark.parametrize("ending", [".pkl", ".pth", ".safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_cut_file_is_refused_with_its_path(ending, share, tmp_path):
    path = tmp_path / f"model{ending}"
    if ending == ".safetensors":
        save_file(tensors(), path)
    else:
        write(path, {"model": WEIGHTS if ending == ".pkl" else tensors()})
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ValueError, match="cut off or foreign") as error:
        read_original_checkpoint(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("ending", [".pkl", ".pth", ".safetensors"])
@pytest.mark.parametrize("data", [b"<html>not found</html>", b"\x89PNG\r\n\x1a\n" + bytes(64), bytes(100)])
def test_foreign_file_is_refused_with_its_path(ending, data, tmp_path):
    path = tmp_path / f"model{ending}"
    path.write_bytes(data)
    with pytest.raises(ValueError, match="cut off or foreign") as error:
        read_original_checkpoint(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        ([1, 2], "holds no weights: expected names with arrays, found a list"),
        (np.ones(3), "found a ndarray"),
        ({"model": {}}, "holds no weights"),
        ({"blobs": {"x": 1}, "lr": 0.1}, r"no arrays, so it is no checkpoint: blobs \(dict\), lr \(float\)"),
        ({0: np.ones(3)}, r"0 \(ndarray\)"),
    ],
)
def test_file_without_weights_is_refused(checkpoint, message, tmp_path):
    path = tmp_path / "model.pkl"
    write(path, checkpoint)
    with pytest.raises(ValueError, match=message):
        read_original_checkpoint(path)


def test_missing_file_and_unknown_ending_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint file .*model.pkl"):
        read_original_checkpoint(tmp_path / "model.pkl")
    with pytest.raises(
        ValueError, match=r"ends in '.onnx'; the formats known are .pkl, .safetensors, .pth, .pt, .bin"
    ):
        read_original_checkpoint(tmp_path / "model.onnx")
