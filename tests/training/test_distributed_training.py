"""One process, two processes and accumulation give the same training, to the rounding of float32 sums that are taken
in another order: 1e-5 of each loss over six steps. The loss samples the same points in all of them, because random
points depend on the batch that they are drawn for."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from shapes_run import MODULES_WITH_POINTS, fixed_points, shapes_run
from test_training_run import rows

from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation

PROGRAM = Path(__file__).with_name("shapes_run.py")
FIELDS = {"validation": True, "evaluate_every": 3, "ema_decay": 0.5, "keep": 9}


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    """The folder of a run of six steps in this process."""
    folder = tmp_path_factory.mktemp("one")
    with pytest.MonkeyPatch.context() as patch:
        for module in MODULES_WITH_POINTS:
            patch.setattr(f"{module}.uniform_points", fixed_points)
        shapes_run(folder, **FIELDS).run()
    return folder


def train_in_processes(folder, count: int, **fields) -> str:
    """The same, in processes that go on from a checkpoint in the folder. Gives their output."""
    with socket.socket() as listener:  # a port that is free now
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    command = [sys.executable, str(PROGRAM), str(folder), json.dumps({"fixed_points": True, **FIELDS, **fields})]
    shared = {"ACCELERATE_USE_CPU": "true", "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [
        subprocess.Popen(
            command,
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(count)
    ]
    outputs = [process.communicate(timeout=500)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * count, "\n".join(outputs)
    return "\n".join(outputs)


def numbers(folder, name: str) -> list[list[float]]:
    return [[float(value) for value in row.values()] for row in rows(folder, name)]


def assert_same_training(folder, expected):
    for name, tolerance in (("log.csv", {"rel": 1e-5}), ("evaluations.csv", {"abs": 1e-6})):
        for row, expected_row in zip(numbers(folder, name), numbers(expected, name), strict=True):
            assert row == pytest.approx(expected_row, nan_ok=True, **tolerance)
    weights, expected_weights = (load_file(path / "model.safetensors") for path in (folder, expected))
    for name, tensor in weights.items():
        # Where a gradient is 0 but for rounding, AdamW still steps by the learning rate, 1e-3, up or down.
        torch.testing.assert_close(tensor, expected_weights[name], atol=2e-3, rtol=0)
    distance = sum((weights[name] - expected_weights[name]).abs().sum() for name in weights)
    assert distance / sum(tensor.numel() for tensor in weights.values()) < 1e-5


def test_accumulation_is_the_whole_batch(one_process, tmp_path, monkeypatch):
    for module in MODULES_WITH_POINTS:
        monkeypatch.setattr(f"{module}.uniform_points", fixed_points)
    shapes_run(tmp_path, gradient_accumulation_steps=4, **FIELDS).run()
    assert_same_training(tmp_path, one_process)


def copy_run(source, folder, step: int):
    """A run as it was after a step."""
    name = f"step-{step:08d}"
    shutil.copytree(source / "checkpoints" / name, folder / "checkpoints" / name)
    for table in ("log.csv", "evaluations.csv"):  # of which the rows of later steps are written again
        shutil.copy(source / table, folder / table)


def test_two_processes_go_on_from_one_to_the_same_end(one_process, tmp_path):
    """Five images to evaluate on, so that the last batch is partial and one process has none left."""
    copy_run(one_process, tmp_path, 2)
    output = train_in_processes(tmp_path, 2)
    assert output.count("step-00000002, step 2 of 6") == 1  # the main process alone speaks
    assert "other processes than before: 1 -> 2" in output
    assert_same_training(tmp_path, one_process)
    # The random state of both processes is kept.
    states = json.loads((tmp_path / "checkpoints" / "step-00000006" / "random_states.json").read_text())
    assert len(states) == 2 and states[0]["torch"] != states[1]["torch"]


def test_sharded_processes_train_the_same_and_one_process_goes_on_from_them(one_process, tmp_path, monkeypatch):
    """FSDP2, each layer that transformers names on its own: from a checkpoint of one process to its end, and from its
    checkpoint in the middle on without it."""
    folder, alone = tmp_path / "sharded", tmp_path / "alone"
    for path in (folder, alone):
        path.mkdir()
    copy_run(one_process, folder, 2)
    output = train_in_processes(folder, 2, sharded=True)
    assert "FSDP is not used" not in output
    assert_same_training(folder, one_process)
    trained, expected = (M2FForUniversalSegmentation.from_pretrained(path) for path in (folder, one_process))
    assert trained.state_dict().keys() == expected.state_dict().keys()
    copy_run(folder, alone, 4)
    for module in MODULES_WITH_POINTS:
        monkeypatch.setattr(f"{module}.uniform_points", fixed_points)
    shapes_run(alone, **FIELDS).run()
    assert_same_training(alone, one_process)
