"""One run at a time in a folder, with real processes: a lock is the system's, and a process may take its own twice."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from m2f.output.folder_lock import LOCK_FILE, FolderBusyError, locked_folder

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import os, sys, time
from m2f.output.folder_lock import locked_folder
with locked_folder(sys.argv[1]):
    if os.fork() == 0:  # a worker, which must not hold the lock after a kill
        os.close(1)
        time.sleep(20)
        os._exit(0)
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path):
    """Another process that holds the lock of the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path / "out"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdout.readline() == "locked\n"
    yield process
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_folder_is_one_runs_until_its_end(other, tmp_path):
    with pytest.raises(FolderBusyError, match=rf"another run \(process {other.pid} on .*\) is writing to .*out; wait"):
        with locked_folder(tmp_path / "out"):
            raise AssertionError("it was given to two")
    other.stdin.close()
    other.wait()
    with locked_folder(tmp_path / "out"):
        assert f"process {os.getpid()} on" in (tmp_path / "out" / LOCK_FILE).read_text()
    assert list(tmp_path.iterdir()) == []  # it was the first one's, and is empty


def test_folders_that_it_made_stay_if_something_was_written(tmp_path):
    with locked_folder(tmp_path / "new" / "out"):
        pass
    assert list(tmp_path.iterdir()) == []
    with locked_folder(tmp_path / "new" / "out"):
        (tmp_path / "new" / "out" / "log.csv").write_text("step")
    assert (tmp_path / "new" / "out" / "log.csv").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_run_leaves_no_lock(other, tmp_path):
    other.kill()
    other.wait()
    assert (tmp_path / "out" / LOCK_FILE).exists()
    with locked_folder(tmp_path / "out"):
        pass


def test_a_link_in_its_place_is_not_followed(tmp_path):
    (tmp_path / "private").write_text("text")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / LOCK_FILE).symlink_to(tmp_path / "private")
    with pytest.raises(OSError), locked_folder(tmp_path / "out"):
        pass
    assert (tmp_path / "private").read_text() == "text"


def test_an_error_releases_it(tmp_path):
    with pytest.raises(RuntimeError), locked_folder(tmp_path):
        raise RuntimeError
    assert not (tmp_path / LOCK_FILE).exists()
