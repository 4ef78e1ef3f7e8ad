"""Rows in parquet files, in folders of `save_to_disk`, in memory and on the Hub."""

import io
import json

import datasets
import numpy as np
import pytest
from PIL import Image
from small_rows import BLOB, IMAGE, LABELS, rows_of

from m2f.data.dataset_rows import DatasetRows
from m2f.data.huggingface_datasets import is_hub_name, is_rows, load_rows, parquet_files, row_splits, rows_folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """What parquet files are converted to stays in the test's folder."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def test_parquet_files(tmp_path):
    rows = rows_of(image=[IMAGE], label=[Image.fromarray(LABELS)])
    (tmp_path / "data").mkdir()
    for name in ("train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001"):
        rows.to_parquet(tmp_path / "data" / f"{name}.parquet")
    assert row_splits(tmp_path) == ["train", "validation"]
    assert [len(files) for files in parquet_files(tmp_path).values()] == [2, 1]
    assert len(load_rows(tmp_path, "train")) == 2
    file = tmp_path / "data" / "validation-00000-of-00001.parquet"
    assert row_splits(file) == ["validation"] and rows_folder(file) == tmp_path / "data"
    dataset = DatasetRows(load_rows(file, "validation"), "validation")
    np.testing.assert_array_equal(dataset[0].segments.masks()[2], BLOB)


def test_parquet_without_a_word_about_images(tmp_path):
    """As pandas writes it: the columns are structs of bytes and path."""
    import pyarrow
    import pyarrow.parquet

    encoded = []
    for image in (IMAGE, Image.fromarray(LABELS)):
        content = io.BytesIO()
        image.save(content, "png")
        encoded.append({"bytes": content.getvalue(), "path": "a.png"})
    table = pyarrow.table({"image": [encoded[0]], "mask": [encoded[1]]})
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    assert row_splits(tmp_path / "x.parquet") == ["train"]
    dataset = DatasetRows(load_rows(tmp_path / "x.parquet", "train"))
    np.testing.assert_array_equal(dataset[0].segments.masks()[2], BLOB)


def test_paths_in_parquet_stay_in_its_folder(tmp_path):
    inner, outer = tmp_path / "inner", tmp_path / "outer.png"
    inner.mkdir()
    for path in (inner / "a.png", outer):
        Image.fromarray(LABELS).save(path)
    feature = datasets.Features({"image": datasets.Image(), "label": datasets.Image()})

    def rows(path):
        entry = {"bytes": None, "path": str(path)}
        return datasets.Dataset.from_list([{"image": entry, "label": entry}], features=feature)

    assert DatasetRows(rows(inner / "a.png"), folder=inner)[0].segments.size == (4, 5)
    with pytest.raises(ValueError, match=r"row 0.* names the file '.*outer\.png', which is outside"):
        DatasetRows(rows(outer), folder=inner)
    assert DatasetRows(rows(outer))[0].segments.size == (4, 5)


def test_folders_of_save_to_disk(tmp_path):
    rows = rows_of(image=[IMAGE], label=[Image.fromarray(LABELS)])
    rows.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=rows, valid=rows).save_to_disk(tmp_path / "two")
    assert row_splits(tmp_path / "one") == ["train"] and row_splits(tmp_path / "two") == ["train", "valid"]
    for folder, split in (("one", "train"), ("two", "valid")):
        assert DatasetRows(load_rows(tmp_path / folder, split), split)[0].segments.size == (4, 5)
        assert rows_folder(tmp_path / folder) is None
    (tmp_path / "two" / "dataset_dict.json").write_text(json.dumps({"splits": ["../one"]}))
    with pytest.raises(ValueError, match=r"dataset_dict\.json names the file '\.\./one', which is outside"):
        row_splits(tmp_path / "two")
    (tmp_path / "two" / "dataset_dict.json").write_text("{}")
    with pytest.raises(ValueError, match="dataset_dict.json has no list 'splits'"):
        row_splits(tmp_path / "two")


def test_damaged_files_are_named(tmp_path):
    rows_of(image=[IMAGE], label=[Image.fromarray(LABELS)]).save_to_disk(tmp_path / "disk")
    for name in ("state.json", "data-00000-of-00001.arrow"):
        content = (tmp_path / "disk" / name).read_bytes()
        (tmp_path / "disk" / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(ValueError, match="cannot read .*disk as a folder of save_to_disk"):
            load_rows(tmp_path / "disk", "train")
        (tmp_path / "disk" / name).write_bytes(content)
    (tmp_path / "x.parquet").write_bytes(b"PAR1 is not enough")
    with pytest.raises(ValueError, match=r"cannot read .*x\.parquet as parquet"):
        load_rows(tmp_path / "x.parquet", "train")


def test_datasets_in_memory():
    rows = rows_of(image=[IMAGE], label=[Image.fromarray(LABELS)])
    assert is_rows(rows) and is_rows(datasets.DatasetDict(a=rows)) and not is_rows("x") and not is_rows([])
    assert row_splits(rows) == ["train"] and row_splits(datasets.DatasetDict(a=rows, b=rows)) == ["a", "b"]
    assert load_rows(rows, "train") is rows and load_rows(datasets.DatasetDict(a=rows), "a") is rows


def test_names_on_the_hub(tmp_path, monkeypatch):
    """The two functions of `datasets` that ask the Hub are replaced: tests reach no network."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    assert is_hub_name("owner/name") and is_hub_name("own-er/na.me_2")
    for text in ("name", "a/b/c", "folder/name", "./name", "owner/na me", "/name"):
        assert not is_hub_name(text)
    rows = rows_of(image=[IMAGE], label=[Image.fromarray(LABELS)])
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda name: {"owner/name": ["validation"]}[name])
    monkeypatch.setattr(
        datasets, "load_dataset", lambda name, split: {("owner/name", "validation"): rows}[name, split]
    )
    assert row_splits("owner/name") == ["validation"]
    assert load_rows("owner/name", "validation") is rows

    def fail(name):
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "get_dataset_split_names", fail)
    with pytest.raises(
        FileNotFoundError, match="no such folder: owner/name; nor can it be had from the Hub: no network"
    ):
        row_splits("owner/name")
