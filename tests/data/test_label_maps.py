"""Label maps hold numbers, whatever the file's bits; all expected numbers are those that were written."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from m2f.data.label_maps import (
    ClassTable,
    has_channels,
    read_channels,
    read_label_map,
    segments_of_classes,
    segments_of_ids,
    segments_of_values,
    values_in,
)
from m2f.image_processing.label_values import IGNORED, NOTHING


def png(bits: int, colour_type: int, rows: list[bytes], width: int, extra: bytes = b"") -> bytes:
    """A PNG written by its specification, for what Pillow cannot write. Each row is packed already."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, len(rows), bits, colour_type, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("bits", "row", "expected"),
    [
        (1, 0b01101000, [0, 1, 1, 0, 1]),
        (2, 0b00011011, [0, 1, 2, 3]),
        (4, 0x5E, [5, 14]),
        (8, 0x5E, [0x5E]),
    ],
)
def test_grey_of_few_bits_keeps_its_numbers(bits, row, expected):
    """Pillow spreads 2 and 4 bits over 0 to 255."""
    labels = read_label_map(png(bits, 0, [bytes([row])], len(expected)), "x")
    assert labels.tolist() == [expected] and labels.dtype == np.int32


def test_sixteen_bits_and_palettes(tmp_path):
    values = np.array([[0, 255, 256], [1000, 33007, 65535]], np.uint16)
    for suffix in ("png", "tif"):
        Image.fromarray(values).save(tmp_path / f"x.{suffix}")
        np.testing.assert_array_equal(read_label_map(tmp_path / f"x.{suffix}", "x"), values)
    indices = Image.fromarray(np.array([[0, 3], [200, 255]], np.uint8))
    indices.putpalette(list(range(255, -1, -1)) * 3)  # colours that differ from the indices
    assert indices.mode == "P"
    indices.save(tmp_path / "p.png")
    np.testing.assert_array_equal(read_label_map(tmp_path / "p.png", "x"), [[0, 3], [200, 255]])


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_several_channels_are_no_label_map(tmp_path, mode):
    different = np.arange(2 * 2 * len(mode), dtype=np.uint8).reshape(2, 2, -1)
    Image.fromarray(different).save(tmp_path / "x.png")
    with pytest.raises(ValueError, match=f"x.png has the channels {mode}; a label map has one number per pixel"):
        read_label_map(tmp_path / "x.png", "x.png")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_equal_channels_are_one(mode):
    values = np.array([[0, 1, 2], [7, 200, 255]], np.uint8)
    channels = np.dstack([values] * (3 if "RGB" in mode else 1) + [np.full_like(values, 255)] * ("A" in mode))
    np.testing.assert_array_equal(read_label_map(encoded(Image.fromarray(channels)), "x"), values)
    if "A" in mode:
        channels[0, 0, -1] = 0  # a pixel that is not seen is no number
        with pytest.raises(ValueError, match=f"x has the channels {mode}"):
            read_label_map(encoded(Image.fromarray(channels)), "x")


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["TIFF", "PNG"])
def test_labels_of_several_pages_are_refused(kind):
    pages = [Image.new("L", (3, 2), value) for value in range(3)]
    content = encoded(pages[0], kind, save_all=True, append_images=pages[1:])
    for read in (read_label_map, read_channels, has_channels):
        with pytest.raises(ValueError, match="x has 3 pages or frames; labels have one"):
            read(content, "x")


def test_a_smaller_copy_in_a_tiff_is_no_page():
    """GeoTIFF files have overviews: tag 254 with bit 0. Pillow writes it as it is told."""
    small = Image.new("L", (2, 1), 7)
    small.encoderinfo = {"tiffinfo": {254: 1}}
    content = encoded(Image.new("L", (4, 2), 7), "TIFF", save_all=True, append_images=[small])
    assert Image.open(io.BytesIO(content)).n_frames == 2
    np.testing.assert_array_equal(read_label_map(content, "x"), np.full((2, 4), 7))


def test_numbers_that_a_label_cannot_be_are_refused(tmp_path):
    for values in ([[-1, 2]], [[0, 65536]]):
        Image.fromarray(np.array(values, np.int32)).save(tmp_path / "x.tif")
        with pytest.raises(ValueError, match=r"x\.tif holds labels from .*; 0 to 65535 is needed"):
            read_label_map(tmp_path / "x.tif", "x.tif")


def test_lossy_formats_are_refused(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "x.jpg")
    with pytest.raises(ValueError, match=r"cannot decode x\.jpg"):
        read_label_map(tmp_path / "x.jpg", "x.jpg")


def test_a_flipped_bit_is_found_and_so_is_an_end_too_early():
    """Stored without compression, so that the flipped bit is just one of a pixel; Pillow reads it."""
    header = struct.pack(">IIBBBBB", 4, 1, 8, 0, 0, 0, 0)
    body = zlib.compress(b"\0\1\2\3\4", 0)
    whole = b"\x89PNG\r\n\x1a\n"
    for kind, content in ((b"IHDR", header), (b"IDAT", body), (b"IEND", b"")):
        whole += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    assert read_label_map(whole, "x").tolist() == [[1, 2, 3, 4]]
    place = whole.index(b"\1\2\3\4")
    with pytest.raises(ValueError, match=r"x\.png: the PNG is cut off or damaged at byte 33"):
        read_label_map(whole[:place] + b"\5" + whole[place + 1 :], "x.png")
    with pytest.raises(ValueError, match="cut off or damaged"):
        read_label_map(whole[:-12], "x.png")


