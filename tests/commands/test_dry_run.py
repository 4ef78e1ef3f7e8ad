"""`--dry-run` says what would be done and leaves the disk as it is; `predict` and `push` have theirs elsewhere."""

from pathlib import Path

import pytest
from accelerate.state import AcceleratorState
from small_models import small_model

from m2f.cli import main
from m2f.image_processing.image_processing_m2f import M2FImageProcessor

NUCLEI = Path(__file__).parents[2] / "examples" / "nuclei"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    small_model(task="instance", num_labels=1, id2label={0: "nucleus"}).save_pretrained(folder)
    M2FImageProcessor(task="instance").save_pretrained(folder)
    return folder


@pytest.fixture
def dry_run(tmp_path, monkeypatch, capsys):
    """Runs a command in an empty folder with --dry-run: what it says, after a look at the folder."""
    monkeypatch.chdir(tmp_path)

    def run(*words) -> str:
        AcceleratorState._reset_state(reset_partial_state=True)
        before = state_of(tmp_path)
        assert main([*map(str, words), "--dry-run"]) == 0
        assert state_of(tmp_path) == before
        return "".join(capsys.readouterr())

    return run


def state_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Every path in a folder with its size and time."""
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


def test_train(checkpoint, dry_run):
    said = dry_run("train", "--data", NUCLEI, "--model", checkpoint, "--cpu", "--max-steps=7", "--output=run")
    assert "would train 7 steps of 8 of 32 images, and evaluate on 8 every 500 steps" in said
    assert f"would start from {checkpoint}" in said and "would be written into run" in said


def test_val(checkpoint, dry_run, tmp_path):
    words = ("val", checkpoint, NUCLEI, "--cpu", "--workers=0", "--output=results")
    said = dry_run(*words)
    assert f"would measure instance of {checkpoint} on 8 images" in said and "written into results" in said
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "mine.txt").write_text("")
    AcceleratorState._reset_state(reset_partial_state=True)
    assert main([*map(str, words), "--dry-run"]) == 2  # as it would without


def test_convert(checkpoint, dry_run):
    assert "would write theirs: a checkpoint of transformers" in dry_run("convert", checkpoint, "theirs")


def test_check(dry_run):
    said = dry_run("check", NUCLEI, "--split=val", "--sheet-images=2", "--json", "report.json")
    assert "would write contact sheet: m2f_check.png" in said and "would write report: report.json" in said


def test_bench(dry_run):
    words = ("--size", "64x96", "--dtype", "float32", "--batch-size", "2", "--stage", "model", "--form", "ours")
    said = dry_run("bench", "--cpu", *words, "--output", "speed.json")
    assert "would time ours: swin-tiny 64x96 batch 2 float32 on cpu: model" in said
    assert "written to speed.json and speed.png" in said
