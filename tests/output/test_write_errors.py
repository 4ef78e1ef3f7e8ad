"""Errors of writing, as the system and the libraries raise them on a full disk: /dev/full is one."""

import errno
import os
from pathlib import Path

import pytest
from PIL import Image

from m2f.data.coco_writing import _save_png
from m2f.evaluation.class_table import write_class_csv
from m2f.evaluation.prediction_files import InstanceFile
from m2f.evaluation.result_folder import ResultFolder
from m2f.hub.remote_code import replace_text
from m2f.inference.output_names import write_whole
from m2f.modeling_m2f.kernels.kernel_cache import cached_file
from m2f.output.write_errors import is_full, naming
from m2f.training.loss_curves import Panel, draw_panels
from m2f.training.option_values import resolve_options, write_options
from m2f.training.training_log import CsvLog

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")


@needs_full
def test_a_full_disk_names_the_file(tmp_path, monkeypatch):
    """Each of the writers, with a link to /dev/full where it writes."""
    rows = [{"class": "a", "PQ": 0.5}]
    full = {name: tmp_path / name for name in ("rows.csv", "log.csv", "options.yaml", "curves.png", "x.png")}
    for path in full.values():
        path.symlink_to(FULL)
    for name in (".README.md.unfinished", ".results.json", "instances.json"):
        (tmp_path / name).symlink_to(FULL)
    log = CsvLog.__new__(CsvLog)
    log.path, log.columns = full["log.csv"], None
    with pytest.raises(OSError) as kernel:
        monkeypatch.setenv("M2F_CACHE", str(tmp_path / "cache"))
        cached_file("k", ".so", lambda path: FULL.write_text("x"))
    assert is_full(kernel.value) and "made.so" in str(kernel.value)
    for write, name in (
        (lambda: write_class_csv(rows, full["rows.csv"]), "rows.csv"),
        (lambda: log.append({"step": 1}), "log.csv"),
        (
            lambda: write_options(resolve_options({"data": "x", "model": "nuclei"}), full["options.yaml"]),
            "options.yaml",
        ),
        (lambda: draw_panels([Panel("loss", {"": [(0, 1), (1, 2)]})], full["curves.png"]), "curves.png"),
        (lambda: _save_png(_noise(), full["x.png"]), "x.png"),
        (lambda: replace_text(tmp_path / "README.md", "x"), "README.md"),
        (lambda: ResultFolder(tmp_path)._write({}), "results.json"),
        (lambda: InstanceFile(tmp_path, [1]).finish([]), "instances.json"),
        (lambda: write_whole(tmp_path / "a.png", lambda path: FULL.write_text("x")), "a.png"),
    ):
        with pytest.raises(OSError) as error:
            write()
        assert f"{tmp_path}/{name}" in str(error.value) and is_full(error.value), (name, str(error.value))
        assert error.value.errno == errno.ENOSPC


def _noise():
    import numpy as np

    return np.frombuffer(os.urandom(300 * 300 * 3), np.uint8).reshape(300, 300, 3)


def test_which_errors_are_of_a_full_disk(tmp_path):
    def chained(text):
        try:
            try:
                raise RuntimeError(text)
            except RuntimeError as error:
                raise OSError("the weights cannot be written") from error
        except OSError as error:
            return error

    assert is_full(OSError(errno.ENOSPC, "")) and is_full(OSError(errno.EDQUOT, ""))
    assert is_full(chained("I/O error: No space left on device (os error 28)"))
    assert not is_full(chained("Permission denied (os error 13)")) and not is_full(OSError(errno.EIO, "x"))
    with pytest.raises(OSError, match=f"cannot write {tmp_path}: encoder error"), naming(tmp_path):
        raise OSError("encoder error -2 when writing image file")
    with pytest.raises(FileNotFoundError, match="no_such"), naming(tmp_path):
        open(tmp_path / "no_such")
    assert Image  # Pillow is what raises the first
