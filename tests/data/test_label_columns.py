"""The kinds of labels in rows; the expected ones are those that were written."""

import datasets
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from small_rows import BLOB, CLASSES, IMAGE, NUMBERS, channels, rows_of

from m2f.data.dataset_rows import DatasetRows
from m2f.image_processing.label_values import IGNORED, NOTHING


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """What parquet files are converted to stays in the test's folder."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


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


def test_crowds_are_counted_and_may_be_objects():
    objects = [{"category": i % 2, "segmentation": [POLYGON], "iscrowd": i != 1} for i in range(4)]
    rows = rows_of(image=[IMAGE], annotations=[objects])
    kinds = {kind: text for kind, text in DatasetRows(rows).remarks}
    assert kinds["crowd region"].startswith("3 of 4 annotations are crowd regions and take no part; annotation tools")
    assert kinds["class of crowd regions"] == "class 0 '0' has no other annotation than 2 of these"
    dataset = DatasetRows(rows, crowd="object")
    np.testing.assert_array_equal(dataset[0].segments.class_ids, [0, 1, 0, 1])
    assert dataset.remarks == [] and not dataset[0].segments.ignored().any()
    panoptic = DatasetRows(panoptic_rows(), crowd="object")
    np.testing.assert_array_equal(panoptic[0].segments.masks(), [IDS == 700, IDS == 5, IDS == 70_000])
    assert panoptic.remarks == []
    ((_, text), (_, of_class)) = DatasetRows(panoptic_rows()).remarks
    assert text.startswith("1 of 3 annotations are crowd regions") and of_class.startswith("class 0 '0' has no other")


def test_bad_pieces_are_left_out_and_counted():
    """The expected mask is POLYGON's own, drawn by pycocotools."""
    pieces = [[POLYGON, [0.0, 0.0, 1.0, 1.0], []], [[0.0, 0.0, 1.0, 1.0]], []]
    rows = rows_of(image=[IMAGE], objects=[[{"category": 0, "segmentation": piece} for piece in pieces]])
    expected = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([POLYGON], 4, 5)))
    np.testing.assert_array_equal(DatasetRows(rows)[0].segments.masks(), [expected])
    assert DatasetRows(rows).remarks == [
        ("left out", "2 of 3 annotations have no polygon of three points (a box is no mask); left out"),
        ("left out", "2 polygons of other annotations have fewer than three points; left out"),
    ]


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
            {"category": 0, "segmentation": [[0.0, 0.0, 1.0, 1.0, 2.0, 2.0, 3.0]]},
            "annotation 0: a polygon needs x and y of at",
        ),
        ({"category": 0, "id": 7}, "annotation 7: segmentation is None"),
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
    assert dataset.remarks == DatasetRows(rows_of(image=[IMAGE], objects=[[entry]])).remarks == []


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


@pytest.mark.parametrize("category", [None, "cell"])
def test_a_panoptic_segment_without_a_category_number_is_named(category):
    image = Image.fromarray(np.full((4, 5, 3), (7, 0, 0), np.uint8))
    infos = [[{"id": 7, "category_id": category}]]
    with pytest.raises(ValueError, match=f"row 0, label: .* 7: 'category_id' is {category!r}; an integer is needed"):
        DatasetRows(rows_of(image=[IMAGE], label=[image], segments_info=infos))[0]
