import pytest
from shapes_dataset import ShapesDataset, shapes_model, shapes_processor
from shapes_trainer import arguments, make_trainer
from torch import nn

from m2f.data.collation import Collator
from m2f.data.training_dataset import TrainingDataset


class OtherClasses(ShapesDataset):
    def __init__(self):
        super().__init__()
        self.id2label = {0: "red", 1: "green", 2: "yellow"}


@pytest.mark.parametrize(
    ("others", "error", "message"),
    [
        ({"train_dataset": ["a"]}, TypeError, "train_dataset is a list.*open_dataset"),
        ({"eval_dataset": "folder"}, TypeError, "eval_dataset is a str"),
        ({"eval_dataset": {"a": ShapesDataset(), "b": [1]}}, TypeError, r"eval_dataset\['b'\] is a list"),
        ({"eval_dataset": TrainingDataset(ShapesDataset())}, TypeError, "eval_dataset is a TrainingDataset"),
        ({"train_dataset": OtherClasses()}, ValueError, "train_dataset: .*only in the dataset: yellow.*In Python"),
        ({"train_dataset": TrainingDataset(OtherClasses())}, ValueError, "yellow"),
        ({"eval_dataset": OtherClasses()}, ValueError, "eval_dataset: .*yellow"),
        ({"data_collator": list, "train_dataset": OtherClasses()}, ValueError, "yellow"),
        ({"processing_class": None}, TypeError, "processing_class must be the model's image processor, got NoneType"),
        ({"model": shapes_model().model}, TypeError, "got M2FModel"),
        ({"model": nn.Linear(1, 1)}, TypeError, "got Linear"),
        ({"task": "depth"}, ValueError, "'depth'.*panoptic, instance, semantic"),
        ({"compute_metrics": len}, ValueError, "compute_metrics"),
    ],
)
def test_a_mistake_is_found_before_training(others, error, message, tmp_path):
    with pytest.raises(error, match=message):
        make_trainer(arguments(tmp_path), **others)


def test_an_own_collator_may_take_any_dataset(tmp_path):
    dataset = [ShapesDataset()[0]] * 4
    make_trainer(arguments(tmp_path), train_dataset=dataset, data_collator=Collator(shapes_processor())).train()


@pytest.mark.parametrize("wanted", [None, "eval_PQ", "loss"])
def test_a_best_metric_that_is_not_measured_is_an_error(wanted, tmp_path):
    fields = {"eval_strategy": "steps", "save_strategy": "steps", "load_best_model_at_end": True}
    args = arguments(tmp_path, metric_for_best_model=wanted, **fields)
    with pytest.raises(ValueError, match="metric_for_best_model is '.*give one of eval_AP, eval_AP50"):
        make_trainer(args, eval_dataset=ShapesDataset())


def test_settings_without_meaning_are_errors(tmp_path):
    with pytest.raises(ValueError, match="label_smoothing_factor=0.1"):
        make_trainer(arguments(tmp_path, label_smoothing_factor=0.1))
    args = arguments(tmp_path)
    args._n_gpu = 2
    with pytest.raises(ValueError, match="2 GPUs in one process"):
        make_trainer(args)


def test_an_evaluation_of_another_dataset_is_checked_too(tmp_path):
    trainer = make_trainer(arguments(tmp_path))
    with pytest.raises(ValueError, match="the dataset to evaluate on: .*yellow"):
        trainer.evaluate(OtherClasses())
    with pytest.raises(TypeError, match="the dataset to evaluate on is a list"):
        trainer.predict([1, 2])
