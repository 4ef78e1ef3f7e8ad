"""Maps, masks, run lengths, pictures and other tools' formats of a result. Expected values are masks made here."""

import sys
import xml.etree.ElementTree as ElementTree
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from m2f.data.brush_runs import brush_mask
from m2f.data.coco_masks import decode_strip
from m2f.data.segment_overlay import distinct_colours
from m2f.evaluation.mask_rle import encode_masks
from m2f.inference.detection import detections_from_masks
from m2f.inference.segmentation_result import SegmentationResult

NAMES = {0: "cat", 1: "dog", 2: "sky"}
IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8))


def of_masks(*masks: np.ndarray, labels=(0, 1), scores=(0.9, 0.5)) -> SegmentationResult:
    infos = [{"label_id": label, "score": score} for label, score in zip(labels, scores, strict=True)]
    stack = torch.from_numpy(np.stack(masks)) if masks else torch.zeros(0, 20, 30, dtype=torch.bool)
    return SegmentationResult.from_detections(IMAGE, detections_from_masks(stack, infos[: len(masks)]), NAMES, "x")


def two_that_overlap() -> tuple[np.ndarray, np.ndarray]:
    first, second = np.zeros((20, 30), bool), np.zeros((20, 30), bool)
    first[2:8, 3:12] = True
    second[5:15, 8:30] = True
    second[10, 20] = False
    return first, second


def of_map() -> SegmentationResult:
    ids = np.zeros((20, 30), np.int32)
    ids[:10], ids[12:, 5:9] = 1, 2
    infos = [
        {"id": 1, "label_id": 2, "was_fused": True, "score": 0.7},
        {"id": 2, "label_id": 0, "was_fused": False, "score": 0.8},
        {"id": 3, "label_id": 1, "was_fused": False, "score": 0.9},  # has no pixel
    ]
    return SegmentationResult.from_map(IMAGE, "panoptic", ids, infos, NAMES)


def test_segments_of_masks():
    masks = two_that_overlap()
    result = of_masks(*masks)
    assert [(s.id, s.label, s.score, s.area, tuple(s.box), s.is_thing) for s in result.segments] == [
        (1, "cat", 0.9, 54, (3, 2, 12, 8), True),
        (2, "dog", 0.5, 219, (8, 5, 30, 15), True),
    ]
    np.testing.assert_array_equal(result.masks, masks)
    assert (result.size, len(result), result.name) == ((20, 30), 2, "x")


def test_better_score_lies_on_top():
    first, second = two_that_overlap()
    result = of_masks(first, second)
    np.testing.assert_array_equal(result.id_map, np.where(first, 1, np.where(second, 2, 0)))
    np.testing.assert_array_equal(result.label_map, np.where(first, 0, np.where(second, 1, -1)))


def test_segments_of_a_map():
    result = of_map()
    assert [(s.id, s.label, s.area, tuple(s.box), s.is_thing) for s in result.segments] == [
        (1, "sky", 300, (0, 0, 30, 10), False),
        (2, "cat", 32, (5, 12, 9, 20), True),
    ]
    np.testing.assert_array_equal(result.segments[1].mask, result.id_map == 2)
    assert np.unique(result.label_map).tolist() == [-1, 0, 2]


def test_nothing_found():
    for result in (
        of_masks(),
        SegmentationResult.from_map(IMAGE, "panoptic", np.zeros((20, 30), np.int32), [], NAMES),
    ):
        assert (len(result), result.to_coco(), result.masks.shape) == (0, [], (0, 20, 30))
        assert not result.id_map.any() and (result.label_map == -1).all()
        np.testing.assert_array_equal(np.asarray(result.plot()), np.asarray(IMAGE))


def test_coco():
    first, second = two_that_overlap()
    annotations = of_masks(first, second).to_coco(image_id="a")
    assert annotations[1] == {
        "image_id": "a",
        "category_id": 1,
        "segmentation": encode_masks(second[None])[0],
        "bbox": [8, 5, 22, 10],
        "area": 219,
        "score": 0.5,
        "iscrowd": 0,
    }


