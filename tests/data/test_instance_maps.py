"""Maps of instance ids; the expected masks are where the maps written here have the number."""

import numpy as np
import pytest
from PIL import Image

from m2f.commands.check import report_lines
from m2f.data.dataset_check import check_dataset
from m2f.data.instance_maps import InstanceMaps, InstanceTable

IDS = np.array([[1, 1, 0, 300], [2, 2, 0, 300], [2, 255, 255, 1]], np.uint16)


@pytest.fixture
def write(tmp_path):
    def write_files(**maps: np.ndarray):
        for folder in ("images", "masks"):
            (tmp_path / folder).mkdir()
        for name, ids in maps.items():
            Image.fromarray(ids).save(tmp_path / "masks" / f"{name}.tif")
            Image.new("RGB", ids.shape[::-1]).save(tmp_path / "images" / f"{name}.jpg")
        return tmp_path / "images", tmp_path / "masks"

    return write_files


def test_every_number_is_an_object(write):
    """Two parts with one number are one object, and 255 is one as well; ids have up to 31 bits."""
    large = np.array([[0, 2**31 - 1], [70_000, 0]], np.int32)
    dataset = InstanceMaps(*write(a=IDS, b=large))
    sample = dataset[0]
    np.testing.assert_array_equal(sample.segments.masks(), [IDS == number for number in (1, 2, 255, 300)])
    np.testing.assert_array_equal(sample.segments.class_ids, [0, 0, 0, 0])
    np.testing.assert_array_equal(dataset[1].segments.masks(), [large == 70_000, large == 2**31 - 1])
    assert (sample.image.size, sample.name, dataset.name_of(1), len(dataset)) == ((4, 3), "a.jpg", "b.jpg", 2)
    assert (dataset.id2label, dataset.task, dataset.thing_label_ids) == ({0: "object"}, "instance", None)


def test_ignored_pixels_and_maps_without_objects(write):
    dataset = InstanceMaps(*write(a=IDS, b=IDS * 0, c=IDS * 0 + 5), ignore_index=255)
    np.testing.assert_array_equal(dataset[0].segments.masks(), [IDS == number for number in (1, 2, 300)])
    np.testing.assert_array_equal(dataset[0].segments.ignored(), IDS == 255)
    assert dataset[1].segments.class_ids.tolist() == [] and dataset[2].segments.areas().tolist() == [12]


@pytest.mark.parametrize("delimiter", [",", ";"])
def test_a_table_tells_the_classes(write, tmp_path, delimiter):
    table = tmp_path / "t.csv"
    text = "image,id,class\n,1-299,cat\na.tif,2,dog\nb,1,cow\n,300,dog\n"
    table.write_text(text.replace(",", delimiter), encoding="utf-8-sig")
    dataset = InstanceMaps(*write(a=IDS, b=IDS.clip(max=1), c=IDS + 1), classes=table)
    assert dataset.id2label == {0: "cat", 1: "dog", 2: "cow"}
    assert dataset[0].segments.class_ids.tolist() == [0, 1, 0, 1]  # 1, 2, 255, 300
    assert dataset[1].segments.class_ids.tolist() == [2]
    with pytest.raises(ValueError, match=r"masks/c\.tif holds the id 301, which .*t\.csv lacks"):
        dataset[2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,id\na,1\n", r"has the columns \['image', 'id'\]; id and class are needed"),
        ("id,class\n", "has no row"),
        ("id,class\n1,cat\nx,dog\n", "line 3 has id 'x' and class 'dog'; a number or range such as 1-9, and a name"),
        ("id,class\n1,\n", "line 2 has id '1' and class ''"),
        ("id,class\n1\n", "line 2 has id '1' and class None"),
        ("", "has the columns"),
        ("id,class\n\0,\x1b[31m\n", r"line 2 has id '\\x00' and class '\\x1b\[31m'|as csv"),
    ],
)
def test_bad_tables_are_refused(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ValueError, match=rf"t\.csv.*{message}"):
        InstanceTable(tmp_path / "t.csv")


def test_tables_that_are_no_text_or_absent_are_refused(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"id,class\n1,\xff\n")
    with pytest.raises(ValueError, match=r"cannot read .*t\.csv as csv"):
        InstanceTable(tmp_path / "t.csv")
    with pytest.raises(FileNotFoundError, match=r"no such file: .*u\.csv"):
        InstanceTable(tmp_path / "u.csv")


def test_names_of_several_classes_need_a_table(write, tmp_path):
    folders = write(a=IDS)
    with pytest.raises(ValueError, match="id2label names 2 classes; ids of instances without a table"):
        InstanceMaps(*folders, id2label=["a", "b"])
    with pytest.raises(ValueError, match="classes and id2label both name the classes"):
        InstanceMaps(*folders, classes=tmp_path / "t.csv", id2label=["a"])


def test_sizes_must_agree_and_missing_files_are_named(write):
    images, masks = write(a=IDS, b=IDS)
    Image.new("RGB", (5, 3)).save(images / "a.jpg")
    (masks / "b.tif").unlink()
    dataset = InstanceMaps(images, masks)
    with pytest.raises(ValueError, match=r"images/a\.jpg is 3 x 5 .*masks/a\.tif says 3 x 4"):
        dataset[0]
    with pytest.raises(FileNotFoundError, match=r"no such file: .*masks/b\.png"):
        dataset[1]


def test_a_check_counts_the_objects(write, tmp_path):
    write(a=IDS.repeat(5, 0), b=IDS.repeat(7, 0))
    refused = check_dataset(tmp_path)
    assert "give --format instance-maps" in refused.findings[0].message and not refused.may_train()
    report = check_dataset(tmp_path, format="instance-maps", options={"id2label": ["cell"]})
    assert report.may_train() and report.splits["train"].class_segments == {0: 8}
    assert "train: instance-maps, instance" in report_lines(report, "x", 5)
