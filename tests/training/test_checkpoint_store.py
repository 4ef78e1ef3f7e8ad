import contextlib
import errno
import json
import os

import pytest

from m2f.training.checkpoint_store import MANIFEST, CheckpointError, CheckpointStore, broken_because, save_folder


def fill(text: str = "weights"):
    def write(folder):
        (folder / "model.bin").write_text(text)
        (folder / "inner").mkdir()
        (folder / "inner" / "state.json").write_text("{}")

    return write


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path, said):
    return CheckpointStore(tmp_path / "checkpoints", keep=2, say=said.append)


@contextlib.contextmanager
def disk_of(limit: int):
    """No file can grow beyond `limit` bytes: writing fails as on a full disk, in every library."""
    resource = pytest.importorskip("resource")
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, former[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)


@pytest.mark.parametrize(
    ("number", "remedy"),
    [(errno.ENOSPC, "Make room"), (errno.EDQUOT, "Make room"), (errno.EACCES, "When that is mended")],
)
def test_room_is_the_remedy_for_a_full_disk_alone(store, number, remedy):
    def write(folder):
        raise OSError(number, os.strerror(number))

    with pytest.raises(CheckpointError) as error:
        store.save(1, write)
    text = str(error.value)
    assert os.strerror(number) in text and remedy in text and ("GiB free" in text) == (remedy == "Make room")
    assert ("Make room" in text) == (number != errno.EACCES) and text.endswith("again with the same command")


def names(store) -> list[str]:
    return sorted(path.name for path in store.folder.iterdir())


def test_what_is_saved_is_whole_and_the_latest(store):
    assert store.latest() is None
    path = store.save(3, fill())
    assert store.latest() == path == store.folder_of(3)
    assert (path / "model.bin").read_text() == "weights"
    assert broken_because(path) is None
    # sha256sum of the 7 bytes "weights".
    entry = json.loads((path / MANIFEST).read_text())["files"]["model.bin"]
    assert entry == {"size": 7, "sha256": "9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c"}


@pytest.mark.parametrize("damage", ["cut", "changed", "missing", "inner missing", "no manifest", "manifest cut"])
def test_a_broken_one_is_passed_over_with_a_message(store, said, damage):
    whole, broken = store.save(1, fill()), store.save(2, fill())
    file, manifest = broken / "model.bin", broken / MANIFEST
    {
        "cut": lambda: file.write_text("weig"),
        "changed": lambda: file.write_text("weightz"),
        "missing": file.unlink,
        "inner missing": (broken / "inner" / "state.json").unlink,
        "no manifest": manifest.unlink,
        "manifest cut": lambda: manifest.write_text(manifest.read_text()[:40]),
    }[damage]()
    assert store.latest() == whole
    expected = {
        "cut": "model.bin has 4 bytes instead of 7",
        "changed": "model.bin has changed",
        "missing": "model.bin is missing",
        "inner missing": "state.json is missing",
        "no manifest": "manifest.json is missing",
        "manifest cut": "manifest.json cannot be read",
    }[damage]
    assert len(said) == 1 and str(broken) in said[0] and expected in said[0]


def test_the_latest_are_kept_and_the_best(store):
    for step in range(1, 7):
        store.save(step, fill(), best_step=2 if step >= 2 else None)
    assert names(store) == ["step-00000002", "step-00000005", "step-00000006"]


def test_later_ones_go_when_the_run_went_back(store, said):
    """To a checkpoint before them, which is what they do not follow from any more; they also must not push it out."""
    for step in (10, 20):
        store.save(step, fill())
    store.save(15, fill())
    assert names(store) == ["step-00000010", "step-00000015"]
    assert "step-00000020 lies after" in said[0]


def test_a_process_that_dies_while_it_writes_leaves_nothing_that_counts(store):
    store.save(1, fill())

    def die(folder):
        (folder / "model.bin").write_text("wei")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.save(2, die)
    assert names(store) == ["step-00000001"]
    # One that had no time to clean up, and one that was removing.
    for name in (".writing-step-00000002", ".removed-step-00000000"):
        (store.folder / name).mkdir()
        (store.folder / name / "model.bin").write_text("wei")
    assert list(store.steps()) == [1]
    store.save(3, fill())
    assert names(store) == ["step-00000001", "step-00000003"]


def test_a_file_that_cannot_be_written_is_a_clear_message_and_keeps_the_earlier_ones(store):
    whole = store.save(1, fill())
    with pytest.raises(CheckpointError) as error, disk_of(1000):
        store.save(2, fill("w" * 2000))
    text = str(error.value)
    assert all(part in text for part in ("step 2", "File too large", f"the last whole checkpoint is {whole}"))
    assert names(store) == ["step-00000001"]
    assert store.latest() == whole


def test_a_full_disk_without_an_earlier_one(store):
    with pytest.raises(CheckpointError, match="there is no earlier checkpoint"), disk_of(1000):
        store.save(1, fill("w" * 2000))


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    save_folder(tmp_path / "a", fill("old"))
    with pytest.raises(OSError), disk_of(1000):
        save_folder(tmp_path / "a", fill("w" * 2000))
    assert (tmp_path / "a" / "model.bin").read_text() == "old"
    save_folder(tmp_path / "a", fill("new"))
    assert (tmp_path / "a" / "model.bin").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
