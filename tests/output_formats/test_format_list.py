"""Every format is written, read back by our readers, and by the tool's own where it is installed."""

import io
import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools import mask as coco_mask
from saved_results import NAMES, SCORES, SIZE, discs, written_results

from m2f.data.dataset_check import check_dataset
from m2f.inference.saved_formats import save_formats
from m2f.output.safe_text import xml_text
from m2f.output_formats.format_list import FORMATS, format_writer
from m2f.output_formats.saved_image import SavedImage, SavedObject

EXACT = ("coco-rle", "label-studio", "cvat", "datumaro")
POLYGONS = ("coco-polygons", "yolo", "labelme", "label-studio-polygons", "cvat-polygons")
READ = [name for name in FORMATS if name != "datumaro"]
SPELLINGS = {*NAMES.values(), *map(xml_text, NAMES.values())}


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> tuple[Path, list[str]]:
    """With polygons that are exact. Of the two classes the first is things."""
    folder, entries = written_results(tmp_path_factory.mktemp("saved"))
    lines = save_formats(folder, entries, list(FORMATS), NAMES, [0], 0.0)
    return folder.path, lines


def submitted(folder: Path, place: Path) -> Path:
    """Label Studio's export after an annotator has submitted the predictions as they are."""
    tasks = json.loads((folder / "tasks.json").read_text())
    for task in tasks:
        task["annotations"] = [{"result": entry["result"]} for entry in task.pop("predictions")]
    (place / "tasks.json").write_text(json.dumps(tasks))
    return place / "tasks.json"


def content(saved, *names: str):
    return json.loads(saved[0].joinpath(*names).read_text())


def numbers(mask: np.ndarray) -> tuple[int, list[float]]:
    """Area and COCO's box."""
    return int(mask.sum()), coco_mask.toBbox(coco_mask.encode(np.asfortranarray(mask, np.uint8))).tolist()


def masks_of(segments) -> list[np.ndarray]:
    return sorted((mask.astype(bool) for mask in segments.masks()), key=lambda mask: mask.tobytes())


