import numpy as np
import pytest
import torch
from shapes_dataset import SIZE, ShapesDataset, shapes_model, shapes_processor
from shapes_oracle import Oracle

from m2f.validation.evaluation_loop import evaluate_model
from m2f.validation.task_metric import METRICS, make_metric


@pytest.mark.parametrize(("task", "lowest"), [("instance", 1.0), ("panoptic", 0.98), ("semantic", 1.0)])
def test_a_model_that_sees_the_truth_is_nearly_perfect(task, lowest):
    """Masks of a fourth of the resolution have round corners; average precision counts to an IoU of 0.95 only."""
    model, dataset = Oracle(shapes_processor(task)), ShapesDataset(7, task)
    results = evaluate_model(model, model.processor, dataset, batch_size=3)
    assert results[METRICS[task][0]] >= lowest, results
    assert model.batches == [3, 3, 1]
    assert set(METRICS[task]) <= set(results)


def test_the_last_partial_batch_counts_like_every_other():
    """The same numbers for any batch size, because each image is measured by itself; and others for fewer images."""
    processor, dataset = shapes_processor("panoptic"), ShapesDataset(5, "panoptic")
    model = Oracle(processor)
    results = [evaluate_model(model, processor, dataset, batch_size=size) for size in (1, 2, 3, 5)]
    assert all(other == pytest.approx(results[0], abs=1e-9) for other in results[1:])
    fewer = evaluate_model(model, processor, ShapesDataset(4, "panoptic"))
    assert fewer["PQ"] != pytest.approx(results[0]["PQ"], abs=1e-9)


def test_workers_give_the_same():
    dataset, processor, model = ShapesDataset(3), shapes_processor(), shapes_model().eval()
    without, with_one = (evaluate_model(model, processor, dataset, workers=workers) for workers in (0, 1))
    assert without == pytest.approx(with_one, nan_ok=True)


def test_it_leaves_mode_and_random_numbers_alone():
    """Training goes on afterwards, the same as without an evaluation."""
    model = shapes_model().train()
    state = torch.get_rng_state()
    evaluate_model(model, shapes_processor(), ShapesDataset(2), workers=1)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)


def test_the_mode_comes_back_after_an_error():
    model = shapes_model().train()
    with pytest.raises(ValueError):
        evaluate_model(model, shapes_processor(), Broken(1, {0}))
    assert model.training


class Broken(ShapesDataset):
    def __init__(self, count, broken):
        super().__init__(count)
        self.broken = broken

    def __getitem__(self, index):
        if index in self.broken:
            raise ValueError("cut off")
        return super().__getitem__(index)


def test_a_broken_image_stops_or_is_left_out():
    model, processor = Oracle(shapes_processor()), shapes_processor()
    with pytest.raises(ValueError, match="train-2.png of the evaluation cannot be read: cut off"):
        evaluate_model(model, processor, Broken(4, {2}))
    metric = make_metric(ShapesDataset())
    results = evaluate_model(model, processor, Broken(4, {2}), metric=metric, skip_broken=True, batch_size=2)
    assert len(metric) == 3
    # The others alone: image 2 is the only one of them with three segments.
    expected = make_metric(ShapesDataset())
    evaluate_model(model, processor, Broken(4, {2}), metric=expected, skip_broken=True)
    assert results == pytest.approx(expected.evaluate(), nan_ok=True)
    with pytest.raises(ValueError, match="none of the 2 images"):
        evaluate_model(model, processor, Broken(2, {0, 1}), skip_broken=True)


def test_another_task_than_the_datasets_own():
    """Panoptic labels give instance and semantic numbers too."""
    dataset = ShapesDataset(4, "panoptic")
    assert "mIoU" in evaluate_model(shapes_model(), shapes_processor("panoptic"), dataset, "semantic")


def test_every_image_is_observed_with_its_own_outputs():
    dataset, processor, seen = ShapesDataset(3), shapes_processor(), []
    model = Oracle(processor)
    evaluate_model(model, processor, dataset, batch_size=2, observe=lambda *image: seen.append(image))
    assert [sample.name for sample, _ in seen] == ["train-0.png", "train-1.png", "train-2.png"]
    for sample, outputs in seen:
        (found,) = processor.post_process_instance_segmentation(outputs, target_sizes=[(SIZE, SIZE)])
        labels = sorted(info["label_id"] for info in found["segments_info"])
        assert labels == sorted(sample.segments.class_ids.tolist())
        assert np.array_equal(outputs.valid_sizes.numpy(), [[SIZE, SIZE]])
