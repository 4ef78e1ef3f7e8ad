"""Pascal VOC's layout with palettes and with colours, for both tasks."""

import numpy as np
import pytest
from PIL import Image

from m2f.data.dataset_formats import list_splits, open_dataset
from m2f.data.voc_segmentation import NAMES, voc_colour, voc_root

CLASSES = np.array([[0, 1, 1, 255, 15], [0, 1, 255, 15, 15], [0, 0, 0, 15, 1]], np.uint8)
OBJECTS = np.array([[0, 1, 1, 255, 2], [0, 1, 255, 2, 2], [0, 0, 0, 2, 3]], np.uint8)
PALETTE = np.array([voc_colour(number) for number in range(256)], np.uint8)


def save(path, pixels, palette: bool = False):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if palette:
        image.putpalette(PALETTE.ravel().tolist())
    image.save(path)


@pytest.fixture(params=["palette", "colours"])
def root(request, tmp_path):
    for stem in ("a", "b"):
        save(tmp_path / "JPEGImages" / f"{stem}.jpg", np.zeros((3, 5, 3), np.uint8))
        for folder, values in (("SegmentationClass", CLASSES), ("SegmentationObject", OBJECTS)):
            pixels = values if request.param == "palette" else PALETTE[values]
            save(tmp_path / folder / f"{stem}.png", pixels, request.param == "palette")
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for split, stems in (("train", "a\n"), ("val", "b\n"), ("trainval", "a\nb\n"), ("test", "c\n")):
        (lists / f"{split}.txt").write_text(stems)
    return tmp_path


