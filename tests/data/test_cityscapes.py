"""Cityscapes, on files made here by the rules of its scripts: instanceIds holds 1000 * label id + number for an object
and the label id elsewhere."""

import numpy as np
import pytest
from PIL import Image

from m2f.data.cityscapes import Cityscapes
from m2f.data.cityscapes_labels import CLASSES, LABELS, THINGS
from m2f.image_processing.label_values import IGNORED, NOTHING

# road 7 (train id 0), sky 23 (10), car 26 (13), a group of cars, caravan 29 (ignored), unlabeled 0, person 24 (11).
INSTANCES = np.array([[7, 7, 23, 26000], [7, 26, 26001, 26000], [29000, 0, 24003, 3]], np.uint16)
LABEL_IDS = np.array([[7, 7, 23, 26], [7, 26, 26, 26], [29, 0, 24, 3]], np.uint8)
NAME = "ulm_000001_000019"


@pytest.fixture
def root(tmp_path):
    for folder in ("leftImg8bit", "gtFine"):
        (tmp_path / folder / "train" / "ulm").mkdir(parents=True)
    labels = tmp_path / "gtFine" / "train" / "ulm"
    Image.fromarray(INSTANCES).save(labels / f"{NAME}_gtFine_instanceIds.png")
    Image.fromarray(LABEL_IDS).save(labels / f"{NAME}_gtFine_labelIds.png")
    Image.new("RGB", (4, 3)).save(labels / f"{NAME}_gtFine_color.png")
    Image.new("RGB", (4, 3)).save(tmp_path / "leftImg8bit" / "train" / "ulm" / f"{NAME}_leftImg8bit.png")
    return tmp_path


VOID = np.isin(LABEL_IDS, [0, 3, 29])
GROUP = INSTANCES == 26


def test_panoptic_segments(root):
    """As createPanopticImgs of the scripts: a segment for each value, groups of things are crowds."""
    sample = Cityscapes(root)[0]
    expected = [(7, 0), (23, 10), (24003, 11), (26000, 13), (26001, 13)]  # value, train id
    np.testing.assert_array_equal(sample.segments.class_ids, [train_id for _, train_id in expected])
    np.testing.assert_array_equal(sample.segments.masks(), [INSTANCES == value for value, _ in expected])
    np.testing.assert_array_equal(sample.segments.ignored(), VOID | GROUP)
    assert (sample.image.size, sample.name) == ((4, 3), f"ulm/{NAME}_leftImg8bit.png")


def test_instance_segments(root):
    """person is class 0 of the things, car is class 2; stuff is background."""
    segments = Cityscapes(root, task="instance")[0].segments
    np.testing.assert_array_equal(segments.class_ids, [0, 2, 2])
    np.testing.assert_array_equal(segments.masks(), [INSTANCES == value for value in (24003, 26000, 26001)])
    np.testing.assert_array_equal(segments.ignored(), VOID | GROUP)
    np.testing.assert_array_equal(segments.ids[0] == NOTHING, np.isin(LABEL_IDS, [7, 23]))


def test_semantic_segments(root):
    segments = Cityscapes(root, task="semantic")[0].segments
    np.testing.assert_array_equal(segments.class_ids, [0, 10, 11, 13])
    np.testing.assert_array_equal(segments.masks(), [LABEL_IDS == label for label in (7, 23, 24, 26)])
    np.testing.assert_array_equal(segments.ignored(), VOID)


@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
def test_unknown_pixels_may_be_background(root, task):
    ids = Cityscapes(root, task=task, ignore_unknown=False)[0].segments.ids
    assert IGNORED not in ids and (ids[0][VOID] == NOTHING).all()


def test_what_is_told_without_decoding(root):
    things = list(range(11, 19))
    for task, count, thing_label_ids in (("panoptic", 19, things), ("instance", 8, None), ("semantic", 19, [])):
        dataset = Cityscapes(root, task=task)
        assert (len(dataset.id2label), dataset.thing_label_ids) == (count, thing_label_ids)
        assert (dataset.task, dataset.format, dataset.split, len(dataset)) == (task, "cityscapes", "train", 1)
    assert dataset.id2label[13] == "car" and Cityscapes(root, task="instance").id2label[2] == "car"
    assert dataset.name_of(0) == f"ulm/{NAME}_leftImg8bit.png"
    assert dataset.image_path(0) == root / "leftImg8bit" / "train" / dataset.name_of(0)


def test_the_label_table():
    """Counts and names that Cityscapes publishes: 19 classes of 35 labels, 8 of them things."""
    assert len(LABELS) == 35 and sorted(label.id for label in LABELS) == list(range(-1, 34))
    assert [label.train_id for label in CLASSES] == list(range(19))
    things = ["person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"]
    assert [label.name for label in THINGS] == things
    assert {label.name for label in LABELS if label.has_instances} == {*things, "caravan", "trailer"}


@pytest.mark.parametrize(
    ("value", "task"),
    [(34, "panoptic"), (7001, "panoptic"), (34001, "instance"), (26001, "semantic"), (255, "semantic")],
)
def test_values_of_no_label_are_refused(root, value, task):
    kind = "labelIds" if task == "semantic" else "instanceIds"
    path = root / "gtFine" / "train" / "ulm" / f"{NAME}_gtFine_{kind}.png"
    Image.fromarray(np.full((3, 4), value, np.uint16)).save(path)
    with pytest.raises(ValueError, match=rf"{kind}\.png holds the value {value}, which stands for no label"):
        Cityscapes(root, task=task)[0]


def test_missing_files_and_wrong_options_are_named(root):
    with pytest.raises(ValueError, match="task must be one of panoptic, instance, semantic, got 'depth'"):
        Cityscapes(root, task="depth")
    with pytest.raises(FileNotFoundError, match="no such folder: .*leftImg8bit/val"):
        Cityscapes(root, "val")
    (root / "leftImg8bit" / "val").mkdir()
    with pytest.raises(ValueError, match=r"leftImg8bit/val and its folders have no file \*_leftImg8bit\.png"):
        Cityscapes(root, "val")
    (root / "gtFine" / "train" / "ulm" / f"{NAME}_gtFine_instanceIds.png").unlink()
    with pytest.raises(FileNotFoundError, match="no such file: .*_instanceIds.png"):
        Cityscapes(root)[0]


def test_sizes_must_agree(root):
    Image.new("RGB", (5, 3)).save(root / "leftImg8bit" / "train" / "ulm" / f"{NAME}_leftImg8bit.png")
    with pytest.raises(ValueError, match=r"_leftImg8bit\.png is 3 x 5 .*_instanceIds\.png says 3 x 4"):
        Cityscapes(root)[0]
