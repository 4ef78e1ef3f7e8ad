"""How files of annotation tools are found in a folder, and which images are theirs."""

import json

import numpy as np
import pytest
from small_datasets import LABELS, MAKERS, make_kaggle, make_labelme, make_via, save

from m2f.data.dataset_formats import list_splits, open_dataset


def test_a_file_in_annotations(tmp_path):
    make_via(tmp_path / "made")
    save(tmp_path / "data" / "images" / "a.png")
    (tmp_path / "data" / "annotations").mkdir()
    (tmp_path / "made" / "train" / "via_region_data.json").rename(tmp_path / "data" / "annotations" / "via.json")
    dataset = open_dataset(tmp_path / "data")
    assert (dataset.split, dataset.format, dataset.name_of(0)) == ("train", "via", "images/a.png")


def test_a_split_in_the_name_of_a_file(tmp_path):
    make_kaggle(tmp_path)
    for split in ("train", "val"):
        (tmp_path / f"{split}.csv").rename(tmp_path / f"stage1_{split}.csv")
    assert list_splits(tmp_path) == ["train", "val"]
    assert open_dataset(tmp_path, "val").image_path(0) == tmp_path / "val" / "a.png"


def test_each_folder_has_its_own_images(tmp_path):
    """Though both are called after the same split."""
    make_via(tmp_path)
    for split, name in (("train", "train_a"), ("val", "train_b")):
        (tmp_path / split).rename(tmp_path / name)
    for name in ("train_a", "train_b"):
        assert open_dataset(tmp_path, name).image_path(0) == tmp_path / name / "a.png"


def test_names_in_capitals(tmp_path):
    for maker, suffix in ((make_labelme, "json"), (make_via, "json"), (MAKERS["cvat"], "xml"), (make_kaggle, "csv")):
        root = tmp_path / maker.__name__
        maker(root)
        kind = open_dataset(root).format
        for path in [path for path in root.rglob(f"*.{suffix}") if path.parent != root or suffix == "csv"]:
            path.rename(path.with_suffix(f".{suffix.upper()}"))
        dataset = open_dataset(root)
        assert (dataset.format, dataset.id2label) == (kind, {0: "cat", 1: "dog"})
        np.testing.assert_array_equal(dataset[0].segments.masks(), [LABELS == 1])


def test_one_image_in_each_split_is_no_image_of_each_folder(tmp_path):
    """The Data Science Bowl's ID/images would be found in train/images."""
    for split in ("train", "val"):
        save(tmp_path / split / "images" / "a.png")
        save(tmp_path / split / "masks" / "b.png", (LABELS == 1).astype(np.uint8))
    with pytest.raises(ValueError, match="no image in .*train/images .* has a label map of its name"):
        open_dataset(tmp_path)


def test_masks_that_may_belong_to_two_folders_belong_to_none(tmp_path):
    save(tmp_path / "annotations" / "a_dog_0.png", (LABELS == 1).astype(np.uint8))
    for folder in ("pictures", "photos"):
        save(tmp_path / folder / "a.png")
    with pytest.raises(ValueError, match="no dataset of a known format"):
        open_dataset(tmp_path)


def test_a_suffix_may_be_said(tmp_path):
    save(tmp_path / "a.jpg")
    save(tmp_path / "a_mask.png", LABELS)
    save(tmp_path / "a_fine.png", np.where(LABELS == 255, 0, LABELS).astype(np.uint8))
    dataset = open_dataset(tmp_path, label_suffix="_fine", id2label=["cat", "dog"])
    position = [dataset.name_of(i) for i in range(len(dataset))].index("a.jpg")
    assert dataset[position].segments.class_ids.tolist() == [0, 1]


def test_a_json_is_known_by_its_end(tmp_path):
    """LabelMe writes the picture before the last keys."""
    make_labelme(tmp_path)
    path = tmp_path / "train" / "a.json"
    content = json.loads(path.read_text())
    last = content.pop("imagePath")
    path.write_text(json.dumps({**content, "imageData": "A" * (2 << 20), "imagePath": last}))
    assert open_dataset(tmp_path).format == "labelme"


def test_two_files_of_a_split_need_a_word(tmp_path):
    make_via(tmp_path)
    text = (tmp_path / "train" / "via_region_data.json").read_text()
    (tmp_path / "train" / "more.json").write_text(text)
    with pytest.raises(ValueError, match="there are several files for 'train': .*more.json, .*; give the path of one"):
        open_dataset(tmp_path)
