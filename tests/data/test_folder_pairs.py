"""Folders of images and label maps under many names; which is which, and which split."""

import shlex

import numpy as np
import pytest
from PIL import Image

from m2f.commands.data_arguments import reader_option
from m2f.data.dataset_formats import list_splits, open_dataset
from m2f.data.folder_pairs import pair_splits

LABELS = np.array([[0, 1], [1, 2]], np.uint8)


def save(path, pixels=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((2, 2, 3), np.uint8) if pixels is None else pixels).save(path)


LAYOUTS = {
    "one split": ({"train"}, "image/a.jpg", "label/a.png"),
    "other names": ({"train"}, "imgs/a.jpg", "masks/a.png"),
    "case": ({"train"}, "Images/a.jpg", "Masks/a.png"),
    "splits inside": ({"train", "val"}, "imgs/{}/a.jpg", "gt/{}/a.png"),
    "splits outside": ({"train", "val"}, "{}/image/a.jpg", "{}/mask/a.png"),
    "CamVid of SegNet": ({"train", "val", "test"}, "{}/a.png", "{}annot/a.png"),
    "CamVid's copies": ({"train", "val"}, "{}/a.png", "{}_labels/a_L.png"),
    "Carvana": ({"train"}, "train/a.jpg", "train_masks/a_mask.png"),
    "beside": ({"train"}, "a.png", "a_mask.png"),
    "beside in splits": ({"train", "val"}, "{}/a.jpg", "{}/a_mask.png"),
    "suffix in folders": ({"train"}, "images/a.jpg", "masks/a_segmentation.png"),
    "deep": ({"train", "val"}, "images/{}/x/a.jpg", "label/{}/x/a.png"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(tmp_path, layout):
    splits, image, labels = LAYOUTS[layout]
    for split in splits:
        save(tmp_path / image.format(split))
        save(tmp_path / labels.format(split), LABELS)
    assert set(list_splits(tmp_path)) == splits
    for split in splits:
        dataset = open_dataset(tmp_path, split)
        assert (dataset.format, len(dataset), dataset.id2label) == ("semantic-folder", 1, {0: "0", 1: "1", 2: "2"})
        assert dataset.image_path(0) == tmp_path / image.format(split)
        np.testing.assert_array_equal(dataset[0].segments.masks(), [LABELS == i for i in range(3)])


def test_what_is_missing_is_an_error_of_its_image(tmp_path):
    for stem in "ab":
        save(tmp_path / f"{stem}.png")
    save(tmp_path / "a_mask.png", LABELS)
    save(tmp_path / "c_mask.png", LABELS)
    dataset = open_dataset(tmp_path)
    assert [dataset.name_of(i) for i in range(3)] == ["a.png", "b.png", "c.jpg"]
    with pytest.raises(FileNotFoundError, match="b_mask.png"):
        dataset[1]
    with pytest.raises(FileNotFoundError, match="c.jpg"):
        dataset[2]


def test_folders_of_ones_own(tmp_path):
    for split in ("train", "val"):
        save(tmp_path / "scans" / split / "a.jpg")
        save(tmp_path / split / "truth" / "a-x.png", LABELS)
    assert pair_splits(tmp_path) == {}
    message = (
        "say which folders have the images and the label maps, such as --data-options images=pictures labels=truth"
    )
    with pytest.raises(ValueError, match=message):
        open_dataset(tmp_path, format="semantic-folder")
    options = {"images": "scans", "labels": "truth", "label_suffix": "-x"}
    dataset = open_dataset(tmp_path, "val", format="semantic-folder", **options)
    assert dataset.image_path(0) == tmp_path / "scans" / "val" / "a.jpg" and len(dataset[0].segments.class_ids) == 3
    with pytest.raises(FileNotFoundError, match="no such folder: .*absent/val, .*val/absent or .*absent"):
        open_dataset(tmp_path, "val", format="semantic-folder", images="absent", labels="truth")


def test_folders_without_label_maps_are_none(tmp_path):
    save(tmp_path / "images" / "a.png")
    save(tmp_path / "masks" / "b.png", LABELS)  # of another image
    assert pair_splits(tmp_path) == {}


@pytest.mark.parametrize(
    ("images", "labels", "other"),
    [
        ("images/{}", "masks/{}", "labels/{}"),
        ("images", "masks", "labels"),
        ("imgs", "gt", "Mask"),
        ("{}/images", "{}/masks", "{}/labels"),
        ("imgs/{}", "gt/{}", "mask/{}"),
    ],
)
def test_two_folders_of_label_maps_need_a_word(tmp_path, images, labels, other):
    images, labels, other = (name.format("train") for name in (images, labels, other))
    for place, pixels in ((images, None), (labels, LABELS), (other, np.zeros_like(LABELS))):
        save(tmp_path / place / "a.png", pixels)
    with pytest.raises(ValueError, match="has label maps in several folders, .*; say which") as error:
        open_dataset(tmp_path)
    assert labels in str(error.value) and other in str(error.value)
    words = shlex.split(str(error.value).partition("--data-options ")[2])
    chosen = dict(map(reader_option, words))
    assert chosen["labels"] in (labels.replace("train", "").strip("/"), other.replace("train", "").strip("/"))
    assert len(open_dataset(tmp_path, **chosen)) == 1
    (tmp_path / other / "a.png").rename(tmp_path / other / "b.png")  # of no image
    np.testing.assert_array_equal(open_dataset(tmp_path)[0].segments.masks()[1], LABELS == 1)


def test_a_folder_beside_the_splits_is_no_split(tmp_path):
    save(tmp_path / "images" / "thumbs" / "x.jpg")
    save(tmp_path / "images" / "a.jpg")
    save(tmp_path / "label" / "a.png", LABELS)
    assert list_splits(tmp_path) == ["train"] and open_dataset(tmp_path).name_of(0) == "a.jpg"


def test_names_come_in_their_order(tmp_path):
    """ "imgs" before "camerargb" and "label" before "gt", whatever the alphabet says."""
    for place in ("imgs", "camerargb"):
        save(tmp_path / place / "a.jpg")
    save(tmp_path / "label" / "a.png", LABELS)
    assert pair_splits(tmp_path)["train"].images == tmp_path / "imgs"