def test_the_palette():
    """From the development kit's list of colours."""
    assert [voc_colour(i) for i in (0, 1, 2, 3, 8, 15, 20, 255)] == [
        (0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (64, 0, 0), (192, 128, 128), (0, 64, 128), (224, 224, 192),
    ]  # fmt: skip


def test_classes(root):
    assert list_splits(root) == ["train", "val"]  # no labels for test, and trainval is both
    dataset = open_dataset(root, "val")
    assert (dataset.format, dataset.task, dataset.name_of(0), len(dataset)) == ("voc", "semantic", "b.jpg", 1)
    assert list(dataset.id2label.values()) == NAMES and dataset.thing_label_ids == []
    segments = dataset[0].segments
    assert segments.class_ids.tolist() == [0, 1, 15]
    np.testing.assert_array_equal(segments.masks(), [CLASSES == 0, CLASSES == 1, CLASSES == 15])
    np.testing.assert_array_equal(segments.ignored(), CLASSES == 255)


def test_objects(root):
    dataset = open_dataset(root, task="instance")
    assert list(dataset.id2label.values()) == NAMES[1:] and dataset.thing_label_ids is None
    segments = dataset[0].segments
    names = [dataset.id2label[label] for label in segments.class_ids.tolist()]
    # In the order of their numbers or, of colours, of those: (128, 0, 0), (0, 128, 0), (128, 128, 0).
    order = [0, 1, 2] if names[1] == "person" else [1, 0, 2]
    assert [names[i] for i in order] == ["aeroplane", "person", "aeroplane"]
    np.testing.assert_array_equal(segments.masks()[order], [OBJECTS == 1, OBJECTS == 2, OBJECTS == 3])
    np.testing.assert_array_equal(segments.ignored(), OBJECTS == 255)
    save(root / "SegmentationObject" / "a.png", np.where(OBJECTS == 3, 1, OBJECTS).astype(np.uint8) * (CLASSES != 15))
    assert open_dataset(root, task="instance")[0].segments.class_ids.tolist() == [0]
    save(root / "SegmentationObject" / "a.png", np.ones_like(OBJECTS))
    with pytest.raises(ValueError, match=r"SegmentationObject/a.png: the object 1 lies on 3 classes"):
        open_dataset(root, task="instance")[0]


def test_the_devkit_above_and_names_of_ones_own(root, tmp_path_factory):
    above = tmp_path_factory.mktemp("kit")
    (above / "VOCdevkit").mkdir()
    (above / "VOCdevkit" / "VOC2012").symlink_to(root)
    assert list_splits(above) == ["train", "val"]
    assert open_dataset(above)[0].segments.class_ids.tolist() == [0, 1, 15]


def test_names_of_cvat_and_labelme2voc(tmp_path):
    pixels = np.array([[[10, 20, 30], [0, 0, 0]]], np.uint8)
    save(tmp_path / "JPEGImages" / "a.png", pixels)
    save(tmp_path / "SegmentationClass" / "a.png", pixels)
    save(tmp_path / "SegmentationObject" / "a.png", pixels)
    (tmp_path / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nbackground:0,0,0::\ndog:10,20,30::\n")
    dataset = open_dataset(tmp_path)  # without lists all is "train"
    assert (dataset.split, dataset.id2label) == ("train", {0: "background", 1: "dog"})
    np.testing.assert_array_equal(dataset[0].segments.masks(), [[[0, 1]], [[1, 0]]])
    assert open_dataset(tmp_path, task="instance").id2label == {0: "dog"}
    with pytest.raises(ValueError, match="id2label has 1 classes, but .*labelmap.txt has 2"):
        open_dataset(tmp_path, id2label=["x"])
    (tmp_path / "labelmap.txt").unlink()
    with pytest.raises(ValueError, match=r"colours \(10, 20, 30\) \(1 pixels\), which VOC's palette lacks"):
        open_dataset(tmp_path)[0]
    (tmp_path / "class_names.txt").write_text("__ignore__\n_background_\ndog\n")
    save(tmp_path / "SegmentationClass" / "a.png", np.array([[1, 0]], np.uint8), palette=True)
    assert open_dataset(tmp_path).id2label == {0: "_background_", 1: "dog"}
    assert open_dataset(tmp_path, task="instance")[0].segments.class_ids.tolist() == [0]


def test_what_is_wrong(root):
    with pytest.raises(ValueError, match="task must be one of semantic, instance, got 'panoptic'"):
        open_dataset(root, task="panoptic")
    save(root / "SegmentationClass" / "a.png", np.full((3, 5), 21, np.uint8))
    with pytest.raises(ValueError, match="SegmentationClass/a.png holds the labels 21"):
        open_dataset(root)[0]
    save(root / "SegmentationClass" / "a.png", CLASSES[:2])
    with pytest.raises(ValueError, match="a.jpg is 3 x 5 .* says 2 x 5"):
        open_dataset(root)[0]
    (root / "SegmentationClass" / "a.png").unlink()
    (root / "ImageSets" / "Segmentation" / "train.txt").write_text("b\na\n../x\n")
    with pytest.raises(ValueError, match="train.txt names the file '../x.png', which is outside"):
        open_dataset(root)
    (root / "ImageSets" / "Segmentation" / "train.txt").write_text("b\na\n")
    with pytest.raises(FileNotFoundError, match="SegmentationClass/a.png"):
        open_dataset(root)[1]


def test_an_object_on_two_classes_and_maps_of_two_sizes(root):
    save(root / "SegmentationObject" / "a.png", np.where(CLASSES == 0, 0, 1).astype(np.uint8))
    with pytest.raises(ValueError, match=r"SegmentationObject/a.png: the object 1 lies on 2 classes"):
        open_dataset(root, task="instance")[0]
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (5, 3)).save(root / "JPEGImages" / "a.jpg", exif=exif)
    save(root / "SegmentationObject" / "a.png", np.ascontiguousarray(OBJECTS.T))
    with pytest.raises(ValueError, match=r"have different sizes: \(5, 3\), \(3, 5\)"):
        open_dataset(root, task="instance")[0]


def test_a_colour_that_has_a_channel_of_void_is_none(tmp_path):
    """(224, 0, 0) is a class of one's own, (224, 224, 192) is unknown."""
    pixels = np.array([[[224, 0, 0], [224, 224, 192], [0, 0, 0]]], np.uint8)
    for folder in ("JPEGImages", "SegmentationClass", "SegmentationObject"):
        save(tmp_path / folder / "a.png", pixels)
    (tmp_path / "labelmap.txt").write_text("background:0,0,0::\ndog:224,0,0::\n")
    segments = open_dataset(tmp_path, task="instance")[0].segments
    np.testing.assert_array_equal(segments.masks(), [[[1, 0, 0]]])
    np.testing.assert_array_equal(segments.ignored(), [[False, True, False]])


@pytest.mark.parametrize(
    "line", ["a", "a  1", "a.jpg", "/JPEGImages/a.jpg /SegmentationClass/a.png", "JPEGImages\\a.jpg"]
)
def test_lists_as_people_write_them(root, line):
    path = root / "ImageSets" / "Segmentation" / "train.txt"
    path.write_bytes(b"\xef\xbb\xbf" + line.encode() + b"\r\n\r\n")
    assert list_splits(root) == ["train", "val"]
    dataset = open_dataset(root)
    assert len(dataset) == 1 and dataset[0].segments.class_ids.tolist() == [0, 1, 15]


def test_two_folders_of_this_layout_are_none(root, tmp_path_factory):
    above = tmp_path_factory.mktemp("kit")
    for name in ("VOC2007", "VOC2012"):
        (above / name).symlink_to(root)
    assert voc_root(above) is None and voc_root(above / "VOC2007") == above / "VOC2007"
