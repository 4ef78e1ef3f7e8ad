"""Kaggle's run lengths; the expected masks are drawn pixel by pixel from the definition."""

import numpy as np
import pytest
from PIL import Image

from m2f.data.dataset_formats import open_dataset
from m2f.data.kaggle_runs import kaggle_mask

SIZE = HEIGHT, WIDTH = 6, 8


def runs(mask: np.ndarray, order: str = "F") -> str:
    """Each pixel as a run of its own where it is odd, else longer ones: both are allowed."""
    places = np.flatnonzero(mask.ravel(order)) + 1
    words = []
    for place in places.tolist():
        if words and place == words[-1][0] + words[-1][1] and place % 3:
            words[-1][1] += 1
        else:
            words.append([place, 1])
    return " ".join(f"{start} {length}" for start, length in words)


@pytest.fixture
def masks():
    return np.random.default_rng(0).random((3, *SIZE)) > 0.5


def write(folder, text: str, name: str = "train.csv", images: tuple[str, ...] = ("a.png", "b.png")):
    for image in images:
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / image)
    (folder / name).write_text(text)


@pytest.mark.parametrize("suffix", [".png", ""])
def test_rows_are_objects_in_any_order_of_the_columns(tmp_path, masks, suffix):
    lines = [f"{runs(masks[0])},a{suffix}", f"{runs(masks[1])},b{suffix}", f"{runs(masks[2])},a{suffix}"]
    write(tmp_path, "\n".join(["EncodedPixels,ImageId", *lines]))
    dataset = open_dataset(tmp_path)
    assert (dataset.format, dataset.split, len(dataset)) == ("kaggle-rle", "train", 2)
    assert (dataset.id2label, dataset.name_of(0)) == ({0: "object"}, "a.png")
    np.testing.assert_array_equal(dataset[0].segments.masks(), masks[[0, 2]])
    np.testing.assert_array_equal(dataset[1].segments.masks(), masks[[1]])


def test_images_without_an_object(tmp_path, masks):
    write(
        tmp_path,
        f"ImageId,EncodedPixels\na.png,\nb.png,{runs(masks[0])}\nc.png,-1\n",
        images=("a.png", "b.png", "c.png"),
    )
    dataset = open_dataset(tmp_path)
    assert [len(sample.segments.class_ids) for sample in dataset] == [0, 1, 0]


def test_classes_in_a_column_or_behind_the_name(tmp_path, masks):
    first, second = runs(masks[0]), runs(masks[1])
    for text in (
        f"ImageId,ClassId,EncodedPixels\na.png,3,{first}\na.png,1,{second}\n",
        f"ImageId_ClassId,EncodedPixels\na.png_3,{first}\na.png_1,{second}\na.png_2,\n",
    ):
        write(tmp_path, text)
        dataset = open_dataset(tmp_path)
        assert dataset.id2label == {0: "1", 1: "3"} and dataset[0].segments.class_ids.tolist() == [1, 0]
        np.testing.assert_array_equal(dataset[0].segments.masks(), masks[:2])


def test_other_columns_and_the_other_order(tmp_path, masks):
    write(tmp_path, f"picture,pixels,kind\na,{runs(masks[0], 'C')},dog\n")
    options = {"image_column": "picture", "runs_column": "pixels", "class_column": "kind", "order": "rows"}
    dataset = open_dataset(tmp_path, format="kaggle-rle", **options)
    assert dataset.id2label == {0: "dog"}
    np.testing.assert_array_equal(dataset[0].segments.masks(), masks[:1])
    with pytest.raises(ValueError, match="has the columns picture, pixels, kind; give image_column"):
        open_dataset(tmp_path, format="kaggle-rle")
    with pytest.raises(ValueError, match="order must be one of columns, rows, got 'x'"):
        open_dataset(tmp_path, format="kaggle-rle", order="x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2 3", "the runs are '1 2 3'; pairs of a start and a length"),
        ("1 -2", "pairs of a start and a length"),
        ("1 1e3", "pairs of a start and a length"),
        ("0 2", "the runs reach from pixel 0 to 1; 1 to 48 are in the image"),
        ("48 2", "the runs reach from pixel 48 to 49; 1 to 48 are in the image"),
        ("5 3 7 1", "the runs overlap, or are not in ascending order"),
        ("99999999999 1", "1 to 48 are in the image"),
    ],
)
def test_runs_that_do_not_fit(tmp_path, text, message):
    write(tmp_path, f"ImageId,EncodedPixels\na.png,{text}\n")
    with pytest.raises(ValueError, match=f"train.csv, image a.png, annotation line 2: .*{message}"):
        open_dataset(tmp_path)[0]


def test_runs_may_touch_or_be_empty():
    assert kaggle_mask("1 2 3 1 5 0", (2, 3)).tolist() == [[True, True, True], [False, False, False]]
    assert not kaggle_mask("", (2, 3)).any()


def test_damaged_files(tmp_path):
    write(tmp_path, "ImageId,EncodedPixels\na.png\n")
    with pytest.raises(ValueError, match="train.csv, line 2 has 1 values; the first line has 2 names"):
        open_dataset(tmp_path)
    write(tmp_path, "ImageId,EncodedPixels\n,1 1\n")
    with pytest.raises(ValueError, match="train.csv, line 2 names no image or no class"):
        open_dataset(tmp_path)
    (tmp_path / "train.csv").write_bytes(b"ImageId,EncodedPixels\n\xff,1 1\n")
    with pytest.raises(ValueError, match="train.csv is not a csv file"):
        open_dataset(tmp_path)


def test_images_in_folders_of_the_splits(tmp_path, masks):
    for split in ("train", "test"):
        (tmp_path / f"{split}_images").mkdir()
        write(tmp_path / f"{split}_images", "", "notes.txt")
    (tmp_path / "train.csv").write_text(f"ImageId,EncodedPixels\na.png,{runs(masks[0])}\n")
    assert open_dataset(tmp_path).image_path(0) == tmp_path / "train_images" / "a.png"


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_files_of_spreadsheets(tmp_path, masks, delimiter):
    text = f"ImageId,EncodedPixels\na.png,{runs(masks[0])}\n".replace(",", delimiter)
    write(tmp_path, "\ufeff" + text)
    dataset = open_dataset(tmp_path)
    assert dataset.format == "kaggle-rle"
    np.testing.assert_array_equal(dataset[0].segments.masks(), masks[:1])
