"""CVAT's xml for images; numpy and pycocotools draw the expected masks."""

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from m2f.data.dataset_formats import list_splits, open_dataset
from m2f.data.safe_xml import read_xml

SIZE = HEIGHT, WIDTH = 20, 30
META = "<version>1.1</version><meta><task><labels>{}</labels></task></meta>"
LABELS = META.format("".join(f"<label><name>{name}</name><color>#fff</color></label>" for name in ("dog", "cat")))
POLYGON = '<polygon label="cat" source="manual" points="1.00,2.00;12.00,2.50;6.00,14.00" z_order="{z}"{more}/>'
BOX = '<box label="dog" xtl="20.00" ytl="3.00" xbr="26.00" ybr="10.00" rotation="{turn}" z_order="0"/>'


def write(folder, shapes: str, head: str = LABELS, image: str = 'name="a.png" width="30" height="20"'):
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "a.png")
    content = f'<annotations>{head}<image id="0" {image}>{shapes}</image></annotations>'
    xml = f'<?xml version="1.0" encoding="utf-8"?>\n{content}'
    (folder / "annotations.xml").write_text(xml)


def polygon(z: int = 0, more: str = "") -> str:
    return POLYGON.format(z=z, more=more)


def mask(rows: np.ndarray, left: int, top: int) -> str:
    """The run lengths by the definition: off and on in turn, along the rows of the box."""
    runs, value = [0], 0
    for pixel in rows.ravel().tolist():
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    height, width = rows.shape
    box = f'left="{left}" top="{top}" width="{width}" height="{height}"'
    return f'<mask label="dog" source="manual" rle="{", ".join(map(str, runs))}" {box} z_order="0"/>'


def rasterised() -> np.ndarray:
    return coco_mask.decode(coco_mask.frPyObjects([[1.0, 2, 12, 2.5, 6, 14]], *SIZE))[..., 0]


def test_every_kind_of_shape(tmp_path):
    rows = (np.random.default_rng(0).random((4, 6)) > 0.5).astype(int)
    rows[0, 0] = 1  # the first run, of what is off, is then empty
    oval = '<ellipse label="dog" cx="15" cy="10" rx="8" ry="4" z_order="0"/>'
    write(tmp_path, polygon() + BOX.format(turn=0) + mask(rows, 3, 15) + oval + '<tag label="dog"/>')
    dataset = open_dataset(tmp_path)
    # The classes are in the order in which the xml lists them.
    assert (dataset.format, dataset.split, dataset.id2label) == ("cvat", "train", {0: "dog", 1: "cat"})
    segments = dataset[0].segments
    masks = segments.masks()
    assert segments.class_ids.tolist() == [1, 0, 0, 0]
    np.testing.assert_array_equal(masks[0], rasterised())
    box, placed = np.zeros(SIZE), np.zeros(SIZE)
    box[3:10, 20:26] = 1
    placed[15:19, 3:9] = rows
    np.testing.assert_array_equal(masks[1:3], [box, placed])
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    radius = np.hypot((x - 15) / 8, (y - 10) / 4)
    assert masks[3][radius < 0.85].all() and not masks[3][radius > 1.15].any()


def test_a_box_may_be_turned(tmp_path):
    write(tmp_path, BOX.format(turn=90))
    # 6 x 7 around (23, 6.5) is 7 x 6 afterwards: rows 3.5 to 9.5, columns 19.5 to 26.5.
    corners = [[19.5, 3.5, 26.5, 3.5, 26.5, 9.5, 19.5, 9.5]]
    expected = coco_mask.decode(coco_mask.frPyObjects(corners, *SIZE))[..., 0]
    found = open_dataset(tmp_path)[0].segments.masks()[0]
    # The corners come in another order; pycocotools may then round one border the other way.
    assert np.abs(found.astype(int) - expected).sum() <= 7 and abs(int(found.sum()) - 42) <= 7


def test_segments_are_in_the_order_of_their_depth_and_keep_what_lies_under_others(tmp_path):
    write(tmp_path, polygon(2) + BOX.format(turn=0) + polygon(1))
    segments = open_dataset(tmp_path)[0].segments
    assert segments.class_ids.tolist() == [0, 1, 1]
    np.testing.assert_array_equal(segments.masks()[1:], [rasterised()] * 2)


def test_shapes_of_a_group_are_one_object(tmp_path):
    same = ' group_id="4"'
    second = polygon(0, same).replace("1.00,2.00;12.00,2.50;6.00,14.00", "20,3;26,3;26,10;20,10")
    write(tmp_path, polygon(0, same) + BOX.format(turn=0) + second)
    segments = open_dataset(tmp_path)[0].segments
    assert segments.class_ids.tolist() == [1, 0]
    expected = rasterised()
    expected[3:10, 20:26] = 1
    np.testing.assert_array_equal(segments.masks()[0], expected)


