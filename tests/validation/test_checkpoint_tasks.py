"""Checkpoints in folders: of this project, and as transformers writes them."""

import json

import pytest
from fake_reader import FakeReader
from shapes_dataset import NAMES, shapes_model, shapes_processor

from m2f.inference.model_loading import load_model
from m2f.validation.checkpoint_tasks import Checkpoint, choose_tasks, labels_for


def reader(task: str, names=NAMES, things=None) -> FakeReader:
    dataset = FakeReader([], dict(enumerate(names)), "val", things)
    dataset.task = task
    return dataset


@pytest.fixture(scope="module")
def panoptic(tmp_path_factory):
    folder = tmp_path_factory.mktemp("panoptic")
    shapes_model(task="panoptic", thing_label_ids=[0, 1]).save_pretrained(folder)
    shapes_processor("panoptic").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """As transformers' own checkpoints: without task and things, and here without a processor."""
    folder = tmp_path_factory.mktemp("foreign")
    shapes_model().save_pretrained(folder)
    fields = json.loads((folder / "config.json").read_text())
    fields = {name: value for name, value in fields.items() if name not in ("task", "thing_label_ids")}
    (folder / "config.json").write_text(json.dumps({**fields, "model_type": "mask2former"}))
    return folder


def load(folder, dataset, trained_for=None, **fields):
    lines = []
    loaded = load_model(str(folder), like=dataset, trained_for=trained_for, say=lines.append, **fields)
    return Checkpoint(*loaded), lines


def test_a_checkpoint_says_what_it_was_trained_for(panoptic):
    checkpoint, lines = load(panoptic, reader("semantic"), size={"shortest_edge": 32})
    assert (checkpoint.trained_for, checkpoint.things, lines) == ("panoptic", [0, 1], [])
    assert checkpoint.processor.thing_label_ids == [0, 1] and checkpoint.processor.size["shortest_edge"] == 32
    assert not checkpoint.model.training
    assert load(panoptic, reader("semantic"), "semantic")[0].processor.task == "semantic"


@pytest.mark.parametrize(("task", "things"), [("panoptic", [1]), ("instance", [0, 1, 2]), ("semantic", [])])
def test_one_that_does_not_say_is_for_what_the_labels_are(foreign, task, things):
    dataset = reader(task, things={"panoptic": [1], "instance": None, "semantic": []}[task])
    checkpoint, lines = load(foreign, dataset)
    assert (checkpoint.trained_for, checkpoint.things) == (task, things)
    assert f"taken as {task} (--trained-for)" in lines[0] and "has no image processor" in lines[1]


def test_things_of_a_foreign_panoptic_checkpoint_are_found_by_name(foreign):
    """COCO's checkpoints on its instance json, whose classes are the things."""
    checkpoint, _ = load(foreign, reader("instance", ("green", "blue")), "panoptic")
    assert checkpoint.things == [1, 2]
    assert labels_for(checkpoint, reader("instance", ("green", "blue")), "instance") == [-1, 0, 1]


@pytest.mark.parametrize(
    ("task", "things", "expected"),
    [
        ("panoptic", [0, 1], ["panoptic", "instance", "semantic"]),
        ("panoptic", [], ["panoptic", "semantic"]),
        ("instance", None, ["instance"]),
        ("semantic", [], ["semantic"]),
    ],
)
def test_tasks_that_both_allow(panoptic, task, things, expected):
    dataset = reader(task, things=things)
    checkpoint, _ = load(panoptic, dataset)
    assert choose_tasks(checkpoint, dataset) == expected
    assert choose_tasks(checkpoint, dataset, expected[-1:]) == expected[-1:]


def test_tasks_that_one_does_not_allow(panoptic):
    dataset = reader("instance")
    checkpoint, _ = load(panoptic, dataset, "semantic")
    with pytest.raises(ValueError, match="nothing can be measured: .* for semantic .* for instance .*both: none"):
        choose_tasks(checkpoint, dataset)
    checkpoint, _ = load(panoptic, dataset)
    with pytest.raises(ValueError, match="task panoptic cannot be measured.*both: instance"):
        choose_tasks(checkpoint, dataset, ["panoptic"])


def test_things_of_one_that_are_stuff_of_the_other_are_an_error(panoptic):
    checkpoint, _ = load(panoptic, reader("panoptic", things=[0]))
    with pytest.raises(ValueError, match="^green: things of the dataset and stuff"):
        labels_for(checkpoint, reader("panoptic", things=[0]), "panoptic")
    assert labels_for(checkpoint, reader("panoptic", things=[0, 1]), "panoptic") is None
    assert labels_for(checkpoint, reader("semantic", NAMES[::-1], []), "semantic") == [2, 1, 0]


def test_checkpoints_that_cannot_be_read(panoptic, tmp_path):
    with pytest.raises(OSError):
        load(tmp_path / "nowhere", reader("instance"))
    (tmp_path / "config.json").write_text(
        (panoptic / "config.json").read_text().replace('"num_queries": 8', '"num_queries": 9')
    )
    (tmp_path / "model.safetensors").write_bytes((panoptic / "model.safetensors").read_bytes())
    with pytest.raises(ValueError, match="quer"):
        load(tmp_path, reader("panoptic", things=[0, 1]))
    (tmp_path / "config.json").write_text('{"model_type": "resnet"}')
    with pytest.raises(ValueError, match="of model_type 'resnet'; m2f or mask2former is needed"):
        load(tmp_path, reader("panoptic"))
