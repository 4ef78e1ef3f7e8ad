"""A run that is killed at a random moment and started again."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from shapes_run import shapes_run
from test_training_run import rows

PROGRAM = Path(__file__).with_name("shapes_run.py")
FIELDS = {
    "validation": True,
    "max_steps": 20,
    "evaluate_every": 4,
    "checkpoint_every": 2,
    "log_every": 3,
    "workers": 1,
}
KILLS = 1


def start(folder) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), str(folder), json.dumps(FIELDS)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # a group of its own, so that its workers die with it
    )


def wait_for_progress(process: subprocess.Popen):
    """Until its first row since it was started, so that each kill meets another part of the run."""
    for line in process.stdout:
        if line.startswith("step "):
            return


def test_kill_at_any_moment_and_the_run_goes_on_to_the_same_numbers_bit_for_bit(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    shapes_run(whole, **FIELDS).run()
    delays = random.Random(os.getpid())  # other moments in each run of the tests
    for _ in range(KILLS):
        process = start(killed)
        wait_for_progress(process)
        time.sleep(delays.uniform(0, 0.3))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=500)
        assert process.returncode == -signal.SIGKILL
    process = start(killed)
    output = process.communicate(timeout=500)[0]
    assert process.returncode == 0, output
    assert rows(killed) == rows(whole)
    assert rows(killed, "evaluations.csv") == rows(whole, "evaluations.csv")
    for name in ("model.safetensors", "checkpoints/step-00000020/optimizer.safetensors"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
    assert not [path for path in (killed / "checkpoints").iterdir() if path.name.startswith(".")]
