"""A mask file for each object, in the two layouts."""

import numpy as np
import pytest
from PIL import Image

from m2f.data.dataset_formats import list_splits, open_dataset
from m2f.data.object_masks import named_images, read_binary_mask

SIZE = (6, 8)
MASKS = np.random.default_rng(0).random((3, *SIZE)) > 0.5


def save(path, pixels=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8) if pixels is None else pixels).save(path)


def bowl(root, name: str, masks):
    save(root / name / "images" / f"{name}.png")
    (root / name / "masks").mkdir()
    for i, mask in enumerate(masks):
        save(root / name / "masks" / f"{i}f{name}.png", mask.astype(np.uint8) * 255)


def test_the_data_science_bowl(tmp_path):
    for name, masks in (("abc", MASKS), ("def", MASKS[:1]), ("ghi", [])):
        bowl(tmp_path / "stage1_train", name, masks)
    assert list_splits(tmp_path) == ["stage1_train"]
    for dataset in (open_dataset(tmp_path, "train"), open_dataset(tmp_path / "stage1_train")):
        assert (dataset.format, dataset.task, dataset.id2label) == ("object-masks", "instance", {0: "object"})
        np.testing.assert_array_equal(dataset[0].segments.masks(), MASKS)
        assert [len(sample.segments.class_ids) for sample in dataset] == [3, 1, 0]
    assert dataset.name_of(0) == "abc/images/abc.png"
    assert open_dataset(tmp_path, id2label=["nucleus"])[0].segments.class_ids.tolist() == [0, 0, 0]
    save(tmp_path / "stage1_train" / "def" / "images" / "second.png")
    with pytest.raises(ValueError, match="def/images has 2 images; its masks need one"):
        open_dataset(tmp_path)


def test_pycococreator(tmp_path):
    folder = tmp_path / "train"
    for stem in ("1000", "1_x"):
        save(folder / "shapes_train2018" / f"{stem}.jpeg")
    for name, mask in zip(("1000_square_10", "1000_circle_9", "1_x_circle_0"), MASKS, strict=True):
        save(folder / "annotations" / f"{name}.png", mask.astype(np.uint8) * 255)
    dataset = open_dataset(tmp_path)
    assert (dataset.format, dataset.split, dataset.id2label) == ("object-masks", "train", {0: "circle", 1: "square"})
    first, second = dataset[0].segments, dataset[1].segments
    np.testing.assert_array_equal(first.masks(), MASKS[[1, 0]])  # in the order of their numbers
    assert (first.class_ids.tolist(), second.class_ids.tolist()) == ([0, 1], [0])
    np.testing.assert_array_equal(second.masks(), MASKS[2:])
    save(folder / "annotations" / "other.png", np.zeros(SIZE, np.uint8))
    with pytest.raises(ValueError, match="other.png is not called IMAGE_CLASS_NUMBER after an image in"):
        open_dataset(tmp_path)


def test_masks_in_all_modes(tmp_path):
    grey = MASKS[0].astype(np.uint8)
    for number, image in enumerate(
        (
            Image.fromarray(grey * 255),
            Image.fromarray(grey),
            Image.fromarray(MASKS[0]),
            Image.fromarray(grey * 255).convert("RGB"),
            Image.fromarray(grey * 255).convert("RGBA"),
            Image.fromarray(grey).convert("P"),
        )
    ):
        image.save(tmp_path / f"{number}.png")
        np.testing.assert_array_equal(read_binary_mask(tmp_path / f"{number}.png", "x"), MASKS[0], err_msg=str(number))
    Image.fromarray(np.ones(SIZE, np.uint8)).save(tmp_path / "full.png")
    assert read_binary_mask(tmp_path / "full.png", "x").all()


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (
            np.arange(48, dtype=np.uint8).reshape(SIZE),
            "holds the values 0, 1, 2, 3, 4, 5, ...; the mask of one object",
        ),
        (MASKS[0].astype(np.uint8) + 1, "holds the values 1, 2; the mask of one object has 0 and one other"),
        (np.stack([MASKS[0]] * 2 + [MASKS[1]], 2).astype(np.uint8), "has colours; the mask of one object is black"),
        (np.zeros((7, 8), np.uint8), "is 6 x 8 .* says 7 x 8"),
    ],
)
def test_masks_that_are_none(tmp_path, pixels, message):
    bowl(tmp_path, "abc", MASKS)
    save(tmp_path / "abc" / "masks" / "bad.png", pixels)
    with pytest.raises(ValueError, match=message) as error:
        open_dataset(tmp_path)[0]
    assert "bad.png" in str(error.value)


def test_masks_of_one_class_are_in_the_order_of_their_numbers(tmp_path):
    save(tmp_path / "images" / "x.png")
    for number, mask in ((10, MASKS[1]), (9, MASKS[0])):
        save(tmp_path / "annotations" / f"x_cell_{number}.png", mask.astype(np.uint8))
    np.testing.assert_array_equal(open_dataset(tmp_path)[0].segments.masks(), MASKS[:2])


def test_a_mask_after_no_image_is_refused(tmp_path):
    save(tmp_path / "images" / "x.png")
    save(tmp_path / "annotations" / "x_cell_0.png", MASKS[0].astype(np.uint8))
    save(tmp_path / "annotations" / "y_cell_0.png", MASKS[0].astype(np.uint8))
    with pytest.raises(ValueError, match="y_cell_0.png is not called IMAGE_CLASS_NUMBER after an image in"):
        named_images(tmp_path / "images", tmp_path / "annotations")


def test_label_maps_of_the_images_names_are_no_masks_of_objects(tmp_path):
    """In folders of one image each, and with names that only look like IMAGE_CLASS_NUMBER."""
    save(tmp_path / "one" / "part1" / "images" / "x.png")
    save(tmp_path / "one" / "part1" / "masks" / "x.png", MASKS[0].astype(np.uint8))
    for stem in ("x", "x_left_1"):
        save(tmp_path / "two" / "images" / f"{stem}.png")
    save(tmp_path / "two" / "annotations" / "x_left_1.png", MASKS[0].astype(np.uint8))
    assert open_dataset(tmp_path / "one", "part1").format == open_dataset(tmp_path / "two").format == "semantic-folder"


def test_masks_of_a_sideways_photo_have_one_size(tmp_path):
    """Upright or as stored, but not both."""
    bowl(tmp_path, "abc", MASKS[:1])
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", SIZE[::-1]).save(tmp_path / "abc" / "images" / "abc.png", exif=exif)
    assert open_dataset(tmp_path)[0].segments.masks().shape == (1, *SIZE[::-1])
    save(tmp_path / "abc" / "masks" / "turned.png", MASKS[1].T.astype(np.uint8))
    with pytest.raises(ValueError, match=r"its masks have different sizes \(height, width\): \[\(6, 8\), \(8, 6\)\]"):
        open_dataset(tmp_path)[0]


def test_splits_share_their_classes(tmp_path):
    for split, name in (("train", "square"), ("val", "circle")):
        save(tmp_path / split / "images" / "x.png")
        save(tmp_path / split / "annotations" / f"x_{name}_0.png", MASKS[0].astype(np.uint8))
    assert open_dataset(tmp_path, "val").id2label == {0: "circle", 1: "square"}
    assert open_dataset(tmp_path)[0].segments.class_ids.tolist() == [1]
