"""Rows in memory, in parquet files and on disk; the expected labels are those that were written."""

import io
import json

import datasets
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from m2f.data.dataset_rows import DatasetRows
from m2f.data.row_sources import is_hub_name, is_rows, load_rows, parquet_files, row_splits, rows_folder
from m2f.data.segment_map import IGNORED, NOTHING

IMAGE = Image.fromarray(np.arange(60, dtype=np.uint8).reshape(4, 5, 3))
LABELS = np.array([[1, 1, 255, 0, 0], [2, 2, 0, 0, 0], [2, 2, 0, 1, 1], [0, 0, 0, 0, 0]], np.uint8)
BLOB = (LABELS == 2).astype(np.uint8)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """What parquet files are converted to stays in the test's folder."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def rows_of(**columns) -> datasets.Dataset:
    rows = zip(*columns.values(), strict=True)
    return datasets.Dataset.from_list([dict(zip(columns, row, strict=True)) for row in rows])


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


# Class and number of the instance: two cats, a dog with the number of the first cat, background.
CLASSES = np.array([[1, 1, 0, 2, 2], [1, 1, 0, 2, 2], [0, 0, 0, 0, 0], [1, 1, 255, 255, 0]], np.uint8)
NUMBERS = np.array([[1, 1, 0, 1, 1], [1, 1, 0, 1, 1], [0, 0, 0, 0, 0], [2, 2, 0, 0, 0]], np.uint8)


def channels(third: int = 0) -> Image.Image:
    return Image.fromarray(np.dstack([CLASSES, NUMBERS, np.full_like(CLASSES, third)]))


def test_classes_and_instances_in_channels():
    dataset = DatasetRows(rows_of(image=[IMAGE], annotation=[channels()]))
    segments = dataset[0].segments
    pairs = [(1, 1), (2, 1), (1, 2)]  # class, number: by number, then class
    np.testing.assert_array_equal(segments.masks(), [(CLASSES == c) & (NUMBERS == n) for c, n in pairs])
    np.testing.assert_array_equal(segments.class_ids, [1, 2, 1])
    np.testing.assert_array_equal(segments.ignored(), CLASSES == 255)
    assert (dataset.task, dataset.thing_label_ids) == ("instance", None)
    assert dataset.id2label == {0: "0", 1: "1", 2: "2"}


def test_reduced_classes_are_background_whatever_their_number():
    numbers = np.where(NUMBERS == 0, 9, NUMBERS)
    image = Image.fromarray(np.dstack([CLASSES, numbers, np.zeros_like(CLASSES)]).astype(np.uint8))
    segments = DatasetRows(rows_of(image=[IMAGE], annotation=[image]), reduce_labels=True)[0].segments
    np.testing.assert_array_equal(segments.class_ids, [0, 1, 0])
    np.testing.assert_array_equal(segments.ids[0] == NOTHING, CLASSES == 0)


def test_names_in_the_rows():
    """As the data of transformers' example has them."""
    rows = rows_of(image=[IMAGE], annotation=[channels()], semantic_class_to_id=[{"none": 0, "cat": 1, "dog": 2}])
    assert DatasetRows(rows).id2label == {0: "none", 1: "cat", 2: "dog"}
    assert DatasetRows(rows, reduce_labels=True).id2label == {0: "cat", 1: "dog"}
    assert DatasetRows(rows, id2label=["x", "y", "z"]).id2label[0] == "x"


def test_a_picture_is_no_annotation():
    dataset = DatasetRows(rows_of(image=[IMAGE], annotation=[channels(3)]))
    with pytest.raises(ValueError, match="dataset, row 0, annotation: the third channel is not 0"):
        dataset[0]


def packed(mask: np.ndarray, as_bytes: bool = False) -> dict:
    rle = coco_mask.encode(np.asfortranarray(mask))
    return {"size": list(mask.shape), "counts": rle["counts"] if as_bytes else rle["counts"].decode()}


POLYGON = [0.0, 0.0, 3.0, 0.0, 3.0, 2.0, 0.0, 2.0]


@pytest.mark.parametrize("segmentation", [[POLYGON], POLYGON, packed(BLOB), packed(BLOB, as_bytes=True)])
@pytest.mark.parametrize("as_lists", [False, True])
def test_objects(segmentation, as_lists):
    is_rle = isinstance(segmentation, dict)
    entries = [{"category": c, "segmentation": segmentation, "iscrowd": c == 1, "id": 7 + c} for c in (2, 1, 0)]
    objects = {key: [entry[key] for entry in entries] for key in entries[0]} if as_lists else entries
    dataset = DatasetRows(rows_of(image=[IMAGE], objects=[objects]))
    segments = dataset[0].segments
    expected = BLOB if is_rle else np.pad(np.ones((2, 3)), ((0, 2), (0, 2)))
    np.testing.assert_array_equal(segments.masks(), [expected] * 2)
    np.testing.assert_array_equal(segments.class_ids, [2, 0])
    assert not segments.ignored().any()  # the crowd lies under the two others
    assert (dataset.id2label, dataset.task) == ({0: "0", 1: "1", 2: "2"}, "instance")


def test_crowds_of_objects_are_ignored():
    objects = [{"category": 0, "segmentation": [POLYGON], "is_crowd": True}]
    rows = rows_of(image=[IMAGE], annotations=[objects])
    assert DatasetRows(rows)[0].segments.ignored().sum() == 6
    assert IGNORED not in DatasetRows(rows, ignore_unknown=False)[0].segments.ids


