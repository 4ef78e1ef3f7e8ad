"""Damaged files: a reader gives an error that it declares, or just what the damaged file says; it never hangs, fails
otherwise, or gives other labels. All mutations come from seeds."""

import json
import math
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features
from pycocotools import mask as coco_mask
from small_datasets import MAKERS

from m2f.data.coco_instances import CocoInstances
from m2f.data.coco_panoptic import CocoPanoptic
from m2f.data.dataset_formats import open_dataset
from m2f.data.instance_maps import InstanceMaps
from m2f.data.label_maps import read_label_map
from m2f.data.segment_map import SegmentMap
from m2f.data.yolo_segmentation import YoloSegmentation
from m2f.image_processing.label_values import IGNORED

# Pillow warns of much in damaged files, before it gives up or reads on.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")

HEIGHT, WIDTH = 8, 10
DECLARED = (ValueError, FileNotFoundError)
ODD_VALUES = [
    None, True, False, 0, 1, -1, 2, 7, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308, math.nan, math.inf, -math.inf, "", "0",
    "a.png", "../a.png", "/etc/passwd", "\x00", "\ud800", "o" * 40, [], [[]], {}, [1, 2], [0] * 9, {"size": [8, 10]},
    {"size": [8, 10], "counts": [80]}, {"size": [8.0, 10], "counts": "0`2"}, [[0, 0, 1e9, 0, 1e9, 1e9]],
]  # fmt: skip


def deep(levels: int) -> list:
    value: list = []
    for _ in range(levels):
        value = [value]
    return value


def mutate_value(value: Any, rng: random.Random) -> Any:
    """The json value with one change somewhere: another value, a deleted or repeated entry, a changed number."""
    if isinstance(value, dict | list) and value and rng.random() < 0.85:
        key = rng.choice(list(value) if isinstance(value, dict) else range(len(value)))
        copy = value.copy()
        if rng.random() < 0.1:
            del copy[key]
        elif rng.random() < 0.05 and isinstance(value, list):
            copy.insert(key, value[key])
        else:
            copy[key] = mutate_value(value[key], rng)
        return copy
    if isinstance(value, int | float) and rng.random() < 0.6:
        return value + rng.choice([1, -1, 0.5, 10, -10, 1000])
    if isinstance(value, str) and value and rng.random() < 0.6:
        place = rng.randrange(len(value))
        return value[:place] + rng.choice("0Oo~1 \x7f") * rng.randrange(3) + value[place + 1 :]
    return deep(rng.choice([3, 200, 800])) if rng.random() < 0.03 else rng.choice(ODD_VALUES)


def mutate_bytes(content: bytes, rng: random.Random) -> bytes:
    """The bytes with a few of them changed, left out, repeated or cut off."""
    result = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 1, 2, 5])):
        place, kind = rng.randrange(len(result) + 1), rng.randrange(8)
        if kind == 0:
            result[place:] = b""
        elif kind == 1:
            result[place:place] = rng.randbytes(rng.randrange(1, 5))
        elif kind == 2:
            del result[place : place + rng.randrange(1, 9)]
        elif kind == 3:
            result[place : place + 1] = bytes([rng.randrange(256)])
        else:
            result[place : place + 1] = rng.choice(b"0123456789.- ").to_bytes(1, "big")
    return bytes(result)


def masks_of(segments: SegmentMap) -> np.ndarray:
    masks = segments.masks()
    assert masks.shape == (len(segments.class_ids), *segments.size)
    assert ((masks.sum(0) > 0) & segments.ignored()).sum() == 0
    return masks