def test_polygons_are_exact_without_a_tolerance():
    """Also those of COCO, YOLO, LabelMe, Label Studio and CVAT, and their masks; the second mask has a hole."""
    masks = two_that_overlap()
    result = of_masks(*masks)
    per_cent = [r["value"]["points"] for r in result.to_label_studio(0.0)["result"]]
    elements = [ElementTree.fromstring(line) for line in result.to_cvat(0.0).splitlines()]
    points = [[pair.split(",") for pair in element.get("points").split(";")] for element in elements]
    forms = {
        "polygons": [polygon for (polygon,) in result.to_polygons(0.0)],
        "coco": [entry["segmentation"][0] for entry in result.to_coco(tolerance=0.0)],
        "yolo": [
            np.reshape(line.split()[1:], (-1, 2)).astype(float) * [30, 20] for line in result.to_yolo(0.0).splitlines()
        ],
        "labelme": [shape["points"] for shape in result.to_labelme("x.png", 0.0)["shapes"]],
        "label studio": [np.array(polygon) * [0.3, 0.2] for polygon in per_cent],
        "cvat": [np.array(pairs, float) for pairs in points],
    }
    for form, polygons in forms.items():
        drawn = [decode_strip([np.ravel(polygon).tolist()], 20, 30) for polygon in polygons]
        for (strip, left), mask in zip(drawn, masks, strict=True):
            np.testing.assert_array_equal(strip, mask[:, left : left + strip.shape[1]], err_msg=form)
            assert strip.sum() == mask.sum()
    assert [line.split()[0] for line in result.to_yolo().splitlines()] == ["0", "1"]
    brushes = [brush_mask(bytes(r["value"]["rle"]), (20, 30)) for r in result.to_label_studio()["result"]]
    np.testing.assert_array_equal(brushes, masks)
    assert result.to_label_studio(None, "shape", "photo")["result"][0]["to_name"] == "photo"
    assert [(e.tag, e.get("label")) for e in map(ElementTree.fromstring, result.to_cvat().splitlines())] == [
        ("mask", "cat"),
        ("mask", "dog"),
    ]
    with pytest.raises(ValueError, match="tolerance of -1 pixels; give 0 or more"):
        result.to_polygons(-1)


def test_supervision(monkeypatch):
    """The arguments of the class; a stand-in takes them, as the package is not among the requirements."""
    module = ModuleType("supervision")
    module.Detections = lambda **fields: fields
    monkeypatch.setitem(sys.modules, "supervision", module)
    masks = two_that_overlap()
    fields = of_masks(*masks).to_supervision()
    np.testing.assert_array_equal(fields["xyxy"], [[3, 2, 12, 8], [8, 5, 30, 15]])
    np.testing.assert_array_equal(fields["mask"], masks)
    assert fields["confidence"].tolist() == pytest.approx([0.9, 0.5]) and fields["class_id"].tolist() == [0, 1]
    assert fields["data"]["class_name"].tolist() == ["cat", "dog"]


def test_supervision_that_is_not_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match="pip install supervision"):
        of_masks().to_supervision()


def test_picture():
    """Colours: classes have the first three, the thing with the number 1 (from 0) the fifth. Outlines are full."""
    result = of_map()
    picture = np.asarray(result.plot(captions=False))
    colours = distinct_colours(5)
    assert (picture[9, 0] == colours[2]).all()  # the lower edge of the sky
    assert (picture[12, 5] == colours[4]).all()
    np.testing.assert_array_equal(picture[11], np.asarray(IMAGE)[11])  # nothing there


def test_bands_do_not_show(monkeypatch):
    """Rows of 30 pixels in bands of 1 and of 4 rows give the picture that is drawn at once."""
    result = of_masks(*two_that_overlap())
    whole = np.asarray(result.plot(captions=False))
    for pixels in (30, 130):
        monkeypatch.setattr("m2f.inference.segmentation_result._BAND_PIXELS", pixels)
        np.testing.assert_array_equal(np.asarray(result.plot(captions=False)), whole)
