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


def train_in_processes(folder, count: int) -> str:
    """The same, in processes that go on from a checkpoint in the folder. Gives their output."""
    with socket.socket() as listener:  # a port that is free now
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    command = [sys.executable, str(PROGRAM), str(folder), json.dumps({"fixed_points": True, **FIELDS})]
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


def test_two_processes_go_on_from_one_to_the_same_end(one_process, tmp_path):
    """Five images to evaluate on, so that the last batch is partial and one process has none left."""
    (tmp_path / "checkpoints").mkdir()
    shutil.copytree(one_process / "checkpoints" / "step-00000002", tmp_path / "checkpoints" / "step-00000002")
    log = (one_process / "log.csv").read_text().splitlines(keepends=True)
    (tmp_path / "log.csv").write_text("".join(log[:3]))
    output = train_in_processes(tmp_path, 2)
    assert output.count("step-00000002, step 2 of 6") == 1  # the main process alone speaks
    assert "other processes than before: 1 -> 2" in output
    assert_same_training(tmp_path, one_process)
    # The random state of both processes is kept.
    states = json.loads((tmp_path / "checkpoints" / "step-00000006" / "random_states.json").read_text())
    assert len(states) == 2 and states[0]["torch"] != states[1]["torch"]