def decode_by_definition(segmentation: Any) -> np.ndarray:
    """The mask of an RLE from the definition of its characters, one by one; of polygons by pycocotools."""
    if isinstance(segmentation, list):
        return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(segmentation, HEIGHT, WIDTH)))
    counts = segmentation["counts"]
    if isinstance(counts, str):
        counts = [[ord(c) - 48 for c in number] for number in re.findall(r"[P-o]*[0-O]", counts)]
        for i, parts in enumerate(counts):
            negative = (parts[-1] & 16) << 1
            number = sum((part & 31) << 5 * k for k, part in enumerate(parts)) - (negative << 5 * (len(parts) - 1))
            counts[i] = number + (counts[i - 2] if i > 2 else 0)
    pixels = [pixel for i, count in enumerate(counts) for pixel in [i % 2] * count]
    return np.array(pixels, np.uint8).reshape(WIDTH, HEIGHT).T


def without_stray_parts(entry: dict) -> dict:
    """The annotation without its polygons of fewer than three points."""
    parts = entry.get("segmentation") or []
    return {**entry, "segmentation": [p for p in parts if len(p) > 5] if isinstance(parts, list) else parts}


@pytest.fixture
def coco(tmp_path) -> dict:
    """Three forms of segmentation, an overlap and a crowd."""
    generator = np.random.default_rng(0)
    Image.fromarray(generator.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)).save(tmp_path / "a.png")
    blob = np.zeros((HEIGHT, WIDTH), np.uint8)
    blob[2:6, 3:8] = blob[5:, :4] = 1
    packed = coco_mask.encode(np.asfortranarray(blob))["counts"].decode()
    forms = [
        {"size": [HEIGHT, WIDTH], "counts": packed},
        {"size": [HEIGHT, WIDTH], "counts": [10, 5, 20, 7, 38]},
        [[1, 1, 6.5, 1, 6.5, 6, 1, 6], [7, 0, 9, 0, 9, 3]],
        {"size": [HEIGHT, WIDTH], "counts": packed},
    ]
    annotations = [
        {"id": i, "image_id": 1, "category_id": (3, 7)[i % 2], "segmentation": form, "iscrowd": int(i == 3)}
        for i, form in enumerate(forms)
    ]
    return {
        "images": [{"id": 1, "file_name": "a.png", "height": HEIGHT, "width": WIDTH}],
        "annotations": annotations,
        "categories": [{"id": 7, "name": "seven"}, {"id": 3, "name": "three"}],
    }


def check_coco(path: Path) -> bool:
    """Whether the json could be read; then all labels must be those that it describes."""
    try:
        dataset = CocoInstances(path, path.parent)
        samples = [dataset[i] for i in range(len(dataset))]
    except DECLARED as error:
        assert str(path.parent) in str(error)
        return False
    content = json.loads(path.read_text())
    for image, sample in zip(content["images"], samples, strict=True):
        annotations = [without_stray_parts(e) for e in content["annotations"] if e["image_id"] == image["id"]]
        annotations = [entry for entry in annotations if entry["segmentation"] != []]
        single = [entry for entry in annotations if not entry.get("iscrowd")]
        categories = sorted({category["id"] for category in content["categories"]})
        assert [categories[i] for i in sample.segments.class_ids] == [entry["category_id"] for entry in single]
        expected = [decode_by_definition(entry["segmentation"]) for entry in single]
        crowd = [decode_by_definition(entry["segmentation"]) for entry in annotations if entry.get("iscrowd")]
        np.testing.assert_array_equal(masks_of(sample.segments), np.reshape(expected, (-1, HEIGHT, WIDTH)))
        unknown = np.any(crowd, 0) & ~np.any(expected, 0) if crowd else np.zeros((HEIGHT, WIDTH), bool)
        np.testing.assert_array_equal(sample.segments.ignored(), unknown)
    return True


@pytest.mark.parametrize("seed", range(4))
def test_coco_json_with_changed_values(coco, tmp_path, seed):
    rng, path, read = random.Random(seed), tmp_path / "x.json", 0
    for _ in range(250):
        content = coco
        for _ in range(rng.choice([1, 1, 2, 4])):
            content = mutate_value(content, rng)
        path.write_text(json.dumps(content))
        read += check_coco(path)
    assert 5 < read < 245  # both outcomes are tried


