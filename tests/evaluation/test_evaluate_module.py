"""The metrics as modules of Hugging Face's `evaluate`, loaded from their folders without a network."""

import socket

import numpy as np
import pytest
from evaluation_cases import perturbed_nuclei

from m2f.evaluation.evaluate_module import metric_folder
from m2f.evaluation.instance_average_precision import InstanceAveragePrecision
from m2f.evaluation.panoptic_quality import PanopticQuality
from m2f.evaluation.semantic_iou import SemanticIoU

LABELS = {0: "nucleus"}
METRICS = {
    "m2f_panoptic_quality": PanopticQuality,
    "m2f_average_precision": InstanceAveragePrecision,
    "m2f_semantic_iou": SemanticIoU,
}


@pytest.fixture(scope="module")
def evaluate(tmp_path_factory):
    """The library, with caches of its own and without a network."""
    import evaluate

    def refuse(*arguments):
        raise AssertionError(f"a test reached for the network: {arguments[1:]}")

    folder = tmp_path_factory.mktemp("evaluate")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr(evaluate.config, "HF_MODULES_CACHE", folder / "modules")
        patch.setattr(evaluate.config, "HF_METRICS_CACHE", folder / "metrics")
        yield evaluate


@pytest.fixture(scope="module")
def nuclei() -> tuple[list, list]:
    cases = list(perturbed_nuclei())[:3]
    painted = [case.painted() for case in cases]
    predictions = [{"segmentation": segmentation, "segments_info": infos} for segmentation, infos in painted]
    return predictions, [case.segment_map() for case in cases]


@pytest.mark.parametrize("name", METRICS)
def test_gives_the_numbers_of_the_metric_all_at_once_and_in_batches(evaluate, nuclei, name):
    predictions, references = nuclei
    if name == "m2f_semantic_iou":
        predictions = [np.where(prediction["segmentation"] > 0, 0, -1) for prediction in predictions]
    metric = METRICS[name](LABELS)
    metric.process(predictions, references)
    module = evaluate.load(metric_folder(name), id2label=LABELS)
    assert module.name == name
    np.testing.assert_equal(module.compute(predictions=predictions, references=references), metric.evaluate())
    module.add_batch(predictions=predictions[:2], references=references[:2])
    module.add(prediction=predictions[2], reference=references[2])
    np.testing.assert_equal(module.compute(), metric.evaluate())
    with pytest.raises(ValueError, match="no image was processed"):  # compute has reset it
        module.compute()


def test_image_ids_count_an_image_once(evaluate, nuclei):
    predictions, references = nuclei
    module = evaluate.load(metric_folder("m2f_panoptic_quality"), id2label=LABELS)
    module.add_batch(predictions=predictions, references=references, image_ids=["a", "b", "c"])
    module.add(prediction=predictions[0], reference=references[0], image_id="a")
    assert len(module.metric) == 3


def test_predictions_without_references_are_an_error_that_says_so(evaluate, nuclei):
    module = evaluate.load(metric_folder("m2f_panoptic_quality"), id2label=LABELS)
    with pytest.raises(ValueError, match="3 predictions, 0 targets"):
        module.compute(predictions=nuclei[0])


def test_combine_evaluates_several_at_once(evaluate, nuclei):
    predictions, references = nuclei
    modules = [evaluate.load(metric_folder(name), id2label=LABELS) for name in list(METRICS)[:2]]
    combined = evaluate.combine(modules)
    expected = {}
    for kind in list(METRICS.values())[:2]:
        metric = kind(LABELS)
        metric.process(predictions, references)
        expected |= metric.evaluate()
    np.testing.assert_equal(combined.compute(predictions=predictions, references=references), expected)
    combined.add_batch(predictions=predictions[:2], references=references[:2])
    combined.add(prediction=predictions[2], reference=references[2])
    np.testing.assert_equal(combined.compute(), expected)
    prefixed = evaluate.combine(modules, force_prefix=True)
    assert "m2f_panoptic_quality_PQ" in prefixed.compute(predictions=predictions, references=references)


def test_options_of_the_metrics_are_given_to_load(evaluate):
    module = evaluate.load(metric_folder("m2f_panoptic_quality"), id2label=LABELS, thing_label_ids=[])
    assert module.metric.thing_label_ids == []
    module = evaluate.load(metric_folder("m2f_semantic_iou"), id2label=LABELS, ignore_index=7)
    assert module.metric.ignore_index == 7
    options = {"max_detections": (1, 10, 500), "boundary": False, "engine": "pycocotools"}
    module = evaluate.load(metric_folder("m2f_average_precision"), id2label=LABELS, **options)
    assert {name: getattr(module.metric, name) for name in options} == options


def test_unknown_names_are_refused_with_the_known_ones():
    known = "m2f_average_precision, m2f_panoptic_quality, m2f_semantic_iou"
    with pytest.raises(ValueError, match=f"no metric 'iou'; there are {known}"):
        metric_folder("iou")
