import json

import pytest

from m2f.evaluation.result_folder import RESULTS, ResultFolder, without_nan

ROWS = [{"class_id": 0, "name": "car", "PQ": 0.5}]


def finished(path) -> ResultFolder:
    folder = ResultFolder(path)
    folder.begin()
    folder.write_table("panoptic", ROWS, "PQ")
    (path / "semantic").mkdir()
    (path / "semantic" / "old.png").touch()
    folder.finish({"results": {"PQ": float("nan")}})
    return folder


def test_numbers_and_tables(tmp_path):
    finished(tmp_path / "a" / "b")
    record = json.loads((tmp_path / "a" / "b" / "results.json").read_text())
    assert record == {"program": "m2f val", "finished": True, "results": {"PQ": None}}
    names = sorted(path.name for path in (tmp_path / "a" / "b").iterdir())
    assert names == ["panoptic_classes.csv", "panoptic_classes.png", "results.json", "semantic"]


def test_results_are_not_overwritten_unless_told(tmp_path):
    finished(tmp_path)
    with pytest.raises(ValueError, match="results of an earlier evaluation.*--overwrite"):
        ResultFolder(tmp_path).begin()
    (tmp_path / "notes.txt").write_text("mine")
    ResultFolder(tmp_path, overwrite=True).begin()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "results.json"]
    assert json.loads((tmp_path / "results.json").read_text()) == {"program": "m2f val", "finished": False}


@pytest.mark.parametrize("content", [None, "no json", "[]", '{"step": 3}'])
def test_other_folders_are_never_touched(tmp_path, content):
    """Such as that of a training run, whose results.json is its own."""
    name = "model.safetensors" if content is None else "results.json"
    (tmp_path / name).write_text(content or "")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=f"files that m2f val did not write .{name}"):
            ResultFolder(tmp_path, overwrite).begin()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        ResultFolder(tmp_path / "file").begin()


def test_json_has_no_nan():
    assert without_nan({"a": [float("nan"), 1.0, {"b": (float("nan"), "x")}]}) == {
        "a": [None, 1.0, {"b": [None, "x"]}]
    }


def test_what_a_full_disk_leaves_of_the_first_file_is_in_nobodys_way(tmp_path):
    limits = pytest.importorskip("resource")
    former = limits.getrlimit(limits.RLIMIT_FSIZE)
    limits.setrlimit(limits.RLIMIT_FSIZE, (10, former[1]))
    try:
        with pytest.raises(OSError, match=RESULTS):
            ResultFolder(tmp_path).begin()
    finally:
        limits.setrlimit(limits.RLIMIT_FSIZE, former)
    assert list(tmp_path.iterdir())
    ResultFolder(tmp_path).begin()
    assert [path.name for path in tmp_path.iterdir()] == [RESULTS]
