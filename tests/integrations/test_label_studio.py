"""The backend behind the server of label-studio-ml, which is asked as Label Studio asks."""

import inspect
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
from object_reader import NAMES, Thing, draw, object_reader, polygon_area

from m2f.data.brush_runs import brush_mask
from m2f.inference.segmenter import Segmenter
from m2f.output.safe_text import xml_text
from m2f.output_formats.label_studio_format import label_config

SIZE = (64, 96)
THINGS = [Thing(1, 0, 0.9, 8, 4, 40, 16), Thing(2, 1, 0.6, 8, 40, 40, 80)]
LABELS = (f"{NAMES[0]}\x1b", *NAMES[1:])  # with what xml cannot hold


@pytest.fixture
def server(monkeypatch, tmp_path):
    """Asked with a labelling interface, it gives what it answers to the tasks."""
    monkeypatch.setenv("MODEL_DIR", str(tmp_path))  # where release 2 keeps its cache
    api = pytest.importorskip("label_studio_ml.api")
    from m2f.integrations.label_studio import backend

    model = object_reader()
    model.config.id2label = dict(enumerate(LABELS))
    loading = Mock(return_value=Segmenter(model, model.processor))
    monkeypatch.setattr(Segmenter, "from_pretrained", loading)
    draw(SIZE, THINGS).save(tmp_path / "x.png")
    draw(SIZE, []).save(tmp_path / "empty.png")
    model_class = backend("my_model", "instance", "cpu", tolerance=0.0, threshold=0.25)
    x, empty = (f"/data/local-files/?d={(tmp_path / name).relative_to('/')}" for name in ("x.png", "empty.png"))
    tasks = [{"id": 1, "data": {"image": x, "photo": empty}}, {"id": 2, "data": {"image": empty, "photo": x}}]
    is_first = "model_dir" in inspect.signature(api.init_app).parameters
    folder = {"model_dir": str(tmp_path / "models")} if is_first else {}

    def ask(config: str) -> list[dict]:
        client = api.init_app(model_class, **folder).test_client()
        version = client.post("/setup", json={"project": "1.2", "schema": config, "force_reload": True}).json
        assert is_first or version == {"model_version": "m2f my_model"}
        answer = client.post("/predict", json={"tasks": tasks, "project": "1.2", "label_config": config})
        assert answer.status_code == 200, answer.get_data(as_text=True)
        assert {entry["model_version"] for entry in answer.json["results"]} == {"m2f my_model"}
        return answer.json["results"]

    segments = loading.return_value(draw(SIZE, THINGS)).segments
    return SimpleNamespace(ask=ask, segments=segments, loading=loading, model_class=model_class)


def test_masks_of_the_labels_that_are_listed(server):
    other = '<Choices name="quality" toName="image"><Choice value="good"/></Choices>\n  <BrushLabels'
    results = server.ask(label_config(LABELS, "BrushLabels").replace("<BrushLabels", other))
    assert [len(entry["result"]) for entry in results] == [2, 0]
    for result, segment in zip(results[0]["result"], server.segments, strict=True):
        np.testing.assert_array_equal(brush_mask(bytes(result["value"]["rle"]), SIZE), segment.mask)
        assert result["value"]["brushlabels"] == [xml_text(segment.label)]
    assert results[0]["score"] == pytest.approx(np.mean([segment.score for segment in server.segments]))
    (only,) = server.ask(label_config(LABELS[1:], "BrushLabels"))[0]["result"]
    assert only["value"]["brushlabels"] == [LABELS[1]]
    server.loading.assert_called_once_with("my_model", "instance", "cpu", threshold=0.25)


def test_polygons_go_to_the_tags_of_the_interface(server):
    config = label_config(LABELS, "PolygonLabels").replace('name="label"', 'name="shape"')
    first, _ = server.ask(config.replace('"image"', '"picture"').replace("$image", "$photo"))[1]["result"]
    assert (first["from_name"], first["to_name"], first["type"]) == ("shape", "picture", "polygonlabels")
    points = (np.array(first["value"]["points"]) * [SIZE[1], SIZE[0]] / 100).round(6)
    (x, y), segment = points.T, server.segments[0]
    assert (x.min(), y.min(), x.max(), y.max()) == segment.box and polygon_area(points) == segment.area


def test_release_2_wants_the_task_for_an_image(server, monkeypatch):
    asked, path = [], server.model_class.get_local_path

    def get_local_path(self, url, task_id):
        asked.append(task_id)
        return path(self, url)

    monkeypatch.setattr(server.model_class, "get_local_path", get_local_path)
    assert len(server.ask(label_config(LABELS, "BrushLabels"))) == 2 and asked == [1, 2]


def test_what_cannot_be_is_said(server):
    with pytest.raises((AssertionError, ValueError), match="no BrushLabels or PolygonLabels"):
        server.ask('<View><Image name="image" value="$image"/></View>')
    from m2f.integrations.label_studio import backend

    with pytest.raises(ValueError, match="tolerance of -1 pixels"):
        backend(tolerance=-1)
