"""Colour tables in their three forms, and pictures that are read by them."""

import numpy as np
import pytest
from PIL import Image

from m2f.data.colour_table import read_colour_table
from m2f.data.dataset_formats import open_dataset
from m2f.image_processing.label_values import IGNORED

TABLES = {
    "labelmap.txt": "# label:color_rgb:parts:actions\nsky:128,128,128::\nroad:128,64,128:x,y:\nVoid:0,0,0::\n",
    "label_colors.txt": "128 128 128\tsky\n128 64 128\t\troad\n0 0 0\t\tVoid\n",
    "class_dict.csv": "name,r,g,b\nsky, 128, 128, 128\nroad,128,64,128\nVoid,0,0,0\n",
    "colors.csv": "Red,Green,Blue,Class\n128,128,128,sky\n128,64,128,road\n0,0,0,Void\n",
}
CLASSES = np.array([[0, 0, 1, 1], [IGNORED, 1, 0, 0]])
COLOURS = np.array([[128, 128, 128], [128, 64, 128], [0, 0, 0]], np.uint8)  # the last for IGNORED too
PIXELS = COLOURS[np.where(CLASSES < 0, 2, CLASSES)]


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def check(dataset):
    segments = dataset[0].segments
    np.testing.assert_array_equal(segments.masks(), [CLASSES == 0, CLASSES == 1])
    np.testing.assert_array_equal(segments.ignored(), CLASSES == IGNORED)
    assert (dataset.id2label, segments.class_ids.tolist()) == ({0: "sky", 1: "road"}, [0, 1])
    assert (dataset.format, dataset.task, dataset.label_values) == ("colour-masks", "semantic", [0, 1])


@pytest.mark.parametrize("name", TABLES)
def test_every_form_of_the_table(tmp_path, name):
    save(tmp_path / "images" / "a.png", PIXELS)
    save(tmp_path / "masks" / "a.png", PIXELS)
    (tmp_path / name).write_text(TABLES[name])
    check(open_dataset(tmp_path))
    (tmp_path / name).rename(tmp_path / "table")
    check(open_dataset(tmp_path, format="colour-masks", colours=str(tmp_path / "table")))
    with pytest.raises(ValueError, match="has no table of colours .labelmap.txt, .*give --data-options colours=FILE"):
        open_dataset(tmp_path, format="colour-masks")


def test_camvid_with_its_suffix(tmp_path):
    for split in ("train", "val"):
        save(tmp_path / split / "0001TP_1.png", PIXELS)
        save(tmp_path / f"{split}_labels" / "0001TP_1_L.png", PIXELS)
    (tmp_path / "class_dict.csv").write_text(TABLES["class_dict.csv"])
    check(open_dataset(tmp_path, "val"))


def test_which_classes_are_unknown_can_be_said(tmp_path):
    (tmp_path / "t").write_text(TABLES["labelmap.txt"])
    assert read_colour_table(tmp_path / "t", ["road"]).names == {0: "sky", 1: "Void"}
    assert read_colour_table(tmp_path / "t", []).names == {0: "sky", 1: "road", 2: "Void"}
    assert read_colour_table(tmp_path / "t", ["ROAD", "Void"]).names == {0: "sky"}
    save(tmp_path / "images" / "a.png", PIXELS)
    save(tmp_path / "masks" / "a.png", PIXELS)
    options = {"format": "colour-masks", "colours": str(tmp_path / "t")}
    assert open_dataset(tmp_path, ignore="road", **options).id2label == {0: "sky", 1: "Void"}


@pytest.mark.parametrize("name", [*TABLES, "semicolons.csv"])
def test_tables_of_windows(tmp_path, name):
    text = TABLES["class_dict.csv"].replace(",", ";") if name == "semicolons.csv" else TABLES[name]
    (tmp_path / name).write_bytes("\ufeff".encode() + text.replace("\n", "\r\n").encode())
    assert read_colour_table(tmp_path / name).names == {0: "sky", 1: "road"}


def test_unknown_colours_are_counted(tmp_path):
    wrong = PIXELS.copy()
    wrong[0, :2], wrong[1, 3] = (1, 2, 3), (9, 9, 9)
    save(tmp_path / "images" / "a.png", PIXELS)
    save(tmp_path / "masks" / "a.png", wrong)
    (tmp_path / "labelmap.txt").write_text(TABLES["labelmap.txt"])
    message = (
        r"masks/a.png has the colours \(1, 2, 3\) \(2 pixels\), \(9, 9, 9\) \(1 pixels\), which .*labelmap.txt lacks"
    )
    with pytest.raises(ValueError, match=message):
        open_dataset(tmp_path)[0]
    save(tmp_path / "masks" / "a.png", np.arange(24, dtype=np.uint8).reshape(2, 4, 3))
    with pytest.raises(ValueError, match=r"\(0, 1, 2\) \(1 pixels\), .* and 3 more, which"):
        open_dataset(tmp_path)[0]


def test_numbers_are_still_read_as_numbers(tmp_path):
    """A palette or grey beside a table of colours is no colour picture."""
    save(tmp_path / "images" / "a.png", PIXELS)
    save(tmp_path / "masks" / "a.png", CLASSES.clip(0).astype(np.uint8))
    (tmp_path / "labelmap.txt").write_text(TABLES["labelmap.txt"])
    assert open_dataset(tmp_path).format == "semantic-folder"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sky", "line 1 is 'sky'; NAME:R,G,B:: or R G B NAME is needed"),
        ("name,r,g,b\nsky,1,2", "line 2 is 'sky,1,2'; a name and three numbers"),
        ("1 2 300 sky", r"the colour \(1, 2, 300\) of 'sky' is outside 0 to 255"),
        ("1 2 3 sky\n1 2 3 road", r"has the colour \(1, 2, 3\) twice"),
        ("1 2 3 sky\n1 2 4 sky", "has a name twice"),
        ("# nothing", "has no class"),
        ("1 2 3 void", "has no class"),
    ],
)
def test_tables_that_are_none(tmp_path, text, message):
    (tmp_path / "t").write_text(text)
    with pytest.raises(ValueError, match=f"{tmp_path / 't'}.*{message}"):
        read_colour_table(tmp_path / "t")


def test_files_that_are_not_there_or_no_text(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_colour_table(tmp_path / "t")
    (tmp_path / "t").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="cannot read"):
        read_colour_table(tmp_path / "t")


def test_pictures_are_not_read_when_their_folder_is_opened(tmp_path, monkeypatch):
    """All were, to look for masks of two values."""
    for folder in ("images", "masks"):
        save(tmp_path / folder / "a.png", np.zeros((3, 4, 3), np.uint8))
    (tmp_path / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nblack:0,0,0::\n")
    monkeypatch.setattr("m2f.data.semantic_folder.read_label_map", lambda *_: pytest.fail("a picture was read"))
    assert open_dataset(tmp_path).format == "colour-masks"


def test_palettes_beside_pictures_of_colours_show_colours_too(tmp_path):
    """The numbers of such a palette are of one picture alone."""
    for split in ("train", "val"):
        save(tmp_path / split / "images" / "a.png", PIXELS)
        save(tmp_path / split / "masks" / "a.png", PIXELS)
    Image.fromarray(PIXELS).quantize(8).save(tmp_path / "train" / "masks" / "a.png")
    (tmp_path / "labelmap.txt").write_text(TABLES["labelmap.txt"])
    for split in ("train", "val"):
        check(open_dataset(tmp_path, split))
