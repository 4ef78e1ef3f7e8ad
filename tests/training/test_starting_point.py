import json

import pytest
import torch
from shapes_dataset import NAMES, ShapesDataset, shapes_model
from small_models import BACKBONES, SMALL
from transformers import ResNetConfig, ResNetForImageClassification

from m2f.training.starting_point import enable_gradient_checkpointing, starting_model
from m2f.training.training_options import TrainingOptions


@pytest.fixture
def trained(tmp_path):
    """A checkpoint for the classes of the shapes."""
    model = shapes_model()
    model.save_pretrained(tmp_path / "trained")
    return model, str(tmp_path / "trained")


def test_a_checkpoint_gives_its_weights_and_takes_the_datasets_task(trained):
    model, folder = trained
    start = starting_model(TrainingOptions(model=folder), ShapesDataset(task="panoptic"))
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in start.state_dict().items())
    assert (start.config.task, start.config.thing_label_ids) == ("panoptic", [0, 1])
    assert list(start.config.id2label.values()) == list(NAMES)


def test_other_classes_are_an_error_that_names_the_way_out(trained):
    dataset = ShapesDataset()
    dataset.id2label = {0: "red", 1: "green", 2: "blue", 3: "black"}
    with pytest.raises(ValueError, match="only in the dataset: black.*--reset-classifier"):
        starting_model(TrainingOptions(model=trained[1]), dataset)


@pytest.mark.parametrize("names", [("red", "green", "blue", "black"), ("cat", "dog", "cow")])
def test_a_new_classifier_leaves_all_other_weights(trained, names):
    """Even if there are as many classes as before, which loading by shape would not notice."""
    model, folder = trained
    dataset = ShapesDataset()
    dataset.id2label = dict(enumerate(names))
    start = starting_model(TrainingOptions(model=folder, reset_classifier=True), dataset)
    assert start.class_predictor.weight.shape == (len(names) + 1, 32)
    assert start.config.id2label == dict(enumerate(names))
    # The no-object class keeps its weight of 0.1.
    assert start.criterion.empty_weight.tolist() == pytest.approx([1.0] * len(names) + [0.1])
    former = model.state_dict()
    for name, tensor in start.state_dict().items():
        if not name.startswith("criterion"):
            same = tensor.shape == former[name].shape and torch.equal(tensor, former[name])
            assert same == (not name.startswith("class_predictor")), name


def test_a_backbone_gives_its_weights_to_a_new_model(tmp_path):
    fields = {name: value for name, value in BACKBONES["resnet"].items() if name != "model_type"}
    classifier = ResNetForImageClassification(ResNetConfig(**fields, num_labels=2))
    torch.nn.init.constant_(classifier.resnet.embedder.embedder.convolution.weight, 0.125)
    classifier.save_pretrained(tmp_path)
    options = TrainingOptions(backbone=str(tmp_path), num_queries=7, frozen_batch_norm=False)
    start = starting_model(options, ShapesDataset(task="semantic"))
    encoder = start.model.pixel_level_module.encoder
    assert torch.equal(encoder.embedder.embedder.convolution.weight, torch.full((8, 3, 7, 7), 0.125))
    assert (start.config.num_queries, start.config.task, start.config.num_labels) == (7, "semantic", 3)
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in encoder.modules())


def config_json(tmp_path, **fields) -> str:
    small = {name: value for name, value in SMALL.items() if name != "num_labels"}
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"backbone_config": BACKBONES["swin"], **small, **fields}))
    return str(path)


def test_scratch_makes_the_model_of_a_configuration_for_the_datasets_classes(tmp_path):
    path = config_json(tmp_path, num_labels=150, model_type="m2f")
    options = TrainingOptions(scratch=path, num_queries=9, drop_path_rate=0.2)
    torch.manual_seed(0)
    one = starting_model(options, ShapesDataset())
    torch.manual_seed(0)
    other = starting_model(options, ShapesDataset())
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())
    assert (one.config.hidden_dim, one.config.num_labels, one.config.num_queries) == (32, 3, 9)
    assert one.config.backbone_config.drop_path_rate == 0.2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"hiden_dim": 32}', ["config.json", "'hiden_dim'", "hidden_dim"]),
        ("{", ["config.json", "no json"]),
    ],
)
def test_a_wrong_configuration_is_an_error(tmp_path, text, words):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError) as error:
        starting_model(TrainingOptions(scratch=str(tmp_path / "config.json")), ShapesDataset())
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "nothing given"),
        ({"model": "a", "scratch": "b"}, "--model and --scratch given"),
        ({"backbone": "a", "reset_classifier": True}, "--reset-classifier belongs to --model"),
        ({"model": "a", "num_queries": 5}, "--num-queries belongs to a new model"),
        ({"model": "a", "frozen_batch_norm": True}, "--frozen-batch-norm belongs to a new model"),
    ],
)
def test_starts_that_contradict_each_other_are_errors(fields, words):
    with pytest.raises(ValueError, match=words):
        starting_model(TrainingOptions(**fields), ShapesDataset())


def test_a_missing_checkpoint_is_an_error(tmp_path):
    with pytest.raises(OSError):
        starting_model(TrainingOptions(model=str(tmp_path / "nothing")), ShapesDataset())


def test_the_runs_own_checkpoint_wins_over_where_it_started(trained, tmp_path):
    model, folder = trained
    options = TrainingOptions(scratch="nowhere.json", reset_classifier=False)
    start = starting_model(options, ShapesDataset(), checkpoint=folder)
    assert torch.equal(start.class_predictor.weight, model.class_predictor.weight)


def test_gradient_checkpointing_is_on():
    model = shapes_model()
    enable_gradient_checkpointing(model)
    assert any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


def test_other_channels_adapt_what_is_given_and_describe_what_is_new(trained, tmp_path):
    """Weights of a checkpoint are adapted; random ones are drawn for the number."""
    folder, dataset = trained[1], ShapesDataset()
    model = starting_model(TrainingOptions(model=str(folder), channels=4, reset_classifier=True), dataset)
    assert model.config.backbone_config.num_channels == 4
    path = tmp_path / "config.json"
    path.write_text(
        json.dumps({"backbone_config": BACKBONES["resnet"], **{k: v for k, v in SMALL.items() if k != "num_labels"}})
    )
    new = starting_model(TrainingOptions(scratch=str(path), channels=2), dataset)
    assert new.config.backbone_config.num_channels == 2
    with pytest.raises(ValueError, match="channels is 4, and the run that goes on from .* has 3; leave --channels"):
        starting_model(TrainingOptions(model=str(folder), channels=4), dataset, checkpoint=folder)
