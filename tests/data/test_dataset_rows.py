"""Rows in memory, in parquet files and on disk; the expected labels are those that were written."""

import io
import shlex

import datasets
import numpy as np
import pytest
from PIL import Image
from small_rows import BLOB, IMAGE, LABELS, channels, rows_of

from m2f.commands.data_arguments import reader_option
from m2f.data.dataset_rows import DatasetRows
from m2f.image_processing.label_values import NOTHING


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """What parquet files are converted to stays in the test's folder."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


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
    names = {0: "sky", 1: "road", 2: "car", 300: "tree"}
    dataset = DatasetRows(rows_of(pixel_values=[IMAGE] * 2, mask=[wide, palette]), id2label=names)
    np.testing.assert_array_equal(dataset[0].segments.class_ids, [0, 1, 3])
    np.testing.assert_array_equal(dataset[1].segments.masks()[2], BLOB)
    dataset = DatasetRows(rows_of(image=[IMAGE], mask=[palette]), reduce_labels=True)
    assert dataset.id2label == {0: "0", 1: "1"}
    np.testing.assert_array_equal(dataset[0].segments.ignored(), (LABELS == 0) | (LABELS == 255))
    dataset = DatasetRows(rows_of(image=[IMAGE], mask=[palette]), ignore_index=2, ignore_unknown=False)
    np.testing.assert_array_equal(dataset[0].segments.ids[0] == NOTHING, BLOB)


def coloured(*colours: tuple[int, int, int]) -> Image.Image:
    """A column of each, and black ones."""
    return Image.fromarray(np.array([[*colours, *[(0, 0, 0)] * 5][:5]], np.uint8).repeat(4, 0))


@pytest.mark.parametrize("as_parquet", [False, True])
@pytest.mark.parametrize("form", ["grey", "channels"])
def test_masks_whose_object_would_be_ignored_are_refused_with_the_way_to_read_them(tmp_path, as_parquet, form):
    mask = Image.fromarray(BLOB * 255)
    rows = rows_of(image=[IMAGE], label=[mask if form == "grey" else mask.convert("RGB")])
    if as_parquet:
        rows.to_parquet(tmp_path / "x.parquet")
        rows = datasets.Dataset.from_parquet(str(tmp_path / "x.parquet"))
    with pytest.raises(
        ValueError, match="the label maps in the column label hold only 0 and 255, and 255 is"
    ) as error:
        DatasetRows(rows)
    words = shlex.split(str(error.value).partition("--data-options ")[2])
    dataset = DatasetRows(rows, **dict(map(reader_option, words)))
    np.testing.assert_array_equal(dataset[0].segments.masks(), [BLOB == 0, BLOB == 1])
    assert (dataset.id2label, dataset.task) == ({0: "background", 1: "object"}, "semantic")


def test_a_class_channel_of_0_and_255_is_refused():
    """With reduced labels 0 is background, and one class may well be all that there is."""
    mask = np.dstack([BLOB * 255, BLOB, BLOB * 0])
    rows = rows_of(image=[IMAGE], label=[Image.fromarray(mask)])
    with pytest.raises(ValueError, match="hold only 0 and 255, and 255 is ignored"):
        DatasetRows(rows)
    rows = rows_of(image=[IMAGE], label=[Image.fromarray(mask.clip(max=1))])
    np.testing.assert_array_equal(DatasetRows(rows, reduce_labels=True)[0].segments.masks(), [BLOB])


@pytest.mark.parametrize(
    ("colours", "names", "found"),
    [
        ([(128, 0, 0), (0, 128, 0)], None, "the classes 128, as"),
        ([(0, 128, 0)], None, "the numbers of instances 128, as"),
        ([(0, 128, 0)], ["ground", "cell"], "the numbers of instances 128, as"),
        ([(1, 200, 0)], None, "the numbers of instances 200, as"),
    ],
)
def test_colours_are_no_classes_and_instances(colours, names, found):
    """Behind a row without objects."""
    rows = rows_of(image=[IMAGE] * 2, annotation=[coloured((0, 0, 0)), coloured(*colours)])
    with pytest.raises(ValueError, match=f"in the column annotation have channels, .* but hold {found} colours do"):
        DatasetRows(rows, id2label=names)


def test_equal_channels_are_a_label_map_and_named_classes_may_be_large():
    grey = Image.fromarray(np.dstack([LABELS] * 3))
    dataset = DatasetRows(rows_of(image=[IMAGE] * 2, label=[coloured((0, 0, 0)), grey]))
    assert dataset.task == "semantic"
    np.testing.assert_array_equal(dataset[1].segments.masks(), [LABELS == 0, LABELS == 1, LABELS == 2])
    rows = rows_of(image=[IMAGE], label=[coloured((128, 1, 0), (128, 2, 0))])
    dataset = DatasetRows(rows, id2label={0: "none", 128: "cat"})
    assert (dataset.task, dataset[0].segments.class_ids.tolist()) == ("instance", [1, 1])
    assert DatasetRows(rows_of(image=[IMAGE], label=[coloured((0, 0, 0))])).task == "instance"


def test_ids_of_instances():
    ids = np.where(LABELS == 2, 300, LABELS.astype(np.uint16))  # 0, 1, 255 and 300
    rows = rows_of(image=[IMAGE], mask=[Image.fromarray(ids)])
    with pytest.raises(ValueError, match="0, 1, 300, for which .* 301 classes; .* give --data-options instances=true"):
        print(DatasetRows(rows).id2label)
    dataset = DatasetRows(rows, instances=True)
    np.testing.assert_array_equal(dataset[0].segments.masks(), [ids == 1, ids == 255, ids == 300])
    assert (dataset.id2label, dataset.task, dataset.thing_label_ids) == ({0: "object"}, "instance", None)
    assert dataset[0].segments.class_ids.tolist() == [0, 0, 0]
    assert DatasetRows(rows, id2label=["cell"], instances=True).id2label == {0: "cell"}
    with pytest.raises(
        ValueError, match="id2label names 2 classes; ids of instances without a table are of one class"
    ):
        DatasetRows(rows, id2label=["cell", "dog"], instances=True)


def test_names_in_the_rows():
    """As the data of transformers' example has them."""
    rows = rows_of(image=[IMAGE], annotation=[channels()], semantic_class_to_id=[{"none": 0, "cat": 1, "dog": 2}])
    assert DatasetRows(rows).id2label == {0: "none", 1: "cat", 2: "dog"}
    assert DatasetRows(rows, reduce_labels=True).id2label == {0: "cat", 1: "dog"}
    assert DatasetRows(rows, id2label=["x", "y", "z"]).id2label[0] == "x"


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


