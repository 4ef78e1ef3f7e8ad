"""Folders of label maps; the expected labels are those that were written."""

import json
import shlex

import numpy as np
import pytest
from PIL import Image

from m2f.commands.data_arguments import reader_option
from m2f.data.semantic_folder import SemanticFolder, semantic_splits
from m2f.image_processing.label_values import IGNORED, NOTHING

LABELS = np.array([[1, 1, 255, 0], [2, 2, 0, 0], [2, 2, 0, 1]], np.uint8)
NAMES = {0: "sky", 1: "road", 2: "car"}


@pytest.fixture
def write(tmp_path):
    """Writes images/ and annotations/ with an image for each label map and gives the two folders."""

    def write_files(label_maps: dict[str, np.ndarray]):
        for name, labels in label_maps.items():
            for folder in ("images", "annotations"):
                (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(labels).save(tmp_path / "annotations" / f"{name}.png")
            Image.new("RGB", labels.shape[::-1]).save(tmp_path / "images" / f"{name}.jpg")
        return tmp_path / "images", tmp_path / "annotations"

    return write_files


def test_a_sample_has_one_segment_for_each_class(write):
    dataset = SemanticFolder(*write({"a": LABELS, "city/b": LABELS * 0}), NAMES)
    sample = dataset[0]
    np.testing.assert_array_equal(sample.segments.masks(), [LABELS == 0, LABELS == 1, LABELS == 2])
    np.testing.assert_array_equal(sample.segments.class_ids, [0, 1, 2])
    np.testing.assert_array_equal(sample.segments.ignored(), LABELS == 255)
    assert (sample.image.mode, sample.image.size, sample.name) == ("RGB", (4, 3), "a.jpg")
    assert dataset[1].segments.class_ids.tolist() == [0]


def test_what_is_told_without_decoding(write, tmp_path):
    dataset = SemanticFolder(*write({"city/b": LABELS, "a": LABELS}), NAMES)
    assert [dataset.name_of(i) for i in range(len(dataset))] == ["a.jpg", "city/b.jpg"]
    assert dataset.image_path(1) == tmp_path / "images" / "city" / "b.jpg"
    assert (dataset.id2label, dataset.thing_label_ids) == (NAMES, [])
    assert (dataset.task, dataset.format, dataset.split) == ("semantic", "semantic-folder", "images")


def test_ignored_pixels_may_be_background_and_have_another_label(write):
    folders = write({"a": LABELS})
    ids = SemanticFolder(*folders, NAMES, ignore_unknown=False)[0].segments.ids
    assert IGNORED not in ids
    np.testing.assert_array_equal(ids[0] == NOTHING, LABELS == 255)
    segments = SemanticFolder(*folders, {0: "sky", 2: "car", 255: "rest"}, ignore_index=1)[0].segments
    np.testing.assert_array_equal(segments.ignored(), LABELS == 1)
    np.testing.assert_array_equal(segments.masks()[2], LABELS == 255)


def test_labels_with_gaps_become_classes_without(write):
    labels = np.where(LABELS == 2, 700, LABELS.astype(np.uint16))
    dataset = SemanticFolder(*write({"a": labels}), {0: "sky", 1: "road", 700: "car"})
    np.testing.assert_array_equal(dataset[0].segments.class_ids, [0, 1, 2])
    assert dataset.id2label == NAMES


def test_reduced_labels(write):
    """ADE20K's rule: 0 is unknown, label 1 is class 0."""
    dataset = SemanticFolder(*write({"a": LABELS}), ["wall", "building"], reduce_labels=True)
    np.testing.assert_array_equal(dataset[0].segments.masks(), [LABELS == 1, LABELS == 2])
    np.testing.assert_array_equal(dataset[0].segments.ignored(), (LABELS == 0) | (LABELS == 255))
    ids = SemanticFolder(*write({"a": LABELS}), ["w", "b"], reduce_labels=True, ignore_unknown=False)[0].segments.ids
    np.testing.assert_array_equal(ids[0] == NOTHING, (LABELS == 0) | (LABELS == 255))


def test_without_names_classes_are_numbered_up_to_the_highest_of_all_splits(write, tmp_path):
    folders = write({"a": LABELS})
    assert SemanticFolder(*folders).id2label == {0: "0", 1: "1", 2: "2"}
    assert SemanticFolder(*folders, reduce_labels=True).id2label == {0: "0", 1: "1"}
    (tmp_path / "val").mkdir()
    Image.new("L", (1, 1), 4).save(tmp_path / "val" / "x.png")
    dataset = SemanticFolder(*folders, class_folders=[folders[1], tmp_path / "val"])
    assert len(dataset.id2label) == 5 and dataset[0].segments.class_ids.tolist() == [0, 1, 2]


def test_the_numbers_of_the_classes_in_the_files(write):
    """What predictions are written with, so that they can be compared with the label maps pixel by pixel."""
    folders = write({"a": LABELS.clip(max=2)})
    assert SemanticFolder(*folders).label_values == [0, 1, 2]
    assert SemanticFolder(*folders, reduce_labels=True).label_values == [1, 2]
    assert SemanticFolder(*folders, {0: "wall", 1: "building"}, reduce_labels=True).label_values == [1, 2]
    assert SemanticFolder(*folders, {0: "sky", 2: "car", 7: "road"}).label_values == [0, 2, 7]


def test_labels_that_are_no_class_are_refused(write):
    dataset = SemanticFolder(*write({"a": LABELS}), ["sky", "road"])
    with pytest.raises(ValueError, match=r"annotations/a\.png holds the labels 2; the classes are the labels 0, 1 \("):
        dataset[0]


MASK = np.array([[0, 255], [255, 0]], np.uint8)


def as_palette(values: np.ndarray) -> Image.Image:
    image = Image.fromarray(values)
    image.putpalette(list(range(256)) * 3)
    return image


@pytest.mark.parametrize("kind", ["grey", "palette", "channels"])
@pytest.mark.parametrize("names", [None, ["ground", "cell"]])
def test_masks_whose_object_would_be_ignored_are_refused_with_the_way_to_read_them(write, kind, names):
    folders = write({"a": MASK, "b": MASK * 0})
    forms = {"grey": Image.fromarray, "palette": as_palette, "channels": lambda m: Image.fromarray(np.dstack([m] * 3))}
    forms[kind](MASK).save(folders[1] / "a.png")
    with pytest.raises(
        ValueError, match=r"annotations hold only 0 and 255, and 255 is ignored; to have both"
    ) as error:
        SemanticFolder(*folders, names)
    assert "\n" not in str(error.value)
    words = shlex.split(str(error.value).partition("--data-options ")[2])
    dataset = SemanticFolder(*folders, **dict(map(reader_option, words)))
    np.testing.assert_array_equal(dataset[0].segments.masks(), [MASK == 0, MASK == 255])
    assert dataset.id2label == dict(enumerate(names or ["background", "object"]))


@pytest.mark.parametrize(
    ("values", "options", "refused"),
    [
        ([10, 255], {}, True),  # of a palette
        ([0, 255], {"ignore_index": "auto"}, True),
        ([0, 1], {"reduce_labels": True}, True),
        ([0, 1], {"reduce_labels": True, "ignore_index": 1}, True),
        ([0, 255], {"reduce_labels": True}, True),
        ([0, 1], {}, False),
        ([0, 255], {"ignore_index": None, "id2label": {0: "a", 255: "b"}}, False),
        ([1, 255], {"id2label": ["a", "b"]}, False),  # parts of one class are labelled
        ([0, 0], {"id2label": ["a", "b"]}, False),
        ([255, 255], {"id2label": ["a", "b"]}, False),
    ],
)
def test_two_values_of_which_one_is_ignored(write, values, options, refused):
    folders = write({"a": np.array([values], np.uint8)})
    if not refused:
        SemanticFolder(*folders, **options)
        return
    with pytest.raises(ValueError, match=f"hold only {values[0]} and {values[1]}, and .* ignored") as error:
        SemanticFolder(*folders, **options)
    words = shlex.split(str(error.value).partition("--data-options ")[2])
    dataset = SemanticFolder(*folders, **options | dict(map(reader_option, words)))
    assert dataset[0].segments.class_ids.tolist() == [0, 1]


@pytest.mark.parametrize(("other", "index"), [(1, 11), (0, 255), (1, 0)])
def test_an_ignored_value_that_the_user_chose_is_ignored(write, other, index):
    """Though it is one of two."""
    labels = np.where(LABELS == 1, other, index).astype(np.uint8)
    segments = SemanticFolder(*write({"a": labels}), ignore_index=index)[0].segments
    assert segments.class_ids.tolist() == [other]
    np.testing.assert_array_equal(segments.ignored(), LABELS != 1)


def test_a_choice_of_another_word_is_refused(write):
    with pytest.raises(ValueError, match=r"ignore_index must be a number, None \(null\) or 'auto', got 'none'"):
        SemanticFolder(*write({"a": LABELS}), ignore_index="none")


def test_a_label_map_is_read_once_for_the_classes(write, monkeypatch):
    read = []
    monkeypatch.setattr("m2f.data.semantic_folder.read_label_map", lambda *args: read.append(args[1]) or LABELS)
    dataset = SemanticFolder(*write({name: LABELS for name in "abc"}))
    assert len(read) == 1 and len(dataset.id2label) == 3
    assert sorted(read) == [str(path) for path in sorted(dataset.label_folder.iterdir())]


@pytest.mark.parametrize(
    ("maps", "options", "refused"),
    [
        ([[0, 1], [0, 255]], {}, True),
        ([[0, 1], [0, 255], [0, 0], [255, 255], [1, 1]], {}, True),
        ([[0, 1], [0, 255]], {"ignore_index": 255}, False),
        ([[0, 1], [0, 255], [1, 255]], {}, False),
        ([[0, 1], [0, 255], [0, 2]], {}, False),
        ([[0, 1], [255, 255]], {}, False),
    ],
)
def test_masks_of_0_and_1_beside_masks_of_0_and_255(write, maps, options, refused):
    folders = write({str(number): np.array([values], np.uint8) for number, values in enumerate(maps)})
    dataset = SemanticFolder(*folders, **options)
    if refused:
        with pytest.raises(ValueError, match="hold 0 and 1 in some maps and 0 and 255 in others, .*ignore_index=255"):
            _ = dataset.id2label
    else:
        assert dataset.id2label[1] == "1"


def test_one_bit_masks_are_two_classes(write):
    folders = write({"a": MASK})
    Image.fromarray(MASK).convert("1").save(folders[1] / "a.png")
    np.testing.assert_array_equal(SemanticFolder(*folders)[0].segments.masks(), [MASK == 0, MASK == 255])


def test_an_image_of_one_class_and_ignored_pixels_is_none_of_a_dataset_of_more(write, tmp_path):
    folders = write({"a": MASK, "b": LABELS})
    assert SemanticFolder(*folders)[0].segments.class_ids.tolist() == [0]
    (folders[1] / "a.png").rename(tmp_path / "a.png")
    (folders[0] / "a.jpg").unlink()
    (folders[1] / "0.png").write_bytes(b"broken")  # is an error when it is asked for
    assert SemanticFolder(*folders)[1].segments.class_ids.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        ([[0, 1, 2, 300]], "the values 0, 1, 2, 300, for which there would be 301 classes"),
        ([[0, 38, 75, 113]], "the values 0, 38, 75, 113, for which there would be 114 classes"),
        ([[0, 1, 2, 3], range(12), [0]], "the values 1 to n without a gap in each map, with n up to 11, as if c"),
        ([range(33)], "the values 1 to n without a gap in each map, with n up to 32"),
    ],
)
def test_values_that_are_no_classes_by_number_are_refused(write, maps, message):
    folders = write({f"{i}": np.array([list(values)], np.uint16) for i, values in enumerate(maps)})
    with pytest.raises(ValueError, match=f"annotations hold {message}.*; if they are ids of instances give --format "):
        print(SemanticFolder(*folders).id2label)
    names = {label: str(label) for label in range(301)}
    assert len(SemanticFolder(*folders, names, ignore_index=None)) == len(maps)


