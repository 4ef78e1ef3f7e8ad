"""Every format is found by its folder and opened by the same call; the small datasets are made here."""

import json
import pickle
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image
from small_datasets import (
    COLOURS,
    INSTANCE,
    LABELS,
    MAKERS,
    RLE,
    SIZE,
    coco,
    make_cityscapes,
    make_coco_instance,
    make_coco_panoptic,
    make_instance_maps,
    make_roboflow,
    make_rows,
    make_semantic_folder,
    make_yolo,
    save,
)

from m2f.data.dataset_check import check_dataset
from m2f.data.dataset_formats import FORMATS, list_splits, open_dataset

NUCLEI = Path(__file__).parents[2] / "examples" / "nuclei"


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def assert_one_object(dataset, class_id: int):
    assert len(dataset) == 1
    segments = dataset[0].segments
    np.testing.assert_array_equal(segments.masks(), [LABELS == 1])
    np.testing.assert_array_equal(segments.class_ids, [class_id])


def test_each_format_has_a_maker():
    assert MAKERS.keys() == FORMATS.keys()


def test_maps_of_instances_are_read_where_they_are_asked_for(tmp_path):
    make_instance_maps(tmp_path)
    with pytest.raises(
        ValueError, match="the values 0, 300, for which there would be 301 .* give --format instance-m"
    ):
        print(open_dataset(tmp_path).id2label)
    dataset = open_dataset(tmp_path, "val", "instance-maps")
    assert_one_object(dataset, 0)
    assert (dataset.format, dataset.split, dataset.id2label) == ("instance-maps", "val", {0: "object"})
    assert open_dataset(tmp_path, format="instance-maps", id2label=["cell"]).id2label == {0: "cell"}
    (tmp_path / "classes.csv").write_text("id,class\n1,cat\n300-400,dog\n")
    dataset = open_dataset(tmp_path, format="instance-maps", classes="classes.csv")
    assert_one_object(dataset, 1)
    assert dataset.id2label == {0: "cat", 1: "dog"}


@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind != "instance-maps"])
def test_a_folder_is_opened(tmp_path, kind):
    MAKERS[kind](tmp_path)
    splits = list_splits(str(tmp_path))
    assert splits == (["train", "valid"] if kind == "roboflow-coco" else ["train", "val"])
    for split in ("train", "val", "validation"):
        dataset = open_dataset(tmp_path, split)
        assert_one_object(dataset, 11 if kind == "cityscapes" else 1)
        assert (dataset.format, dataset.split) == (kind, splits[split != "train"])
    if kind != "cityscapes":
        if kind != "datasets":  # which has no names in it
            assert list(dataset.id2label.values()) == ["cat", "dog"]
    # Workers of a data loader may get a copy.
    assert_one_object(pickle.loads(pickle.dumps(dataset)), 11 if kind == "cityscapes" else 1)
    with pytest.raises(ValueError, match=rf"{tmp_path} has no split 'test'; it has 'train', 'val"):
        open_dataset(tmp_path, "test")


@pytest.mark.parametrize(
    ("kind", "file", "split"),
    [
        ("coco-instance", "instances_val.json", "val"),
        ("coco-panoptic", "annotations/panoptic_val2017.json", "val"),
        ("roboflow-coco", "valid/_annotations.coco.json", "valid"),
        ("datasets", "val-00000-of-00001.parquet", "val"),
    ],
)
def test_a_file_needs_no_split(tmp_path, kind, file, split):
    MAKERS[kind](tmp_path)
    assert list_splits(tmp_path / file) == [split]
    dataset = open_dataset(tmp_path / file)
    assert_one_object(dataset, 1)
    assert (dataset.format, dataset.split) == (kind, split)


def test_a_yaml_has_splits(tmp_path):
    make_yolo(tmp_path)
    assert list_splits(tmp_path / "data.yaml") == ["train", "val"]
    assert open_dataset(tmp_path / "data.yaml", "val").split == "val"
    with pytest.raises(ValueError, match="has no split 'test'"):
        open_dataset(tmp_path / "data.yaml", "test")


def test_the_bundled_images():
    assert list_splits(NUCLEI) == ["train", "val"]
    dataset = open_dataset(NUCLEI, "val")
    assert (dataset.format, len(dataset), dataset.image_folder) == ("coco-instance", 8, NUCLEI / "val")


def test_datasets_in_memory():
    rows = datasets.Dataset.from_list([{"image": Image.fromarray(COLOURS), "label": Image.fromarray(LABELS)}])
    both = datasets.DatasetDict(train=rows, valid=rows)
    names = ["cat", "dog"]
    assert open_dataset(rows, id2label=names).format == open_dataset(both, id2label=names).format == "datasets"
    assert (list_splits(rows), list_splits(both)) == (["train"], ["train", "valid"])
    assert_one_object(open_dataset(rows, "anything", id2label=names), 1)
    assert open_dataset(both, "val", id2label=names).split == "valid"
    with pytest.raises(ValueError, match="the dataset has no split 'test'"):
        open_dataset(both, "test")
    with pytest.raises(ValueError, match="a dataset is a path, .* got IterableDataset"):
        open_dataset(rows.to_iterable_dataset())