def test_an_ignored_value_that_the_user_chose_is_ignored():
    rows = rows_of(image=[IMAGE], label=[Image.fromarray(np.where(BLOB == 1, 1, 255).astype(np.uint8))])
    with pytest.raises(ValueError, match="hold only 1 and 255, and 255 is ignored"):
        DatasetRows(rows)
    segments = DatasetRows(rows, ignore_index=255)[0].segments
    np.testing.assert_array_equal(segments.ignored(), BLOB == 0)
    assert segments.class_ids.tolist() == [1]


def rows_of_paths(**columns: list[str]) -> datasets.Dataset:
    return rows_of(**{name: [{"bytes": None, "path": path} for path in paths] for name, paths in columns.items()})


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("images/a.png", "masks/a.png"),
        ("C:\\data\\images\\a.png", "C:\\data\\masks\\a.png"),
        ("/elsewhere/images/a.png", "/elsewhere/masks/a.png"),
        ("../images/A.PNG", "https://host/masks/a.png?size=1"),
    ],
)
def test_paths_of_another_machine_mean_files_in_the_folder(tmp_path, image, label):
    for name, picture in (("images", IMAGE), ("masks", Image.fromarray(LABELS))):
        (tmp_path / "data" / name).mkdir(parents=True)
        picture.save(tmp_path / "data" / name / "a.png")
    dataset = DatasetRows(rows_of_paths(image=[image], label=[label]), folder=tmp_path / "data")
    np.testing.assert_array_equal(np.asarray(dataset[0].image), np.asarray(IMAGE))
    np.testing.assert_array_equal(dataset[0].segments.masks()[2], BLOB)


def test_paths_of_rows_mean_no_file_outside_and_none_of_another_row(tmp_path):
    folder = tmp_path / "data"
    for place in ("", "data/images", "data/masks"):
        (tmp_path / place).mkdir(exist_ok=True, parents=True)
        Image.fromarray(LABELS).save(tmp_path / place / "a.png")
    masks = ["masks/a.png"] * 4
    images = ["images/a.png", "../a.png", "/other/A.png", "b.png"]
    dataset = DatasetRows(rows_of_paths(image=images, label=masks), folder=folder)
    assert len(dataset[0].segments.class_ids) == 3
    with pytest.raises(ValueError, match="'images/a.png' in .* is already that of 'images/a.png'"):
        dataset[1]
    with pytest.raises(ValueError, match="row 2 names the file '/other/A.png', but"):
        dataset[2]
    with pytest.raises(FileNotFoundError, match="b.png"):
        dataset[3]
    (folder / "images" / "a.png").unlink()
    with pytest.raises(ValueError, match="row 0 names the file '../a.png', which is outside .* and is not read"):
        DatasetRows(rows_of_paths(image=["../a.png"], label=masks[:1]), folder=folder)[0]


def test_masks_of_0_and_1_beside_masks_of_0_and_255():
    rows = rows_of(image=[IMAGE] * 2, label=[Image.fromarray(BLOB), Image.fromarray(BLOB * 255)])
    with pytest.raises(ValueError, match="hold 0 and 1 in some maps and 0 and 255 in others"):
        _ = DatasetRows(rows).id2label
    assert DatasetRows(rows, ignore_index=255).id2label == {0: "0", 1: "1"}


def test_a_file_that_a_later_row_names_is_of_no_other(tmp_path):
    for name, picture in (("images", IMAGE), ("masks", Image.fromarray(LABELS))):
        (tmp_path / name).mkdir()
        picture.save(tmp_path / name / "a.png")
    rows = rows_of_paths(image=["A.PNG", "images/a.png"], label=["masks/a.png"] * 2)
    with pytest.raises(FileNotFoundError, match="row 0: no such file: .*A.PNG"):
        DatasetRows(rows, folder=tmp_path)[0]
    assert len(DatasetRows(rows.select([0]), folder=tmp_path)[0].segments.class_ids) == 3