@pytest.mark.parametrize("maps", [[range(12), range(12)], [range(12), [0, 1, 3]], [[0, 1], [0, 1, 2]], [[0, 7, 40]]])
def test_values_that_may_be_classes_by_number_are_taken(write, maps):
    folders = write({f"{i}": np.array([list(values)], np.uint8) for i, values in enumerate(maps)})
    assert len(SemanticFolder(*folders).id2label) == max(map(max, maps)) + 1


def test_missing_files_of_a_pair_are_named_when_asked_for(write, tmp_path):
    folders = write({"a": LABELS, "b": LABELS, "c": LABELS})
    (tmp_path / "annotations" / "a.png").unlink()
    (tmp_path / "images" / "b.jpg").unlink()
    dataset = SemanticFolder(*folders, NAMES)
    with pytest.raises(FileNotFoundError, match=r"no such file: .*annotations/a\.png"):
        dataset[0]
    with pytest.raises(FileNotFoundError, match=r"no such file: .*images/b\.jpg"):
        dataset[1]
    assert dataset[2].name == "c.jpg"


def test_folders_that_do_not_belong_together_are_refused(write, tmp_path):
    images, labels = write({"a": LABELS})
    (images / "a.jpg").rename(images / "x.jpg")
    with pytest.raises(ValueError, match=r"no image in .*images \(1 files\) has a label map .*\(1 PNG and TIFF"):
        SemanticFolder(images, labels, NAMES)
    with pytest.raises(FileNotFoundError, match="no such folder: .*absent"):
        SemanticFolder(images, tmp_path / "absent", NAMES)


