"""Every command of docs/integrations.md is run, in its order; a person's work between them is done here."""

import json
import re
import shlex
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState
from object_reader import NAMES, Thing, draw, object_reader
from small_models import small_model

from m2f.cli import main
from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.inference.segmenter import Segmenter

TEXT = (Path(__file__).parents[2] / "docs" / "integrations.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
COMMANDS = [line for language, block in BLOCKS if not language for line in block.splitlines() if line[:4] == "m2f "]
# These have tests of their own: tests/browser/test_demo_page.py and tests/training/test_trackers.py.
COMMANDS = [line for line in COMMANDS if not line.startswith("m2f demo") and "--report-to" not in line]
SIZE = (64, 64)


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """Photos and a model, where the commands are typed. The model reads the photos, and small weights train."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for number in range(6):
        things = [Thing(1, 0, 0.9, 8, 4, 40, 16), Thing(2, 1, 0.8, 8, 20 + 4 * number, 40, 40 + 4 * number)]
        draw(SIZE, things).save(tmp_path / "photos" / f"{number}.png")
    model = object_reader()
    monkeypatch.setattr("m2f.commands.predict.load_segmenter", lambda args, _: Segmenter(model, model.processor))
    small_model(task="instance", num_labels=len(NAMES)).save_pretrained(tmp_path / "my_model")
    M2FImageProcessor(task="instance", size={"shortest_edge": 64}).save_pretrained(tmp_path / "my_model")
    return tmp_path


def type_in(line: str, *more: str) -> int:
    AcceleratorState._reset_state(reset_partial_state=True)
    return main([*shlex.split(line)[1:], *more])


def correct(place: Path, line: str):
    """After a command, what is done in the tool: an object is deleted."""
    if "--save labelme" in line:
        file = place / "results" / "labelme" / "0.json"
        content = json.loads(file.read_text())
        content["shapes"].pop()
        file.write_text(json.dumps(content))
    elif "--save label-studio" in line:
        tasks = json.loads((place / "results" / "label-studio" / "tasks.json").read_text())
        for task in tasks:
            task["annotations"] = [{"result": entry["result"]} for entry in task.pop("predictions")]
        tasks[0]["annotations"][0]["result"].pop()
        (place / "export.json").write_text(json.dumps(tasks))
    elif "--save cvat" in line:
        text = (place / "results" / "cvat" / "annotations.xml").read_text()
        (place / "corrected.xml").write_text(re.sub(r"    <mask .*\n", "", text, count=1))


def test_every_command(place, capsys):
    objects = []
    for line in COMMANDS:
        more = ["--max-steps=2", "--batch-size=2", "--cpu", "--workers=0"] if line.startswith("m2f train") else []
        more = ["--workers=0"] if line.startswith("m2f check") else more
        assert type_in(line, *more) == 0, (line, capsys.readouterr())
        printed = capsys.readouterr().out
        if line.startswith("m2f check"):
            objects.append(sum(map(int, re.findall(r"segments  (\d+);", printed))))
        correct(place, line)
    # Of twelve objects one is deleted in LabelMe, Label Studio and CVAT.
    assert objects == [11, 11, 11, 12, 12, 12, 12]
    trained = json.loads((place / "better_model" / "config.json").read_text())
    assert sorted(trained["id2label"].values()) == sorted(NAMES[:2])  # the classes that the jsons have
    assert len(json.loads((place / "results" / "predictions.json").read_text())["annotations"]) == 12
    assert main(shlex.split("predict photos --checkpoint my_model --output results --save labelme --cpu")) == 2
    assert "results/labelme was changed since it was written (0.json)" in capsys.readouterr().err
