import json

import numpy as np
import pytest
import torch
from PIL import Image

from m2f.data.coco_panoptic import read_segment_ids
from m2f.data.label_maps import read_label_map
from m2f.evaluation.prediction_files import InstanceFile, PanopticFiles, PredictedImage, SemanticFiles, png_names

RLE = {"size": [2, 2], "counts": "04"}


def test_a_results_json_has_the_categories_of_the_dataset(tmp_path):
    files = InstanceFile(tmp_path, [3, 9])
    prediction = {
        "segmentation": [RLE, RLE],
        "segments_info": [{"label_id": i, "score": 0.5 - i / 10} for i in (1, 0)],
    }
    empty = {"segmentation": [], "segments_info": []}
    lines = [files.add(PredictedImage(i, 10 + i, "a", (2, 2)), p) for i, p in enumerate([empty, prediction, empty])]
    files.finish(lines)
    assert json.loads((tmp_path / "instances.json").read_text()) == [
        {"image_id": 11, "category_id": 9, "segmentation": RLE, "score": 0.4},
        {"image_id": 11, "category_id": 3, "segmentation": RLE, "score": 0.5},
    ]
    files.finish([""])
    assert json.loads((tmp_path / "instances.json").read_text()) == []


def test_panoptic_colours_are_segment_ids(tmp_path):
    """R + 256 G + 65536 B, as COCO says; 0 is void."""
    files = PanopticFiles(tmp_path, ["city/a.jpg"], [3, 9], {0: "car", 1: "sky"}, [0])
    ids = torch.tensor([[0, 1, 70000], [1, 1, 70000]], dtype=torch.int32)
    infos = [{"id": 1, "label_id": 0, "score": 0.9}, {"id": 70000, "label_id": 1, "score": 0.8}]
    line = files.add(PredictedImage(0, 5, "city/a.jpg", (2, 3)), {"segmentation": ids, "segments_info": infos})
    files.finish([line])
    assert np.array_equal(read_segment_ids(tmp_path / "panoptic" / "city" / "a.png", ""), ids.numpy())
    content = json.loads((tmp_path / "panoptic.json").read_text())
    assert content["images"] == [{"id": 5, "file_name": "city/a.jpg", "height": 2, "width": 3}]
    assert content["categories"] == [
        {"id": 3, "name": "car", "isthing": 1},
        {"id": 9, "name": "sky", "isthing": 0},
    ]
    (annotation,) = content["annotations"]
    assert (annotation["image_id"], annotation["file_name"]) == (5, "city/a.png")
    found = [(info["id"], info["category_id"], info["area"]) for info in annotation["segments_info"]]
    assert found == [(1, 3, 3), (70000, 9, 2)]


@pytest.mark.parametrize(("values", "mode"), [([7, 33], "L"), ([0, 255], "L"), ([7, 256], "I;16")])
def test_label_maps_have_the_numbers_of_the_dataset(tmp_path, values, mode):
    files = SemanticFiles(tmp_path, ["row 0"], values)
    files.add(PredictedImage(0, 0, "row 0", (1, 2)), torch.tensor([[1, 0]]))
    files.finish([""])
    path = tmp_path / "semantic" / "row 0.png"
    assert read_label_map(path, "").tolist() == [[values[1], values[0]]]
    assert Image.open(path).mode == mode
    with pytest.raises(ValueError, match="labels from 0 to 65536 do not fit"):
        SemanticFiles(tmp_path, [], [0, 65536])


def test_names_stay_in_the_folder_and_apart():
    assert png_names(["a/b.jpg", "c.tiff", "row 3"]) == ["a/b.png", "c.png", "row 3.png"]
    assert png_names(["../../a.jpg", "/etc/b.jpg"]) == ["a.png", "etc/b.png"]
    assert png_names(["a.jpg", "a.png"]) == ["a.jpg.0.png", "a.png.1.png"]
