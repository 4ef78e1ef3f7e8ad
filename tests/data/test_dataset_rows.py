"""Rows in memory, in parquet files and on disk; the expected labels are those that were written."""

import io

import datasets
import numpy as np
import pytest
from PIL import Image
from small_rows import BLOB, IMAGE, LABELS, channels, rows_of

from m2f.data.dataset_rows import DatasetRows
from m2f.image_processing.label_values import NOTHING


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """What parquet files are converted to stays in the test's folder."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def test_label_maps():
    dataset = DatasetRows(rows_of(image=[IMAGE], label=[Image.fromarray(LABELS)]), id2label=["sky", "road", "car"])
    sample = dataset[0]
    np.testing.assert_array_equal(np.asarray(sample.image), np.asarray(IMAGE))
    np.testing.assert_array_equal(sample.segments.masks(), [LABELS == 0, LABELS == 1, LABELS == 2])
    np.testing.assert_array_equal(sample.segments.ignored(), LABELS == 255)
    assert (dataset.task, dataset.format, dataset.thing_label_ids) == ("semantic", "datasets", [])
    assert (sample.name, dataset.name_of(0), dataset.image_path(0), dataset.split) == ("row 0", "row 0", None, "train")
    assert dataset.id2label == {0: "sky", 1: "road", 2: "car"} and len(dataset) == 1


def test_label_maps_with_16_bits_palette_and_reduced_labels():
    wide = Image.fromarray(np.where(LABELS == 2, 300, LABELS.astype(np.uint16)))
    palette = Image.fromarray(LABELS)
    palette.putpalette(list(range(255, -1, -1)) * 3)
    dataset = DatasetRows(rows_of(pixel_values=[IMAGE] * 2, mask=[wide, palette]))
    assert len(dataset.id2label) == 301
    np.testing.assert_array_equal(dataset[0].segments.class_ids, [0, 1, 300])
    np.testing.assert_array_equal(dataset[1].segments.masks()[2], BLOB)
    dataset = DatasetRows(rows_of(image=[IMAGE], mask=[palette]), reduce_labels=True)
    assert dataset.id2label == {0: "0", 1: "1"}
    np.testing.assert_array_equal(dataset[0].segments.ignored(), (LABELS == 0) | (LABELS == 255))
    dataset = DatasetRows(rows_of(image=[IMAGE], mask=[palette]), ignore_index=2, ignore_unknown=False)
    np.testing.assert_array_equal(dataset[0].segments.ids[0] == NOTHING, BLOB)


def test_names_in_the_rows():
    """As the data of transformers' example has them."""
    rows = rows_of(image=[IMAGE], annotation=[channels()], semantic_class_to_id=[{"none": 0, "cat": 1, "dog": 2}])
    assert DatasetRows(rows).id2label == {0: "none", 1: "cat", 2: "dog"}
    assert DatasetRows(rows, reduce_labels=True).id2label == {0: "cat", 1: "dog"}
    assert DatasetRows(rows, id2label=["x", "y", "z"]).id2label[0] == "x"


def test_columns_are_found_or_given():
    rows = rows_of(image=[IMAGE], label=[3], mask=[Image.fromarray(LABELS)], x=[IMAGE], y=[Image.fromarray(BLOB)])
    assert len(DatasetRows(rows)[0].segments.class_ids) == 3  # "label" is a number: the class of the image
    dataset = DatasetRows(rows, image_column="x", label_column="y")
    np.testing.assert_array_equal(dataset[0].segments.class_ids, [0, 1])
    with pytest.raises(ValueError, match="dataset has the columns label, mask, x, y; none of image, pixel_values is"):
        DatasetRows(rows.remove_columns("image"))
    with pytest.raises(ValueError, match="none of objects, .* is there with labels; give label_column"):
        DatasetRows(rows.remove_columns("mask"))


def test_formats_and_broken_images(tmp_path):
    """`with_format` would give arrays in place of files; the image that is broken is named."""
    rows = rows_of(image=[IMAGE] * 2, label=[Image.fromarray(LABELS)] * 2).with_format("numpy")
    assert DatasetRows(rows)[1].segments.size == (4, 5)
    feature = {"image": datasets.Image(), "label": datasets.Image()}
    content = io.BytesIO()
    Image.fromarray(LABELS).save(content, "png")
    good = {"bytes": content.getvalue(), "path": None}
    for bad in ({"bytes": b"x", "path": None}, None, {"bytes": None, "path": str(tmp_path / "absent.png")}):
        rows = datasets.Dataset.from_list([{"image": bad, "label": good}], features=datasets.Features(feature))
        with pytest.raises((ValueError, FileNotFoundError), match="dataset, row 0"):
            DatasetRows(rows)[0]
    with pytest.raises(ValueError, match="dataset, row 0, label is 3 x 3|dataset, row 0, image is 4 x 5"):
        DatasetRows(rows_of(image=[IMAGE], label=[Image.new("L", (3, 3))]))[0]
    with pytest.raises(ValueError, match="dataset has no rows"):
        DatasetRows(rows.select([]))


def test_negative_and_high_indices():
    dataset = DatasetRows(rows_of(image=[IMAGE] * 2, label=[Image.fromarray(LABELS)] * 2))
    assert dataset[-1].name == "row 1"
    assert [sample.name for sample in dataset] == ["row 0", "row 1"]
    with pytest.raises(IndexError):
        dataset[2]