@pytest.mark.parametrize("seed", range(2))
def test_coco_json_with_changed_bytes(coco, tmp_path, seed):
    rng, path, read = random.Random(seed), tmp_path / "x.json", 0
    content = json.dumps(coco).encode()
    for _ in range(250):
        path.write_bytes(mutate_bytes(content, rng))
        read += check_coco(path)
    assert 5 < read < 245


@pytest.mark.parametrize("seed", range(2))
def test_changed_characters_of_a_compressed_rle(coco, tmp_path, seed):
    """Every outcome but an error is a mask of the changed characters' meaning."""
    rng, path, read = random.Random(seed), tmp_path / "x.json", 0
    counts = coco["annotations"][0]["segmentation"]["counts"]
    for _ in range(300):
        place = rng.randrange(len(counts))
        changed = counts[:place] + chr(48 + rng.randrange(64)) * rng.choice([1, 1, 2]) + counts[place + 1 :]
        coco["annotations"][0]["segmentation"]["counts"] = changed
        path.write_text(json.dumps(coco))
        read += check_coco(path)
    assert read > 0


SEGMENTS = [(5, 3, 0), (70_000, 7, 0), (900, 3, 0), (12_345_678, 7, 1)]  # id, category, crowd


@pytest.fixture
def panoptic(tmp_path) -> dict:
    """Three segments and a crowd, in stripes of two columns; the last two columns are void."""
    columns = np.repeat([number for number, _, _ in SEGMENTS] + [0], 2)
    ids = np.tile(columns, (HEIGHT, 1))
    colours = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], 2).astype(np.uint8)
    (tmp_path / "x").mkdir()
    Image.fromarray(colours).save(tmp_path / "x" / "a.png")
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "a.jpg")
    infos = [{"id": number, "category_id": category, "iscrowd": crowd} for number, category, crowd in SEGMENTS]
    return {
        "images": [{"id": 1, "file_name": "a.jpg", "height": HEIGHT, "width": WIDTH}],
        "annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": infos}],
        "categories": [{"id": 7, "name": "seven", "isthing": 0}, {"id": 3, "name": "three", "isthing": 1}],
    }


def check_panoptic(path: Path, colours: np.ndarray) -> bool:
    """Whether the json could be read; then the labels must be those of the colours."""
    try:
        dataset = CocoPanoptic(path, path.parent)
        samples = [dataset[i] for i in range(len(dataset))]
    except DECLARED as error:
        assert str(path.parent) in str(error)
        return False
    ids = colours.astype(int) @ [1, 256, 65536]
    content = json.loads(path.read_text())
    categories = sorted({category["id"] for category in content["categories"]})
    for image, sample in zip(content["images"], samples, strict=True):
        (infos,) = (a["segments_info"] for a in content["annotations"] if a["image_id"] == image["id"])
        single = [info for info in infos if not info.get("iscrowd")]
        assert [categories[i] for i in sample.segments.class_ids] == [info["category_id"] for info in single]
        for info, mask in zip(single, masks_of(sample.segments), strict=True):
            np.testing.assert_array_equal(mask, ids == info["id"])
        unknown = np.isin(ids, [0] + [info["id"] for info in infos if info.get("iscrowd")])
        np.testing.assert_array_equal(sample.segments.ids[0] == IGNORED, unknown)
    return True


@pytest.mark.parametrize("seed", range(3))
def test_panoptic_json_with_changed_values(panoptic, tmp_path, seed):
    rng, path, read = random.Random(seed), tmp_path / "x.json", 0
    colours = np.asarray(Image.open(tmp_path / "x" / "a.png"))
    for _ in range(250):
        path.write_text(json.dumps(mutate_value(panoptic, rng)))
        read += check_panoptic(path, colours)
    assert 5 < read < 245


@pytest.mark.parametrize("seed", range(2))
def test_panoptic_png_with_changed_bytes(panoptic, tmp_path, seed):
    """A file with a changed byte is refused or has its old labels: each part of a PNG has a checksum."""
    rng, path, png = random.Random(seed), tmp_path / "x.json", tmp_path / "x" / "a.png"
    path.write_text(json.dumps(panoptic))
    content, colours = png.read_bytes(), np.asarray(Image.open(png))
    assert check_panoptic(path, colours)
    for _ in range(400):
        png.write_bytes(mutate_bytes(content, rng))
        check_panoptic(path, colours)


