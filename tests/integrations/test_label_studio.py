"""The backend behind the server of label-studio-ml, which is asked as Label Studio asks."""

import inspect

import numpy as np
import pytest
from object_reader import NAMES, Thing, draw, object_reader

from m2f.data.brush_runs import brush_mask
from m2f.inference.segmenter import Segmenter
from m2f.output_formats.label_studio_format import label_config

SIZE = (64, 96)
THINGS = [Thing(1, 0, 0.9, 8, 4, 40, 16), Thing(2, 1, 0.6, 8, 40, 40, 80)]


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """What the server answers to a labelling interface and two tasks."""
    monkeypatch.setenv("MODEL_DIR", str(tmp_path))  # where release 2 keeps its cache
    api = pytest.importorskip("label_studio_ml.api")
    from m2f.integrations.label_studio import backend

    model = object_reader()
    loaded = Segmenter(model, model.processor)
    monkeypatch.setattr(Segmenter, "from_pretrained", classmethod(lambda *_, **__: loaded))
    draw(SIZE, THINGS).save(tmp_path / "x.png")
    draw(SIZE, []).save(tmp_path / "empty.png")
    model_class = backend("my_model", tolerance=0.0)
    folder = {"model_dir": str(tmp_path)} if "model_dir" in inspect.signature(api.init_app).parameters else {}

    def ask(config: str) -> list[dict]:
        client = api.init_app(model_class, **folder).test_client()
        version = client.post("/setup", json={"project": "1.2", "schema": config, "force_reload": True}).json
        assert folder or version == {"model_version": "m2f my_model"}
        images = [f"/data/local-files/?d={(tmp_path / name).relative_to('/')}" for name in ("x.png", "empty.png")]
        tasks = [{"id": number, "data": {"image": image}} for number, image in enumerate(images)]
        answer = client.post("/predict", json={"tasks": tasks, "project": "1.2", "label_config": config})
        assert answer.status_code == 200, answer.text
        assert {entry["model_version"] for entry in answer.json["results"]} == {"m2f my_model"}
        return answer.json["results"]

    return ask, loaded(draw(SIZE, THINGS)).segments


def test_masks_of_the_labels_that_are_listed(asked):
    ask, segments = asked
    results = ask(label_config(NAMES, "BrushLabels"))
    assert [len(entry["result"]) for entry in results] == [2, 0]
    for result, segment in zip(results[0]["result"], segments, strict=True):
        np.testing.assert_array_equal(brush_mask(bytes(result["value"]["rle"]), SIZE), segment.mask)
        assert result["value"]["brushlabels"] == [segment.label]
    assert results[0]["score"] == pytest.approx(np.mean([segment.score for segment in segments]))
    (only,) = ask(label_config(NAMES[1:], "BrushLabels"))[0]["result"]
    assert only["value"]["brushlabels"] == [NAMES[1]]


def test_polygons_go_to_the_tags_of_the_interface(asked):
    ask, segments = asked
    config = label_config(NAMES, "PolygonLabels").replace('name="label"', 'name="shape"')
    first, _ = ask(config)[0]["result"]
    assert (first["from_name"], first["to_name"], first["type"]) == ("shape", "image", "polygonlabels")
    x, y = (np.array(first["value"]["points"]) * [SIZE[1], SIZE[0]] / 100).round(6).T
    assert (x.min(), y.min(), x.max(), y.max()) == segments[0].box


def test_an_interface_without_areas(asked):
    ask, _ = asked
    with pytest.raises((AssertionError, ValueError), match="no BrushLabels or PolygonLabels"):
        ask('<View><Image name="image" value="$image"/></View>')
