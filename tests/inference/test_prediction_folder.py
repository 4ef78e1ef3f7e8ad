"""Label maps, thumbnails and records of single images; the command's tests see the folder as a whole."""

import base64
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from m2f.inference.detection import detections_from_masks
from m2f.inference.image_sources import ImageSource
from m2f.inference.prediction_folder import PredictionFolder, label_picture, thumbnail
from m2f.inference.segmentation_result import SegmentationResult

IMAGE = Image.new("RGB", (400, 2))


def instances(count: int) -> SegmentationResult:
    """Of one column each."""
    masks = torch.zeros(count, 2, 400, dtype=torch.bool)
    masks[range(count), :, range(count)] = True
    infos = [{"label_id": 0, "score": 0.5}] * count
    return SegmentationResult.from_detections(IMAGE, detections_from_masks(masks, infos), {0: "x"})


def semantic(highest: int) -> SegmentationResult:
    """The first half is the highest class, the other half nothing."""
    ids = np.repeat([[1, 0]], 200, axis=1).repeat(2, axis=0).astype(np.int32)
    info = {"id": 1, "label_id": highest, "was_fused": True, "score": 0.5}
    return SegmentationResult.from_map(IMAGE, "semantic", ids, [info], {n: str(n) for n in range(highest + 1)})


@pytest.mark.parametrize(("count", "kind"), [(0, np.uint8), (255, np.uint8), (256, np.uint16)])
def test_label_map_of_instances(tmp_path, count, kind):
    label_picture(instances(count)).save(tmp_path / "x.png")
    labels = np.asarray(Image.open(tmp_path / "x.png"))
    assert labels.dtype == kind
    np.testing.assert_array_equal(labels[1], [*range(1, count + 1), *[0] * (400 - count)])


@pytest.mark.parametrize(("highest", "kind", "nothing"), [(254, np.uint8, 255), (255, np.uint16, 65535)])
def test_label_map_of_classes(highest, kind, nothing):
    labels = np.asarray(label_picture(semantic(highest)))
    assert labels.dtype == kind
    np.testing.assert_array_equal(labels, np.repeat([[highest, nothing]], 200, axis=1).repeat(2, axis=0))


def test_classes_that_do_not_fit():
    with pytest.raises(ValueError, match="up to 70000 do not fit"):
        label_picture(semantic(70000))


@pytest.mark.parametrize("size", [(10, 20), (5000, 3000), (20000, 3)])
def test_thumbnail(size):
    with Image.open(io.BytesIO(base64.b64decode(thumbnail(Image.new("RGB", size))))) as small:
        assert small.format == "JPEG" and max(small.size) == min(320, max(size))


def test_records(tmp_path):
    path = tmp_path / "x.png"
    IMAGE.save(path)
    folder = PredictionFolder(tmp_path / "out", {"threshold": 0.5})
    folder.begin()
    (entry,) = folder.entries([ImageSource(str(path), "x.png")])
    assert folder.record(entry) is None and not folder.is_done(entry)
    folder.write_failure(entry, "broken")
    assert folder.record(entry)["error"] == "broken" and not folder.is_done(entry)
    folder.write(entry, instances(2))
    assert folder.is_done(entry) and len(folder.record(entry)["segments"]) == 2
    (record,) = (tmp_path / "out" / "records").iterdir()
    content = record.read_bytes()
    record.write_bytes(b"")
    assert not folder.is_done(entry)
    record.write_bytes(content)
    Image.new("RGB", (401, 2)).save(path)  # another image now
    assert folder.record(entry) is None and "changed" in next(folder.records([entry]))[1]["error"]


def test_a_folder_is_known_again(tmp_path):
    PredictionFolder(tmp_path, {"threshold": 0.5, "size": (1, 2)}).begin()
    PredictionFolder(tmp_path, {"threshold": 0.5, "size": (1, 2)}).begin()
    with pytest.raises(ValueError, match="threshold: 0.5, now 0.6"):
        PredictionFolder(tmp_path, {"threshold": 0.6, "size": (1, 2)}).begin()
    PredictionFolder(tmp_path, {"threshold": 0.6}).begin(overwrite=True)
    for content in ("[]", "no json", json.dumps({"program": "another", "settings": {}})):
        (tmp_path / "settings.json").write_text(content)
        with pytest.raises(ValueError, match="did not write"):
            PredictionFolder(tmp_path, {"threshold": 0.6}).begin(overwrite=True)