@pytest.mark.parametrize("mode", ["L", "P", "1", "I;16"])
def test_label_map_with_changed_bytes(tmp_path, mode):
    rng, path = random.Random(mode), tmp_path / "a.png"
    Image.fromarray(np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH)).convert(mode).save(path)
    content, labels = path.read_bytes(), read_label_map(path, "a.png")
    for _ in range(400):
        path.write_bytes(mutate_bytes(content, rng))
        try:
            changed = read_label_map(path, "a.png")
        except DECLARED as error:
            assert "a.png" in str(error)
            continue
        np.testing.assert_array_equal(changed, labels)


def test_instance_maps_and_their_table_with_changed_bytes(tmp_path):
    """The table's file is what is damaged; ids 1 and 2 are in the map."""
    rng, path, read = random.Random(0), tmp_path / "t.csv", 0
    ids = np.repeat([[0, 1, 2]], 2, 0).astype(np.uint8)
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        Image.fromarray(ids).save(tmp_path / folder / "a.png")
    for _ in range(300):
        path.write_bytes(mutate_bytes(b"image,id,class\na.png,1,cat\n,2-9,dog\n,1,cow\n", rng))
        try:
            segments = InstanceMaps(tmp_path / "images", tmp_path / "masks", path)[0].segments
        except DECLARED as error:
            assert str(path) in str(error) and "\n" not in str(error)
            continue
        np.testing.assert_array_equal(masks_of(segments), [ids == 1, ids == 2])
        read += 1
    assert 5 < read < 295


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "gif", "bmp", "ppm", "jp2", "avif"])
def test_image_with_changed_bytes(coco, tmp_path, suffix):
    """An image that can still be decoded is of the json's size."""
    rng, path, image = random.Random(suffix), tmp_path / "x.json", tmp_path / f"b.{suffix}"
    coco["images"][0]["file_name"] = image.name
    path.write_text(json.dumps(coco))
    if suffix == "avif" and not features.check("avif"):
        pytest.skip("this Pillow was built without AVIF")
    Image.open(tmp_path / "a.png").save(image)
    content, dataset = image.read_bytes(), CocoInstances(path)
    for _ in range(150):
        image.write_bytes(mutate_bytes(content, rng))
        try:
            sample = dataset[0]
        except DECLARED as error:
            assert image.name in str(error)
            continue
        assert (sample.image.mode, sample.image.size) == ("RGB", (WIDTH, HEIGHT))


YOLO_LINES = "0 0.1 0.1 0.6 0.1 0.6 0.7 0.1 0.7\n1 0.5 0.5 1.0 0.5 1 1\n\n0 2e-1 .3 0.9 0.35 0.4 0.95 0.2 0.5\n"


