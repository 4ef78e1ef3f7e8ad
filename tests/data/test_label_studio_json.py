"""Label Studio's tasks; expected masks are drawn by numpy and pycocotools, and brush masks are packed here bit by bit
from the format's definition."""

import json
import random

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from m2f.data.brush_runs import brush_mask
from m2f.data.dataset_formats import open_dataset

SIZE = HEIGHT, WIDTH = 20, 50
POINTS = [[10, 10], [60, 20], [30, 90]]  # per cent


def packed(mask: np.ndarray, seed: int = 0, bits: tuple[int, ...] = (3, 4, 8, 16)) -> list[int]:
    """The bytes of a brush mask: runs of a value, or of several values one by one, as chance has it."""
    rng = random.Random(seed)
    values = np.repeat(mask.astype(int).ravel() * 255, 4)
    text = f"{len(values):032b}{8 - 1:05b}" + "".join(f"{size - 1:04b}" for size in bits)
    place = 0
    while place < len(values):
        changes = np.flatnonzero(values[place:] != values[place])
        same = int(changes[0]) if changes.size else len(values) - place
        single = rng.random() < 0.3
        length = min(len(values) - place, rng.randrange(1, 9)) if single else min(same, 2 ** bits[3])
        kind = next(i for i, size in enumerate(bits) if length <= 2**size)
        shown = values[place : place + length] if single else values[place : place + 1]
        text += f"{not single:b}{kind:02b}{length - 1:0{bits[kind]}b}" + "".join(f"{value:08b}" for value in shown)
        place += length
    return list(int(text, 2).to_bytes((len(text) + 7) // 8, "big")) if not len(text) % 8 else packed_bytes(text)


def packed_bytes(text: str) -> list[int]:
    return packed_bytes(text + "0") if len(text) % 8 else [int(text[i : i + 8], 2) for i in range(0, len(text), 8)]


def result(kind: str, label, number: int = 0, **value) -> dict:
    size = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
    return {"id": f"r{number}", "type": kind, "value": {**value, kind: [label]}, "from_name": "x", **size}


def task(results: list, **more) -> dict:
    return {"id": 5, "data": {"image": "/data/upload/1/0123abcd-a.png"}, "annotations": [{"result": results}], **more}


def write(folder, tasks: list):
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "a.png")
    (folder / "project-1-at-2024-01-01.json").write_text(json.dumps(tasks))


def rasterised(*points: tuple[float, float]) -> np.ndarray:
    flat = [float(value) for point in points for value in point]
    return coco_mask.decode(coco_mask.frPyObjects([flat], *SIZE))[..., 0]


def test_every_kind_of_result(tmp_path):
    brush = np.zeros(SIZE, bool)
    brush[3:9, 4:30] = np.random.default_rng(0).random((6, 26)) > 0.4
    results = [
        result("polygonlabels", "dog", 0, points=POINTS),
        result("rectanglelabels", "cat", 1, x=20, y=10, width=30, height=50, rotation=0),
        result("rectanglelabels", "cat", 2, x=60, y=10, width=20, height=40, rotation=90),
        result("ellipselabels", "dog", 3, x=50, y=50, radiusX=20, radiusY=30, rotation=0),
        result("brushlabels", "dog", 4, format="rle", rle=packed(brush)),
        {"id": "c", "type": "choices", "value": {"choices": ["good"]}},
        {"type": "relation", "from_id": "r0", "to_id": "r1", "direction": "right"},
        {"id": "b", "type": "polygon", "value": {"points": POINTS}},  # the outline of the next
        {"id": "b", "type": "labels", "value": {"points": POINTS, "labels": ["cat"]}},
    ]
    write(tmp_path, [task(results)])
    dataset = open_dataset(tmp_path)
    assert (dataset.format, dataset.split, dataset.id2label) == ("label-studio", "train", {0: "cat", 1: "dog"})
    segments = dataset[0].segments
    assert segments.class_ids.tolist() == [1, 0, 0, 1, 1, 0]
    masks = segments.masks()
    polygon = rasterised((5, 2), (30, 4), (15, 18))
    np.testing.assert_array_equal(masks[0], polygon)
    box = np.zeros(SIZE)
    box[2:12, 10:25] = 1
    np.testing.assert_array_equal(masks[1], box)
    # Turned by a quarter around its upper left corner (30, 2): 10 wide becomes 10 high, below; 8 high goes left.
    np.testing.assert_array_equal(masks[2], rasterised((30, 2), (30, 12), (22, 12), (22, 2)))
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    radius = np.hypot((columns - 25) / 10, (rows - 10) / 6)
    assert masks[3][radius < 0.88].all() and not masks[3][radius > 1.12].any()
    np.testing.assert_array_equal(masks[4], brush)
    np.testing.assert_array_equal(masks[5], polygon)


@pytest.mark.parametrize("seed", range(4))
def test_brush_masks(seed):
    mask = np.random.default_rng(seed).random((7, 33)) > 0.2 * seed
    for bits in ((3, 4, 8, 16), (1, 2, 5, 7)):
        np.testing.assert_array_equal(brush_mask(bytes(packed(mask, seed, bits)), mask.shape), mask)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda codes: codes[:5], "has 5 bytes; its head alone needs 7"),
        (lambda codes: codes[:-3], "ends or overflows at value"),
        (lambda codes: codes[:7], "ends or overflows at value 0 of 48"),
        (lambda codes: [255] * 4 + codes[4:], "has 4294967295 values; an image of 3 x 4 .* has 48"),
        (lambda codes: codes[:7] + [255] * 9, "ends or overflows"),
    ],
)
def test_damaged_brush_masks(change, message):
    codes = packed(np.eye(3, 4) > 0)
    with pytest.raises(ValueError, match=message):
        brush_mask(bytes(change(codes)), (3, 4))


