import pytest
import torch
from fake_reader import FakeReader, good
from transformers.modeling_outputs import ModelOutput

from m2f.evaluation.semantic_iou import SemanticIoU
from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.validation.evaluation_batches import TestTimeView
from m2f.validation.task_measurement import TaskMeasurement, average_views, measuring_decoder


def outputs(seed: int, height: int = 4, width: int = 6) -> ModelOutput:
    """Of two images with 3 classes and 5 queries; `height` x `width` logits."""
    generator = torch.Generator().manual_seed(seed)
    return ModelOutput(
        class_queries_logits=torch.randn(2, 5, 4, generator=generator),
        masks_queries_logits=4 * torch.randn(2, 5, height, width, generator=generator),
        valid_sizes=torch.tensor([[4 * height, 4 * width]] * 2),
    )


@pytest.mark.parametrize("task", ["semantic", "panoptic"])
def test_the_mean_over_views_is_that_of_the_scores(task):
    """By hand: the sum over the queries of class times mask probability, resized to the image, mirrored back."""
    sizes, processor = [(16, 24), (8, 12)], M2FImageProcessor(task=task)
    views = [TestTimeView(), TestTimeView(flipped=True), TestTimeView(2.0)]
    seen = [outputs(0), outputs(1), outputs(2, 8, 12)]
    found = average_views(measuring_decoder(processor, task), iter(seen), views, sizes)
    for image, size in enumerate(sizes):
        mean = torch.zeros(3, *size)
        for view, output in zip(views, seen, strict=True):
            classes = output.class_queries_logits[image].softmax(-1)[:, :3]
            scores = torch.einsum("qc,qhw->chw", classes, masks(output, image, size, task))
            scores = scores if task == "panoptic" else resized(scores, size)
            mean += (scores.flip(2) if view.flipped else scores) / 3
        assert found[image].shape == size
        assert (found[image] == mean.argmax(0)).float().mean() > 0.99  # but for equal scores and rounding


def masks(output, image, size, task) -> torch.Tensor:
    logits = output.masks_queries_logits[image]
    full = resized(logits, [4 * edge for edge in logits.shape[1:]])
    return (full if task == "semantic" else resized(full, size)).sigmoid()


def resized(maps, size) -> torch.Tensor:
    return torch.nn.functional.interpolate(maps[None], size=tuple(size), mode="bilinear")[0]


def test_predictions_get_the_datasets_labels():
    processor = M2FImageProcessor(task="panoptic", thing_label_ids=[0, 1, 2], panoptic_threshold=0.0)
    labels, sizes = [2, 0, 1], [(16, 24)] * 2
    seen = outputs(3)
    # Each query has a column of its own, so that every one becomes a segment.
    seen["masks_queries_logits"] = torch.where(torch.eye(5, 6)[None, :, None].expand(2, 5, 4, 6) > 0, 9.0, -9.0)
    seen.class_queries_logits[:, :, 3] = -20.0
    for task in ("panoptic", "instance", "semantic"):
        decoder = measuring_decoder(processor, task)
        plain, mapped = (
            TaskMeasurement(decoder, SemanticIoU({0: "a"}), labels=order).predictions(seen, sizes)[0]
            for order in (None, labels)
        )
        if task == "semantic":
            assert torch.equal(mapped, torch.tensor(labels)[plain]) and len(plain.unique()) > 1
            continue
        infos, expected = mapped["segments_info"], plain["segments_info"]
        assert [info["label_id"] for info in infos] == [labels[info["label_id"]] for info in expected]
        assert len({info["label_id"] for info in infos}) > 1
        assert [info["score"] for info in infos] == [info["score"] for info in expected]


def test_instances_of_classes_that_the_dataset_lacks_are_left_out():
    decoder = measuring_decoder(M2FImageProcessor(task="instance"), "instance", max_instances=7)
    metric = SemanticIoU({0: "a"})
    plain, mapped = (
        TaskMeasurement(decoder, metric, labels=labels).predictions(outputs(3), None)[0]
        for labels in (None, [-1, 0, -1])
    )
    kept = [i for i, info in enumerate(plain["segments_info"]) if info["label_id"] == 1]
    assert 0 < len(kept) < len(plain["segments_info"]) == 7
    assert mapped["segmentation"] == [plain["segmentation"][i] for i in kept]
    assert [info["score"] for info in mapped["segments_info"]] == [plain["segments_info"][i]["score"] for i in kept]


def test_an_image_is_compared_with_the_truth_and_recorded():
    sample, seen = good("a"), []
    dataset = FakeReader([sample])
    metric = SemanticIoU(dataset.id2label)
    decoder = measuring_decoder(M2FImageProcessor(task="semantic"), "semantic")
    measurement = TaskMeasurement(
        decoder,
        metric,
        truth=lambda index, sample: torch.full((6, 8), index),
        image_id=lambda index: f"image {index}",
        record=lambda *image: seen.append(image),
    )
    prediction = torch.ones(6, 8, dtype=torch.int64)
    measurement.count(1, sample, prediction)
    assert metric.evaluate()["pACC"] == 1.0 and list(metric.state()["images"]) == ["image 1"]
    assert seen == [(1, sample, prediction)]
    TaskMeasurement(decoder, metric).count(0, sample, prediction)  # half of the sample is class 1
    assert metric.evaluate()["pACC"] == pytest.approx((48 + 24) / 96)