@pytest.mark.parametrize("name", READ)
def test_our_readers_find_the_same(saved, tmp_path, name):
    data = saved[0] / name
    folder = data if name.startswith("label-studio") else None
    report = check_dataset(submitted(data, tmp_path) if folder else data, None, "auto", folder, {}, workers=1)
    assert report.count("error") == 0, report.findings
    (split,) = {report.splits[split].images: split for split in report.readers}.values()
    reader = report.readers[split]
    assert len(reader) == 3 and set(reader.id2label.values()) <= SPELLINGS
    samples = {reader[index].image.getpixel((0, 0))[0] // 40 - 1: reader[index] for index in range(3)}
    assert len(samples[0].segments.class_ids) == 0
    expected = discs()
    if name.endswith("-png"):  # a pixel has one
        expected[2] &= ~expected[0]
        expected = [expected[0] | expected[2], expected[1]] if name.startswith("semantic") else expected
    found = masks_of(samples[3].segments)
    assert len(found) == len(expected)
    for mask, truth in zip(found, sorted(expected, key=lambda mask: mask.tobytes()), strict=True):
        np.testing.assert_array_equal(mask, truth)
    second = next(
        number for number, mask in enumerate(samples[3].segments.masks()) if (mask.astype(bool) == discs()[1]).all()
    )
    assert reader.id2label[int(samples[3].segments.class_ids[second])] in (NAMES[3], xml_text(NAMES[3]))


def test_coco_has_the_numbers_of_each_object(saved):
    """Areas, boxes and scores; of the pictures' segments those that are seen."""
    first, second, third = discs()
    annotations = content(saved, "coco-rle", "instances_train.json")["annotations"]
    assert [entry["id"] for entry in annotations] == [1, 2, 3, 4]
    panoptic = content(saved, "panoptic-png", "panoptic_train.json")
    assert [category["isthing"] for category in panoptic["categories"]] == [1, 0]
    infos = panoptic["annotations"][0]["segments_info"]
    seen = (first, second, third & ~first)
    for entries, masks in ((annotations[:3], discs()), (infos, seen)):
        assert [(entry["area"], entry["bbox"]) for entry in entries] == [numbers(mask) for mask in masks]
        assert [entry["score"] for entry in entries] == pytest.approx(SCORES)


def test_a_segment_that_is_not_seen_is_left_out_and_counted(tmp_path):
    """A pixel of a panoptic picture has one segment."""
    writer = format_writer("panoptic-png", tmp_path, {0: "a"}, frozenset({0}), 0.0)
    sizes = ((0.9, (2, 2)), (0.5, (1, 2)))
    objects = [SavedObject(0, "a", score, (0, 0, *size[::-1]), np.ones(size, bool)) for score, size in sizes]
    writer.add(SavedImage("x.png", (2, 2), objects))
    writer.finish()
    (entry,) = json.loads((tmp_path / "panoptic_train.json").read_text())["annotations"]
    assert [info["score"] for info in entry["segments_info"]] == [0.9]
    assert writer.remarks() == ["objects wholly and so left out under better ones: 1"]


def test_many_classes_and_characters_of_more_than_16_bits(tmp_path):
    names = {0: "a", 300: "\U0001f9eb"}
    cell = SavedObject(300, names[300], 0.9, (0, 0, 1, 2), np.ones((2, 1), bool))
    for name in ("semantic-png", "yolo"):
        writer = format_writer(name, tmp_path / name, names, frozenset(), 0.0)
        writer.add(SavedImage("x.png", (2, 2), [cell]))
        writer.finish()
    pixels = np.asarray(Image.open(tmp_path / "semantic-png" / "annotations" / "train" / "x.png"))
    np.testing.assert_array_equal(pixels, [[300, 65535]] * 2)
    described = yaml.safe_load((tmp_path / "yolo" / "data.yaml").read_text(encoding="utf-8"))
    assert described["names"] == {0: "a", 1: names[300]}


def test_people_see_the_scores_and_tell_objects_apart(saved):
    for name, kind in (("label-studio", "BrushLabels"), ("label-studio-polygons", "PolygonLabels")):
        (prediction,) = content(saved, name, "tasks.json")[0]["predictions"]
        assert [result["score"] for result in prediction["result"]] == pytest.approx(SCORES)
        assert prediction["score"] == pytest.approx(np.mean(SCORES))
        assert len({result["id"] for result in prediction["result"]}) == 3
        config = ElementTree.parse(saved[0] / name / "label_config.xml")
        assert [label.tag for label in config.iter() if label.get("toName")] == [kind]
    (file,) = (saved[0] / "labelme" / "sub").glob("*.json")
    shapes = json.loads(file.read_text())["shapes"]
    assert [shape["description"] for shape in shapes] == ["score 0.900", *["score 0.775"] * 2, "score 0.650"]


def test_datumaro_has_the_run_lengths(saved):
    found = content(saved, "datumaro", "annotations", "train.json")
    assert [label["name"] for label in found["categories"]["label"]["labels"]] == list(NAMES.values())
    first = found["items"][0]
    assert [entry["attributes"]["score"] for entry in first["annotations"]] == pytest.approx(SCORES)
    assert [entry["group"] for entry in first["annotations"]] == [1, 2, 3]
    assert [entry["id"] for item in found["items"] for entry in item["annotations"]] == [0, 1, 2, 3]
    for entry, mask in zip(first["annotations"], discs(), strict=True):
        np.testing.assert_array_equal(coco_mask.decode(entry["rle"]).astype(bool), mask)
    assert [entry["label_id"] for entry in first["annotations"]] == [0, 1, 0]
    assert (saved[0] / "datumaro" / "images" / "train" / first["image"]["path"]).is_file()


def test_what_is_said(saved):
    lines = "\n".join(saved[1])
    for name in FORMATS:
        assert f"saved {saved[0] / name}: 3 images, 4 segments" in lines
    assert lines.count("mean IoU with the masks 1.0000, lowest 1.000 (tolerance 0 pixels)") == len(POLYGONS)
    assert lines.count("objects with holes, which a line without width joins to the outline: 2") == len(POLYGONS)
    assert len(re.findall("objects of several parts, .*: 1$", lines, re.MULTILINE)) == len(POLYGONS)
    assert "objects partly under better ones: 1" in lines


def test_names_are_plain_and_unique(saved):
    """No control character, quote, or mark of an address; and the picture is the source's."""
    for name in FORMATS:
        pictures = {path.name for path in (saved[0] / name).rglob("*.png")}
        evil = [picture for picture in pictures if picture.startswith("=1+1")]
        assert evil and all(character not in "".join(evil) for character in "<>'\"&#?%\n\udcff")
    tasks = json.loads((saved[0] / "label-studio" / "tasks.json").read_text())
    assert tasks[0]["data"]["image"].startswith("/data/local-files/?d=images/sub/%3D1%2B1%20_")


def test_xml_is_xml_and_labels_are_those_of_the_interface(saved):
    config = ElementTree.parse(saved[0] / "label-studio" / "label_config.xml")
    labels = [label.get("value") for label in config.iter("Label")]
    tasks = json.loads((saved[0] / "label-studio" / "tasks.json").read_text())
    used = {result["value"]["brushlabels"][0] for result in tasks[0]["predictions"][0]["result"]}
    assert used == set(labels) == set(map(xml_text, NAMES.values()))
    root = ElementTree.parse(saved[0] / "cvat" / "annotations.xml")
    assert [image.get("width") for image in root.iter("image")] == ["60"] * 3


def test_label_studio_reads_its_brushes(saved):
    converter = pytest.importorskip("label_studio_converter.brush")
    tasks = json.loads((saved[0] / "label-studio" / "tasks.json").read_text())
    results = tasks[0]["predictions"][0]["result"][:1]  # its decoder takes seconds for each
    for result, mask in zip(results, discs()[:1], strict=True):
        values = converter.decode_rle(result["value"]["rle"]).reshape(*SIZE, 4)
        np.testing.assert_array_equal(values == 255, mask[..., None].repeat(4, -1))
        assert result["value"]["rle"] == converter.mask2rle(mask.astype(np.uint8) * 255)[: len(result["value"]["rle"])]


def test_label_studio_takes_the_tasks(saved):
    """Its SDK checks a prediction against the labelling interface."""
    module = pytest.importorskip("label_studio_sdk.label_interface")
    for name in ("label-studio", "label-studio-polygons"):
        interface = module.LabelInterface((saved[0] / name / "label_config.xml").read_text())
        for task in json.loads((saved[0] / name / "tasks.json").read_text()):
            (found,) = task.pop("predictions")  # which its check of a task cannot take
            assert interface.validate_task(task) and interface.validate_prediction(found)


def test_datumaro_reads_its_own_and_others(saved):
    datumaro = pytest.importorskip("datumaro")
    dataset = datumaro.Dataset.import_from(str(saved[0] / "datumaro"), "datumaro")
    items = {item.id: item for item in dataset}
    assert len(items) == 3 and len(items["empty"].annotations) == 0
    (evil,) = [item for name, item in items.items() if name.startswith("sub/=1+1")]
    for annotation, mask in zip(evil.annotations, discs(), strict=True):
        np.testing.assert_array_equal(annotation.image.astype(bool), mask)
    assert evil.media.data.shape[:2] == SIZE


def test_cvat_reads_its_masks(saved):
    masks = pytest.importorskip("cvat_sdk.masks")
    root = ElementTree.parse(saved[0] / "cvat" / "annotations.xml")
    elements = next(iter(root.iter("image"))).findall("mask")
    for element, mask in zip(elements, discs(), strict=True):
        left, top, width, height = (int(element.get(key)) for key in ("left", "top", "width", "height"))
        points = [*map(int, element.get("rle").split(",")), left, top, left + width - 1, top + height - 1]
        assert points == masks.encode_mask(mask)


def test_labelme_reads_its_polygons(saved):
    labelme = pytest.importorskip("labelme._label_file")
    for path in (saved[0] / "labelme").rglob("[!.]*.json"):
        found, written = labelme.LabelFile(str(path)), json.loads(path.read_text())
        shapes = [(shape["label"], shape["group_id"], shape["points"]) for shape in found.shapes]
        assert shapes == [(shape["label"], shape["group_id"], shape["points"]) for shape in written["shapes"]]
        assert Image.open(io.BytesIO(found.image_data)).size == SIZE[::-1]


def test_ultralytics_reads_yolo(saved, tmp_path, monkeypatch):
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("YOLO_OFFLINE", "1")
    # RuntimeError: torchvision, which it asks for, of another build than torch.
    data = pytest.importorskip("ultralytics.data.dataset", exc_type=(ImportError, RuntimeError))
    shutil.copytree(saved[0] / "yolo", tmp_path / "yolo")  # beside the labels it writes a cache
    about = {"names": dict(enumerate(NAMES.values())), "nc": len(NAMES), "channels": 3}
    images = str(tmp_path / "yolo" / "images" / "train")
    found = data.YOLODataset(img_path=images, data=about, task="segment", imgsz=64, augment=False, rect=False)
    assert [len(entry["segments"]) for entry in found.labels].count(0) == 1 and len(found.labels) == 3
    (entry,) = [entry for entry in found.labels if "=1+1" in entry["im_file"]]
    assert entry["cls"].ravel().tolist() == [0, 1, 0] and entry["shape"] == SIZE
    for points, mask in zip(entry["segments"], discs(), strict=True):
        polygon = (points * np.array(SIZE[::-1])).round(3).ravel().tolist()
        drawn = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([polygon], *SIZE)))
        np.testing.assert_array_equal(drawn == 1, mask)


def test_supervision_reads_coco_and_yolo(saved):
    supervision = pytest.importorskip("supervision")
    folder = saved[0] / "coco-rle"
    coco = supervision.DetectionDataset.from_coco(str(folder), str(folder / "instances_train.json"), force_masks=True)
    (name,) = [path for path in coco.image_paths if "=1+1" in path]
    np.testing.assert_array_equal(coco.annotations[name].mask, discs())
    assert [Image.open(path).size for path in coco.image_paths] == [SIZE[::-1]] * 3