def test_subsets_are_splits(tmp_path):
    write(tmp_path, polygon(), image='name="Train/a.png" subset="Train" width="30" height="20"')
    text = (tmp_path / "annotations.xml").read_text()
    other = '<image id="1" name="b.png" subset="Validation" width="30" height="20"/></annotations>'
    (tmp_path / "annotations.xml").write_text(text.replace("</annotations>", other))
    assert list_splits(tmp_path) == list_splits(tmp_path / "annotations.xml") == ["Train", "Validation"]
    dataset = open_dataset(tmp_path, "train")
    assert (len(dataset), dataset.name_of(0), dataset.split) == (1, "a.png", "Train")
    assert open_dataset(tmp_path, "val").name_of(0) == "b.png"


def test_labels_are_those_of_the_shapes_where_none_are_listed(tmp_path):
    write(tmp_path, polygon() + BOX.format(turn=0), head="")
    assert open_dataset(tmp_path).id2label == {0: "cat", 1: "dog"}
    part = "<label><name>knee</name><parent>dog</parent></label>"
    write(tmp_path, polygon(), head=META.format("<label><name>cat</name></label>" + part))
    assert open_dataset(tmp_path).id2label == {0: "cat"}


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ('<points label="dog" points="1,2"/>', r"1 of 1 shapes are no areas \(points\); .*drop_others"),
        ('<polygon label="dog" points="1,2;3"/>', "annotation polygon 0: 1 numbers are given"),
        ('<polygon label="dog" points="1,2;3,nan;1,1"/>', "nan is no number"),
        ('<polygon label="dog" points="1,2;3,4_0;1,1"/>', "'4_0' is no number"),
        ('<polygon label="dog"/>', "polygon 0 has no 'points'"),
        ('<polygon points="1,2;3,4;5,1"/>', "polygon 0 has no label"),
        ('<polygon label="cow" points="1,2;3,4;5,1"/>', "the class 'cow' is none of"),
        (mask(np.eye(3, dtype=int), 3, 3).replace('rle="0, 1,', 'rle="0, 2,'), "the mask's runs sum to 10; 3 x 3 = 9"),
        (mask(np.eye(3, dtype=int), 28, 3), "a mask of 3 x 3 at x 28, y 3 reaches beyond"),
        ('<mask label="dog" rle="9" left="0" top="0" width="9e6" height="9e6"/>', "9000000 x 9000000 is larger"),
        ('<mask label="dog" rle="-3, 12" left="0" top="0" width="3" height="3"/>', "the mask's runs"),
        ('<box label="dog" xtl="1" ytl="2" xbr="3"/>', "box 0 has no 'ybr'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_an_error_of_its_image(tmp_path, shapes, message):
    write(tmp_path, shapes)
    with pytest.raises(ValueError, match=message) as error:
        open_dataset(tmp_path)[0]
    assert f"{tmp_path / 'annotations.xml'}, image a.png" in str(error.value)


def test_sizes_have_to_fit(tmp_path):
    write(tmp_path, polygon(), image='name="a.png" width="31" height="20"')
    with pytest.raises(ValueError, match="a.png is 20 x 30 .* says 20 x 31"):
        open_dataset(tmp_path)[0]
    write(tmp_path, polygon(), image='name="a.png" width="0" height="20"')
    with pytest.raises(ValueError, match="width is 0.0; an integer above 0"):
        open_dataset(tmp_path)[0]


BOMB = '<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><annotations><image name="&b;"/></annotations>'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (BOMB.encode(), "has a document type .DOCTYPE., which is not read; delete it"),
        (BOMB.encode("utf-16"), "has a document type"),
        (b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotations/>', "has a document type"),
        (b"<a>" * 101, "nested more than 100 levels"),
        (b"<a><b></a>", "is not an xml file: mismatched tag"),
        (b"", "is not an xml file"),
        (b"<a>&unknown;</a>", "is not an xml file: undefined entity"),
        (b'<?xml version="1.0" encoding="nosuch"?><a/>', "is not an xml file"),
        (b"\xff\xfe\x00", "is not an xml file"),
    ],
)
def test_xml_that_is_not_read(tmp_path, content, message):
    path = tmp_path / "x.xml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_xml(path)
    assert str(path) in str(error.value)


def test_another_xml_that_is_named_cvat(tmp_path):
    (tmp_path / "x.xml").write_text("<annotations><track/></annotations>")
    with pytest.raises(
        ValueError, match="x.xml is no xml of CVAT for images.*; of a video, export as CVAT for images"
    ):
        open_dataset(tmp_path / "x.xml", format="cvat")
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_xml(tmp_path / "absent.xml")
