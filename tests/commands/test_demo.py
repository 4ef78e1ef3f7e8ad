"""`m2f demo` but for its page, which `tests/browser/test_demo_page.py` opens."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from object_reader import NAMES, Thing, draw, object_reader
from pycocotools import mask as coco_mask

from m2f.cli import main
from m2f.inference.demo_page import coco_of, rows_of, segmenting
from m2f.inference.segmenter import Segmenter


def test_without_gradio_there_is_one_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["demo"]) == 2
    assert capsys.readouterr().err == (
        'm2f demo: error: the page needs Gradio, which is not installed: pip install "m2f[demo]"\n'
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no/such/folder"], "no/such/folder"),
        (["--port", "65536"], "'65536' is not a port, which are from 0 to 65535"),
        (["--device", "cuda:99"], "cuda:99"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_served(words, message, monkeypatch, capsys):
    def serve(*_):
        raise AssertionError("served")

    monkeypatch.setattr("m2f.inference.demo_page.launch", serve)
    try:
        code = main(["demo", *words])
    except SystemExit as end:
        code = end.code
    error = capsys.readouterr().err
    assert code == 2 and error.startswith("m2f demo: error: ") and message in error and error.count("\n") == 1


THINGS = [Thing(1, 0, 0.9, 8, 8, 16, 16), Thing(2, 1, 0.6, 16, 16, 48, 80)]


@pytest.mark.parametrize(("own", "found"), [(True, 2), (False, 1)])
def test_thresholds_are_the_checkpoints_unless_others_are_chosen(own, found, tmp_path):
    model = object_reader()
    draw((64, 96), THINGS).save(tmp_path / "a.png")
    segment = segmenting(SimpleNamespace(Error=ValueError), lambda name: Segmenter(model, model.processor))
    _, rows, path = segment(str(tmp_path / "a.png"), "reader", "as trained", own, 0.8, 0.5)
    assert len(rows) == len(json.loads(Path(path).read_text())["annotations"]) == found


def test_segments_as_rows_and_as_coco():
    model = object_reader()
    result = Segmenter(model, model.processor)(draw((64, 96), THINGS))
    scores = [round(segment.score, 3) for segment in result.segments]
    assert rows_of(result) == [[1, NAMES[0], scores[0], 60], [2, NAMES[1], scores[1], 2044]]
    content = json.loads(json.dumps(coco_of(result, "a.png", dict(enumerate(NAMES)))))
    assert content["images"] == [{"id": 1, "file_name": "a.png", "height": 64, "width": 96}]
    assert [entry["name"] for entry in content["categories"]] == list(NAMES)
    for entry, segment in zip(content["annotations"], result.segments, strict=True):
        assert (coco_mask.decode(entry["segmentation"]).astype(bool) == segment.mask).all()
    assert [entry["id"] for entry in content["annotations"]] == [1, 2]