def test_names_of_categories():
    texts = rows_of(
        image=[IMAGE], objects=[[{"category": name, "segmentation": [POLYGON]} for name in ("dog", "cat")]]
    )
    assert DatasetRows(texts).id2label == {0: "cat", 1: "dog"}
    np.testing.assert_array_equal(DatasetRows(texts)[0].segments.class_ids, [1, 0])
    np.testing.assert_array_equal(DatasetRows(texts, id2label=["dog", "cat"])[0].segments.class_ids, [0, 1])
    numbers = rows_of(image=[IMAGE], objects=[[{"category_id": 18, "segmentation": [POLYGON]}]])
    dataset = DatasetRows(numbers, id2label={17: "cat", 18: "dog"})
    assert dataset.id2label == {0: "cat", 1: "dog"} and dataset[0].segments.class_ids.tolist() == [1]


@pytest.mark.parametrize("as_lists", [False, True])
def test_class_labels_name_categories(as_lists):
    category = datasets.ClassLabel(names=["cat", "dog"])
    polygons = datasets.List(datasets.List(datasets.Value("float64")))
    if as_lists:
        feature = {"category": datasets.List(category), "segmentation": datasets.List(polygons)}
        objects = {"category": [1], "segmentation": [[POLYGON]]}
    else:
        feature = datasets.List({"category": category, "segmentation": polygons})
        objects = [{"category": 1, "segmentation": [POLYGON]}]
    features = datasets.Features({"image": datasets.Image(), "objects": feature})
    dataset = DatasetRows(datasets.Dataset.from_list([{"image": IMAGE, "objects": objects}], features=features))
    assert dataset.id2label == {0: "cat", 1: "dog"} and dataset[0].segments.class_ids.tolist() == [1]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            {"category": 0, "segmentation": [[0.0, 0.0, 1.0, 1.0]]},
            "annotation 0: a polygon needs x and y of at",
        ),
        ({"category": 0, "id": 7, "segmentation": []}, "annotation 7: segmentation is"),
        ({"category": 0}, "annotation 0: segmentation is None"),
        ({"category": 2, "segmentation": [POLYGON]}, r"annotation 0: category 2 is not among \['a', 'b'\]"),
        ({"category": "c", "segmentation": [POLYGON]}, "category 'c' is not among"),
        ({"category": None, "segmentation": [POLYGON]}, "no number or name as its category"),
        ({"segmentation": [POLYGON]}, "no number or name as its category"),
        ({"category": 0, "iscrowd": 2, "segmentation": [POLYGON]}, "iscrowd is 2; 0 or 1 is needed"),
        (
            {"category": 0, "segmentation": {"size": [5, 4], "counts": "0d0"}},
            r"annotation 0: the RLE's size is",
        ),
    ],
)
def test_bad_objects_are_named(entry, message):
    dataset = DatasetRows(rows_of(image=[IMAGE], objects=[[entry]]), id2label=["a", "b"])
    with pytest.raises(ValueError, match=f"dataset, row 0.*{message}"):
        dataset[0]


def test_lists_of_different_lengths_are_refused():
    objects = {"category": [0, 1], "segmentation": [[POLYGON]]}
    with pytest.raises(ValueError, match="row 0: the lists of one object each have different lengths: {'category': 2"):
        DatasetRows(rows_of(image=[IMAGE], objects=[objects]), id2label=["a", "b"])[0]


def test_rows_without_objects():
    objects = [[{"category": 0, "segmentation": [POLYGON]}], [], None]
    dataset = DatasetRows(rows_of(image=[IMAGE] * 3, objects=objects))
    assert [len(dataset[i].segments.class_ids) for i in range(3)] == [1, 0, 0]


IDS = np.array([[5, 5, 0, 700, 700], [5, 5, 0, 700, 700], [0] * 5, [70_000] * 5])


def panoptic_rows(**changes) -> datasets.Dataset:
    colours = np.stack([IDS % 256, IDS // 256 % 256, IDS // 65536], 2).astype(np.uint8)
    infos = [{"id": i, "category_id": c, "iscrowd": i == 5} for i, c in ((700, 3), (5, 0), (70_000, 1))]
    infos[0].update(changes)
    return rows_of(image=[IMAGE], label=[Image.fromarray(colours)], segments_info=[infos])


def test_panoptic_rows():
    dataset = DatasetRows(panoptic_rows(), thing_label_ids=[0, 3])
    segments = dataset[0].segments
    np.testing.assert_array_equal(segments.masks(), [IDS == 700, IDS == 70_000])
    np.testing.assert_array_equal(segments.class_ids, [3, 1])
    np.testing.assert_array_equal(segments.ignored(), (IDS == 0) | (IDS == 5))
    assert (dataset.task, dataset.thing_label_ids, len(dataset.id2label)) == ("panoptic", [0, 3], 4)
    names = DatasetRows(panoptic_rows(), id2label={0: "a", 1: "b", 3: "d"})
    np.testing.assert_array_equal(names[0].segments.class_ids, [2, 1])
    assert IGNORED not in DatasetRows(panoptic_rows(), ignore_unknown=False)[0].segments.ids


def test_bad_panoptic_rows_are_named():
    with pytest.raises(ValueError, match="row 0, label holds the ids 700, which its annotation lacks"):
        DatasetRows(panoptic_rows(id=701))[0]
    with pytest.raises(ValueError, match="row 0, label: segment 700 has category_id 9, not among"):
        DatasetRows(panoptic_rows(category_id=9), id2label=["a", "b", "c", "d"])[0]
    with pytest.raises(ValueError, match="row 0, label: segment id 16777216 is no colour"):
        DatasetRows(panoptic_rows(id=1 << 24))[0]


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