def test_a_folder_with_two_formats_needs_a_word(tmp_path):
    make_coco_instance(tmp_path)
    make_coco_panoptic(tmp_path)
    message = r"several formats: coco-instance \(train, val\); coco-panoptic \(train, val\); give format, or the path"
    for ask in (list_splits, open_dataset):
        with pytest.raises(ValueError, match=message):
            ask(tmp_path)
    assert list_splits(tmp_path, "coco-panoptic") == ["train", "val"]
    dataset = open_dataset(tmp_path, format="coco-panoptic", image_folder=tmp_path / "train2017")
    assert dataset.task == "panoptic"
    with pytest.raises(ValueError, match="no dataset of a known format. Looked for\n- cityscapes: leftImg8bit/SPLIT"):
        open_dataset(tmp_path, format="cityscapes")


def test_pictures_of_ids_are_no_label_maps(tmp_path):
    """As Datumaro writes COCO's panoptic data: images beside annotations, in which are json and pictures."""
    make_coco_panoptic(tmp_path)
    for split in ("train2017", "val2017"):
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / split).rename(tmp_path / "images" / split)
    assert open_dataset(tmp_path).format == "coco-panoptic"


def test_an_unknown_folder_is_refused_with_what_is_there(tmp_path):
    (tmp_path / "stuff").mkdir()
    (tmp_path / "notes.txt").touch()
    (tmp_path / "other.json").write_text('{"a": 1}')
    (tmp_path / "broken.yaml").write_text("names: [a]")
    with pytest.raises(ValueError) as error:
        open_dataset(tmp_path)
    message = str(error.value)
    assert all(f"- {kind}: {text}" in message for kind, text in FORMATS.items())
    assert "Found broken.yaml, notes.txt, other.json, stuff/" in message
    assert "broken.yaml is no yaml of a YOLO dataset" in message
    with pytest.raises(ValueError, match="Found the file .*notes.txt"):
        open_dataset(tmp_path / "notes.txt")
    with pytest.raises(ValueError, match="Found the file .*other.json"):
        open_dataset(tmp_path / "other.json")
    with pytest.raises(FileNotFoundError, match="no such file or folder: .*absent"):
        open_dataset(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="Found nothing"):
        open_dataset(tmp_path / "empty")
    with pytest.raises(ValueError, match="format must be auto or one of coco-instance, .*, got 'coco'"):
        open_dataset(tmp_path, format="coco")


def test_two_files_for_a_split_need_a_word(tmp_path):
    make_coco_instance(tmp_path)
    (tmp_path / "stuff_train.json").write_text(coco([INSTANCE]))
    assert list_splits(tmp_path) == ["train", "val"]
    assert open_dataset(tmp_path, "val").split == "val"
    with pytest.raises(ValueError, match="several files for 'train': .*instances_train.json, .*stuff_train.json"):
        open_dataset(tmp_path)


def test_roboflow_can_be_read_as_coco(tmp_path):
    make_roboflow(tmp_path)
    assert list(open_dataset(tmp_path, format="coco-instance").id2label.values()) == ["p", "cat", "dog"]
    file = tmp_path / "train" / "_annotations.coco.json"
    assert len(open_dataset(file, format="coco-instance").id2label) == 3


def test_options_reach_the_reader(tmp_path):
    make_cityscapes(tmp_path)
    assert open_dataset(tmp_path, task="semantic").task == "semantic"
    with pytest.raises(TypeError, match="reduce_labels"):
        open_dataset(tmp_path, reduce_labels=True)
    with pytest.raises(ValueError, match="image_folder must be None, got x"):
        open_dataset(tmp_path, image_folder="x")


def test_image_folders_can_be_given(tmp_path):
    for kind in ("coco-instance", "coco-panoptic", "roboflow-coco", "semantic-folder"):
        root = tmp_path / kind
        root.mkdir()
        MAKERS[kind](root)
        save(tmp_path / "elsewhere" / "a.png", 255 - COLOURS)
        dataset = open_dataset(root, image_folder=tmp_path / "elsewhere")
        assert dataset.image_path(0) == tmp_path / "elsewhere" / "a.png"
        assert_one_object(dataset, 1)
    make_yolo(tmp_path)
    (tmp_path / "yaml").mkdir()
    yaml = (tmp_path / "data.yaml").rename(tmp_path / "yaml" / "data.yaml")
    assert_one_object(open_dataset(yaml, image_folder=tmp_path), 1)
    rows = datasets.Dataset.from_list([{"image": Image.fromarray(COLOURS), "label": Image.fromarray(LABELS)}])
    with pytest.raises(ValueError, match="rows have their images in them"):
        open_dataset(rows, image_folder=tmp_path)