def test_two_images_of_one_name_are_refused(write):
    images, labels = write({"a": LABELS})
    Image.new("RGB", (4, 3)).save(images / "a.png")
    with pytest.raises(ValueError, match=r"images has two files for one image: a\.jpg and a\.png"):
        SemanticFolder(images, labels, NAMES)


def test_sizes_must_agree(write):
    images, labels = write({"a": LABELS})
    Image.new("RGB", (5, 3)).save(images / "a.jpg")
    with pytest.raises(ValueError, match=r"images/a\.jpg is 3 x 5 .*annotations/a\.png says 3 x 4"):
        SemanticFolder(images, labels, NAMES)[0]


def test_label_of_a_sideways_image(write, tmp_path):
    """The label map has the size of the stored pixels, so it is turned with them: clockwise for orientation 6."""
    folders = write({"a": LABELS})
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (4, 3)).save(tmp_path / "images" / "a.jpg", exif=exif)
    sample = SemanticFolder(*folders, NAMES)[0]
    assert sample.image.size == (3, 4)
    np.testing.assert_array_equal(sample.segments.masks()[1], np.rot90(LABELS == 1, -1))


@pytest.mark.parametrize("labels", ["annotations", "masks", "labels"])
@pytest.mark.parametrize(
    ("pattern", "splits"),
    [("{kind}/{split}", ["training", "validation"]), ("{split}/{kind}", ["training", "validation"])],
)
def test_layouts_are_found(tmp_path, labels, pattern, splits):
    for split in splits:
        for kind, suffix in (("images", "jpg"), (labels, "png")):
            folder = tmp_path / pattern.format(kind=kind, split=split)
            folder.mkdir(parents=True)
            Image.new("L", (1, 1)).save(folder / f"a.{suffix}")
    found = semantic_splits(tmp_path)
    assert list(found) == splits
    for split, (images, label_maps) in found.items():
        assert images == tmp_path / pattern.format(kind="images", split=split)
        assert label_maps == tmp_path / pattern.format(kind=labels, split=split)


def test_layout_without_splits_and_what_is_none(write, tmp_path):
    assert semantic_splits(tmp_path) == {}
    images, labels = write({"a": LABELS})
    assert semantic_splits(tmp_path) == {"train": (images, labels)}
    (labels / "a.png").rename(labels / "a.txt")
    assert semantic_splits(tmp_path) == {}
    (labels / "a.json").write_text(json.dumps({}))
    assert semantic_splits(tmp_path / "absent") == {}