def test_channels_are_eight_bits_of_red_green_blue(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (3, 4, 4), np.uint8)
    for channels in (3, 4):
        Image.fromarray(values[..., :channels]).save(tmp_path / "x.png")
        np.testing.assert_array_equal(read_channels(tmp_path / "x.png", "x"), values[..., :3])
        assert has_channels(tmp_path / "x.png", "x")
    Image.fromarray(values[..., 0]).save(tmp_path / "x.png")
    assert not has_channels(tmp_path / "x.png", "x")
    with pytest.raises(ValueError, match="x has the channels L of 8 bits"):
        read_channels(tmp_path / "x.png", "x")
    with pytest.raises(ValueError, match="x has the channels RGB of 16 bits"):
        read_channels(png(16, 2, [bytes(6)], 1), "x")


def test_class_table_numbers_labels_and_knows_the_unknown():
    values = np.array([[2, 7, 9, 255]])
    assert ClassTable([2, 7, 9]).classes(values, "x").tolist() == [[0, 1, 2, IGNORED]]
    assert ClassTable([2, 7, 9], unknown=NOTHING).classes(values, "x").tolist() == [[0, 1, 2, NOTHING]]
    assert ClassTable([2, 7], ignore_index=9).classes(values[:, :3], "x").tolist() == [[0, 1, IGNORED]]
    assert ClassTable(None).classes(values, "x").tolist() == [[2, 7, 9, IGNORED]]
    with pytest.raises(
        ValueError, match=r"x holds the labels 2, 255; the classes are the labels 7, 9 \(reduce_labels"
    ):
        ClassTable([7, 9], ignore_index=None).classes(values, "x")


def test_reduced_labels_count_from_one():
    """As ADE20K has them: 0 is unlabelled, 1 is class 0; 255 is compared before it is reduced."""
    values = np.array([[0, 1, 150, 255]])
    assert ClassTable(range(150), reduce_labels=True).classes(values, "x").tolist() == [[IGNORED, 0, 149, IGNORED]]
    table = ClassTable(range(150), reduce_labels=True, zero=NOTHING)
    assert table.classes(values, "x").tolist() == [[NOTHING, 0, 149, IGNORED]]
    with pytest.raises(ValueError, match="x holds the labels 151"):
        table.classes(np.array([[151]]), "x")


@pytest.mark.parametrize(("reduce_labels", "index"), [(False, 255), (True, 256)])
def test_an_ignored_label_that_is_a_class_is_refused(reduce_labels, index):
    with pytest.raises(ValueError, match=f"ignore_index {index} is a class"):
        ClassTable(range(300), index, reduce_labels)
    with pytest.raises(ValueError, match=r"ignore_index must be in \[0, 65535\] or None, got 65536"):
        ClassTable(range(300), 65536)


def test_one_segment_for_each_class():
    classes = np.array([[3, 3, IGNORED], [0, NOTHING, 9]], np.int32)
    segments = segments_of_classes(classes)
    np.testing.assert_array_equal(segments.ids, [[[1, 1, IGNORED], [0, NOTHING, 2]]])
    np.testing.assert_array_equal(segments.class_ids, [0, 3, 9])
    assert (segments.ids.dtype, segments.class_ids.dtype) == (np.int32, np.int64)
    for value in (IGNORED, NOTHING):
        segments = segments_of_classes(np.full((2, 2), value, np.int32))
        assert (segments.ids == value).all() and len(segments.class_ids) == 0


def test_one_segment_for_each_value():
    """Two values of one class are two segments, numbered by value."""
    values = np.array([[700, 5, 5], [9, 0, 3]], np.int32)
    segments = segments_of_values(values, {700: 4, 5: 4, 9: IGNORED, 0: NOTHING, 3: 1})
    np.testing.assert_array_equal(segments.ids, [[[2, 1, 1], [IGNORED, NOTHING, 0]]])
    np.testing.assert_array_equal(segments.class_ids, [1, 4, 4])
    assert (segments.ids.dtype, segments.class_ids.dtype) == (np.int32, np.int64)
    assert values_in(values) == [0, 3, 5, 9, 700]


def test_segments_keep_the_order_of_their_ids():
    ids = np.array([[70, 5, 5, 0], [70, 8, 8, 9]])
    segments = segments_of_ids(ids, [70, 5], [2, 1], {0: NOTHING, 8: IGNORED, 9: NOTHING}, "x")
    np.testing.assert_array_equal(segments.ids, [[[0, 1, 1, NOTHING], [0, IGNORED, IGNORED, NOTHING]]])
    np.testing.assert_array_equal(segments.class_ids, [2, 1])
    assert (segments.ids.dtype, segments.class_ids.dtype) == (np.int32, np.int64)


def test_ids_must_agree():
    ids = np.array([[70, 5, 5, 2]])
    with pytest.raises(ValueError, match="x holds the ids 2, which its annotation lacks"):
        segments_of_ids(ids, [70, 5], [0, 0], {0: NOTHING}, "x")
    with pytest.raises(ValueError, match="x lacks the ids 6, 71, which its annotation has"):
        segments_of_ids(ids, [70, 71, 5], [0, 0, 0], {0: NOTHING, 2: IGNORED, 6: IGNORED}, "x")
    with pytest.raises(ValueError, match="x holds the ids 2, 5, 70"):
        segments_of_ids(ids, [], [], {0: NOTHING}, "x")