@pytest.mark.parametrize("seed", range(4))
def test_yolo_text_with_changed_bytes(tmp_path, seed):
    rng = random.Random(seed)
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "images" / "a.png")
    (tmp_path / "data.yaml").write_text("train: images\nnames: [zero, one]\n")
    labels, read = tmp_path / "labels" / "a.txt", 0
    labels.write_text(YOLO_LINES)
    dataset = YoloSegmentation(tmp_path / "data.yaml")
    for _ in range(250):
        labels.write_bytes(mutate_bytes(YOLO_LINES.encode(), rng))
        try:
            sample = dataset[0]
        except DECLARED as error:
            assert str(labels) in str(error)
            continue
        # What a number is comes from a pattern here; the reader asks Python.
        number = r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?=\s|$)"
        lines = [line for line in labels.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
        rows = [[float(word) for word in re.findall(number, line)] for line in lines]
        assert all(re.fullmatch(f"({number})+\\s*", line) for line in lines)
        assert sample.segments.class_ids.tolist() == [row[0] for row in rows]
        polygons = [[x * size for x, size in zip(row[1:], [WIDTH, HEIGHT] * len(row), strict=False)] for row in rows]
        expected = [decode_by_definition([polygon]) for polygon in polygons]
        np.testing.assert_array_equal(masks_of(sample.segments), np.reshape(expected, (-1, HEIGHT, WIDTH)))
        read += 1
    assert 5 < read < 245


@pytest.mark.parametrize("seed", range(2))
def test_yolo_yaml_with_changed_bytes(tmp_path, seed):
    rng = random.Random(seed)
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "images" / "a.png")
    (tmp_path / "labels" / "a.txt").touch()
    path = tmp_path / "data.yaml"
    for _ in range(300):
        path.write_bytes(mutate_bytes(b"path: .\ntrain: images\nnames:\n  0: zero\n  1: 'one'\nnc: 2\n", rng))
        try:
            dataset = YoloSegmentation(path)
        except DECLARED as error:
            assert str(tmp_path) in str(error)
            continue
        assert [sample.name for sample in dataset] == ["images/a.png"]


TOOL_FILES = {
    "labelme": "train/a.json",
    "via": "train/via_region_data.json",
    "label-studio": "train/tasks.json",
    "labelbox": "train/export.ndjson",
    "cvat": "train/annotations.xml",
    "kaggle-rle": "train.csv",
    "colour-masks": "labelmap.txt",
    "voc": "ImageSets/Segmentation/train.txt",
}


def check_tool(root: Path, kind: str) -> bool:
    """Whether all could be read; what is wrong is one line with the name of a file."""
    try:
        dataset = open_dataset(root, "train", format=kind)
        samples = [dataset[i] for i in range(len(dataset))]
    except DECLARED as error:
        assert str(root) in str(error) and "\n" not in str(error).partition("Looked for")[0]
        return False
    for sample in samples:
        masks_of(sample.segments)
        assert set(sample.segments.class_ids.tolist()) <= dataset.id2label.keys()
    return True


@pytest.mark.parametrize("kind", TOOL_FILES)
def test_files_of_tools_with_changed_bytes(tmp_path, kind):
    MAKERS[kind](tmp_path)
    rng, path, read = random.Random(kind), tmp_path / TOOL_FILES[kind], 0
    content = path.read_bytes()
    for _ in range(60):
        path.write_bytes(mutate_bytes(content, rng))
        read += check_tool(tmp_path, kind)
    assert 0 < read < 60  # both outcomes are tried


@pytest.mark.parametrize("kind", ["labelme", "via", "label-studio", "labelbox"])
def test_json_files_of_tools_with_changed_values(tmp_path, kind):
    MAKERS[kind](tmp_path)
    rng, path, read = random.Random(kind), tmp_path / TOOL_FILES[kind], 0
    content = json.loads(path.read_text())
    for _ in range(80):
        changed = content
        for _ in range(rng.choice([1, 1, 2, 4])):
            changed = mutate_value(changed, rng)
        path.write_text(json.dumps(changed))
        read += check_tool(tmp_path, kind)
    assert 0 < read < 80


@pytest.mark.parametrize(
    ("kind", "file"),
    [
        ("colour-masks", "train/masks/a.png"),
        ("voc", "SegmentationClass/a.png"),
        ("object-masks", "train/annotations/a_dog_0.png"),
    ],
)
def test_label_pictures_with_changed_bytes(tmp_path, kind, file):
    """Refused, or as they were."""
    MAKERS[kind](tmp_path)
    rng, path = random.Random(kind), tmp_path / file
    content, dataset = path.read_bytes(), open_dataset(tmp_path, "train")
    expected = dataset[0].segments.ids
    for _ in range(60):
        path.write_bytes(mutate_bytes(content, rng))
        try:
            segments = dataset[0].segments
        except DECLARED as error:
            assert str(path) in str(error) and "\n" not in str(error)
            continue
        np.testing.assert_array_equal(segments.ids, expected)