def test_names_of_images(tmp_path):
    """Uploads, local files, URLs, and what the task calls its image."""
    for name in (
        "/data/upload/1/0123abcd-a.png",
        "/data/local-files/?d=set/a.png",
        "https://x.org/a.png?key=1",
        "s3://b/a.png",
    ):
        write(tmp_path, [task([result("polygonlabels", "dog", points=POINTS)], data={"photo": name})])
        assert open_dataset(tmp_path).name_of(0) == "a.png"
    write(tmp_path, [task([], file_upload="89abcdef-a.png", data={"image": "s3://b/other.png"})])
    assert open_dataset(tmp_path).name_of(0) == "a.png"


def test_which_annotation_counts(tmp_path):
    one, two = ({"result": [result("polygonlabels", name, points=POINTS)]} for name in ("dog", "cat"))
    write(tmp_path, [task([], annotations=[one, {**two, "was_cancelled": True}])])
    assert open_dataset(tmp_path).id2label == {0: "dog"}
    write(tmp_path, [task([], annotations=[one, two])])
    with pytest.raises(
        ValueError, match="task 5: it has 2 annotations; say which counts with --data-options annotation"
    ):
        open_dataset(tmp_path)[0]
    for choice, name in (("first", "dog"), ("last", "cat")):
        assert open_dataset(tmp_path, annotation=choice).id2label == {0: name}
    with pytest.raises(ValueError, match="annotation must be one of only, first, last, got 'all'"):
        open_dataset(tmp_path, annotation="all")
    write(tmp_path, [task([], annotations=[])])
    assert open_dataset(tmp_path)[0].segments.areas().tolist() == []


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (result("keypointlabels", "dog", x=1, y=2, width=1), r"1 of 1 shapes are no areas \(keypointlabels\)"),
        (result("polygonlabels", "dog", points=[[1, 2]]), "annotation r0: a polygon needs x and y of"),
        (result("polygonlabels", 7, points=POINTS), "result 0: it has 1 labels; one is needed"),
        (result("rectanglelabels", "dog", x="1"), "annotation r0: '1' is no number"),
        (result("ellipselabels", "dog", radiusX=-1), "radii -0.5 and 0.0; 0 or more"),
        (result("brushlabels", "dog", rle=[256]), "other values than bytes"),
        (result("brushlabels", "dog", rle=[1, 2]), "annotation r0: the brush mask has 2 bytes"),
        ({**result("polygonlabels", "dog", points=POINTS), "original_width": "a"}, "original_width is 'a'"),
        ({**result("polygonlabels", "dog", points=POINTS), "original_width": []}, r"original_width is \[\]"),
        ({**result("polygonlabels", "dog", points=POINTS), "original_width": 51}, "a.png is 20 x 50 .* says 20 x 51"),
        ({"id": "b", "type": "polygon", "value": {"points": POINTS}}, "result 0 is a polygon without a label"),
        ({"id": [], "type": "polygonlabels", "value": 7}, "'value' is 7; a dict is needed"),
        (7, "7 stands where a dict is needed"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_an_error_of_its_image(tmp_path, entry, message):
    write(tmp_path, [task([entry])])
    with pytest.raises(ValueError, match=message) as error:
        open_dataset(tmp_path)[0]
    assert "\n" not in str(error.value)


def test_another_json_that_is_named_label_studio(tmp_path):
    (tmp_path / "x.json").write_text('[{"image": "a.png", "label": []}]')
    with pytest.raises(ValueError, match="x.json is no json of Label Studio's tasks.*not as JSON-MIN"):
        open_dataset(tmp_path / "x.json", format="label-studio")