def test_names_and_counting_of_ade20k(tmp_path):
    """Its table stands for labels from 1 on, and 0 is unlabelled."""
    make_semantic_folder(tmp_path)
    (tmp_path / "id2label.json").unlink()
    (tmp_path / "objectInfo150.txt").write_text("Idx\tRatio\tTrain\tVal\tStuff\tName\n1\t0\t0\t0\t0\tdog\n")
    dataset = open_dataset(tmp_path)
    assert_one_object(dataset, 0)
    assert dataset.id2label == {0: "dog"}
    assert open_dataset(tmp_path, id2label=["none", "dog"])[0].segments.class_ids.tolist() == [1]


def test_without_names_all_splits_have_the_same_classes(tmp_path):
    make_semantic_folder(tmp_path)
    (tmp_path / "id2label.json").unlink()
    save(tmp_path / "annotations" / "val" / "a.png", LABELS * 0 + 6)
    assert len(open_dataset(tmp_path, "train").id2label) == len(open_dataset(tmp_path, "val").id2label) == 7


def test_names_beside_parquet_files(tmp_path):
    make_rows(tmp_path)
    (tmp_path / "id2label.json").write_text(json.dumps({"0": "cat", "1": "dog"}))
    for path in (tmp_path, tmp_path / "train-00000-of-00001.parquet"):
        assert open_dataset(path).id2label == {0: "cat", 1: "dog"}
    datasets.load_dataset("parquet", data_files=str(path), split="train").save_to_disk(tmp_path / "disk")
    assert len(open_dataset(tmp_path / "disk").id2label) == 2


@pytest.mark.parametrize("kind", list(MAKERS))
def test_images_of_more_than_8_bits_are_read_alike_in_every_format(kind, tmp_path):
    """Values of 2000 become 2000 * 255 / white, rounded."""
    deep = np.full(SIZE, 2000, np.uint16)
    MAKERS[kind](tmp_path)
    if kind == "datasets":
        entry = {"image": Image.fromarray(deep), "objects": [{"category": 1, "segmentation": RLE}]}
        datasets.Dataset.from_list([entry]).to_parquet(tmp_path / "train-00000-of-00001.parquet")
    else:
        Image.fromarray(deep).save(open_dataset(tmp_path, "train").image_path(0))
    for white_level, white in ((None, 4095), ("auto", 4095), (2500, 2500), ("type", 65535), ("data", 2000)):
        sample = open_dataset(tmp_path, "train", white_level=white_level)[0]
        assert sample.image.mode == "RGB" and np.asarray(sample.image).max() == round(2000 * 255 / white)
        assert ("12 bits" in sample.guess) == (white == 4095)
    with pytest.raises(ValueError, match="white_level must be"):
        open_dataset(tmp_path, "train", white_level="white")


def test_an_export_that_is_all_in_one_split_says_how_to_train_on_it(tmp_path):
    """As CVAT (instances_default.json), Label Studio (result.json) and FiftyOne (labels.json) write it."""
    for name, split in (("annotations/instances_default.json", "instances_default"), ("labels.json", "labels")):
        root = tmp_path / split
        save(root / "images" / "a.png")
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(coco([INSTANCE]))
        with pytest.raises(ValueError) as error:
            open_dataset(root)
        message = f"{root} has no split 'train'; it has '{split}'; --train-split '{split}' (or the path of the"
        assert message in str(error.value) and "--validation-fraction 0.1" in str(error.value)
        assert_one_object(open_dataset(root, split), 1)
        assert_one_object(open_dataset(root / name), 1)
        (finding,) = [entry for entry in check_dataset(root, workers=0).findings if entry.kind == "no training split"]
        assert f"--train-split '{split}'" in finding.message


def test_a_folder_of_one_tool_with_several_formats(tmp_path):
    """Label Studio's exports as COCO and as YOLO, unpacked into one folder: none is guessed."""
    make_yolo(tmp_path)
    (tmp_path / "data.yaml").unlink()
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    (tmp_path / "result.json").write_text(coco([INSTANCE]))
    with pytest.raises(
        ValueError, match=r"coco-instance \(result\); yolo-segmentation \(train, val\); give format, or"
    ):
        open_dataset(tmp_path)
    assert_one_object(open_dataset(tmp_path, format="yolo-segmentation"), 1)
    images = tmp_path / "images" / "train"
    assert_one_object(open_dataset(tmp_path, "result", format="coco-instance", image_folder=images), 1)
