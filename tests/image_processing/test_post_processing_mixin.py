"""The arguments of the post-processing methods, and what becomes of a batch."""

import inspect
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from post_processing_cases import PROCESSOR
from post_processing_reference import make_outputs, random_logits
from transformers.models.mask2former.image_processing_pil_mask2former import Mask2FormerImageProcessorPil
from transformers.utils import ModelOutput

from m2f.image_processing.image_processing_m2f import M2FImageProcessor


def batch_of(*cases: SimpleNamespace) -> SimpleNamespace:
    return SimpleNamespace(**{name: torch.cat([getattr(case, name) for case in cases]) for name in vars(cases[0])})


def results_of(processor, outputs, targets):
    return [
        processor.post_process_semantic_segmentation(outputs, targets),
        processor.post_process_panoptic_segmentation(outputs, 0.5, target_sizes=targets),
        processor.post_process_instance_segmentation(outputs, 0.2, target_sizes=targets),
    ]


def test_batch_equals_each_image_alone():
    cases = [make_outputs(*random_logits(seed), valid) for seed, valid in ((0, (41, 57)), (1, (48, 30)))]
    targets = [(82, 114), (96, 60)]
    together = results_of(PROCESSOR, batch_of(*cases), targets)
    for index, case in enumerate(cases):
        for batch, single in zip(together, results_of(PROCESSOR, case, [targets[index]]), strict=True):
            if isinstance(batch[index], dict):
                assert torch.equal(batch[index]["segmentation"], single[0]["segmentation"])
                assert batch[index]["segments_info"] == single[0]["segments_info"]
            else:
                assert torch.equal(batch[index], single[0])


def test_half_precision_is_computed_in_float32_outside_autocast():
    outputs = make_outputs(*random_logits(0), (41, 57))
    for dtype in (torch.bfloat16, torch.float16):
        half = SimpleNamespace(**{name: getattr(outputs, name).to(dtype) for name in list(vars(outputs))[:2]})
        exact = SimpleNamespace(**{name: value.float() for name, value in vars(half).items()})
        with torch.autocast("cpu", dtype=torch.bfloat16):
            scores = PROCESSOR.post_process_semantic_segmentation(half, [(41, 57)], True)[0].segmentation_scores
        expected = PROCESSOR.post_process_semantic_segmentation(exact, [(41, 57)], True)[0].segmentation_scores
        assert torch.equal(scores, expected) and scores.dtype == torch.float32


def test_outputs_are_not_changed_and_need_no_gradient():
    outputs = make_outputs(*random_logits(0), (48, 64))
    kept = {name: value.clone() for name, value in vars(outputs).items()}
    outputs.masks_queries_logits.requires_grad_(True)
    results_of(PROCESSOR, outputs, [(12, 16)])
    scores = PROCESSOR.post_process_semantic_segmentation(outputs, [(12, 16)], True)[0].segmentation_scores
    assert not scores.requires_grad
    for name, value in kept.items():
        assert torch.equal(getattr(outputs, name), value)


@pytest.mark.parametrize("form", ["list", "tensor", "tensors", "numpy"])
def test_every_form_of_target_sizes(form):
    outputs = make_outputs(*random_logits(0), (41, 57))
    sizes = {
        "list": [[82, 114]],
        "tensor": torch.tensor([[82, 114]]),
        "tensors": [torch.tensor([82, 114])],
        "numpy": [(np.int64(82), np.int64(114))],
    }[form]
    for result in results_of(PROCESSOR, outputs, sizes):
        assert (result[0]["segmentation"] if isinstance(result[0], dict) else result[0]).shape == (82, 114)


def test_without_target_sizes_results_have_the_valid_size():
    logits = random_logits(0)
    for valid, expected in (((41, 57), (41, 57)), (None, (48, 64))):
        for result in results_of(PROCESSOR, make_outputs(*logits, valid), None):
            assert (result[0]["segmentation"] if isinstance(result[0], dict) else result[0]).shape == expected


def test_valid_size_comes_from_the_resize_rule_where_the_outputs_lack_it():
    # shortest edge 41: an image file of 82 x 114 was 41 x 57 in the model, padded to multiples of 16
    logits = random_logits(0)
    processor = M2FImageProcessor(size=41, size_divisor=16)
    computed = processor.post_process_semantic_segmentation(make_outputs(*logits), [(82, 114)])[0]
    reported = PROCESSOR.post_process_semantic_segmentation(make_outputs(*logits, (41, 57)), [(82, 114)])[0]
    assert torch.equal(computed, reported)
    unresized = M2FImageProcessor(do_resize=False, size_divisor=16).post_process_semantic_segmentation(
        make_outputs(*logits), [(40, 50)]
    )
    expected = PROCESSOR.post_process_semantic_segmentation(make_outputs(*logits, (40, 50)), [(40, 50)])
    assert torch.equal(unresized[0], expected[0])


@pytest.mark.parametrize(
    ("valid", "targets", "found"),
    [
        ((49, 10), None, "49 x 10 reported by the model .* 48 x 64"),
        ((49, 10), [(4, 4)], "49 x 10 reported by the model .* 48 x 64"),
        ((41, 57), [(4, 4), (4, 4)], "2 entries for a batch of 1"),
        ((41, 57), [(4, 0)], r"\[4, 0\]"),
        ((41, 57), [(4, 4.5)], r"\[4, 4.5\]"),
        ((41, 57), [(4, math.inf)], r"\[4, inf\]"),
        ((41, 57), [(4, math.nan)], r"\[4, nan\]"),
        ((41, 57), [(4, None)], r"\[4, None\]"),
        ((41, 57), [(4, 4, 3)], r"\[4, 4, 3\]"),
        ((41, 57), torch.tensor([4, 4]), "2 entries for a batch of 1"),
    ],
)
def test_sizes_that_do_not_fit_are_named(valid, targets, found):
    with pytest.raises(ValueError, match=found):
        PROCESSOR.post_process_semantic_segmentation(make_outputs(*random_logits(0), valid), targets)


@pytest.mark.parametrize(
    ("method", "arguments", "found"),
    [
        ("instance", {"threshold": 1.5}, "threshold must be in .* 1.5"),
        ("panoptic", {"mask_threshold": -0.1}, "mask_threshold"),
        ("panoptic", {"overlap_mask_area_threshold": 2}, "overlap_mask_area_threshold"),
        ("instance", {"top_k": 0}, "top_k"),
        ("instance", {"return_coco_annotation": True, "return_binary_maps": True}, "both"),
    ],
)
def test_bad_arguments_are_named(method, arguments, found):
    with pytest.raises(ValueError, match=found):
        getattr(PROCESSOR, f"post_process_{method}_segmentation")(make_outputs(*random_logits(0)), **arguments)


def test_thing_labels_of_another_model_are_named():
    with pytest.raises(ValueError, match="79.*6 labels.*from_model_config"):
        M2FImageProcessor(thing_label_ids=range(80)).post_process_panoptic_segmentation(
            make_outputs(*random_logits(0))
        )


def test_a_model_output_on_its_way_through_the_pipeline_works():
    # the pipeline hands on a plain ModelOutput
    case = make_outputs(*random_logits(0), (41, 57))
    outputs = ModelOutput(vars(case))
    expected, result = (PROCESSOR.post_process_semantic_segmentation(item, [(41, 57)])[0] for item in (case, outputs))
    assert torch.equal(expected, result)


@pytest.mark.parametrize("name", ["semantic", "instance", "panoptic"])
def test_arguments_have_the_names_and_positions_of_transformers(name):
    ours, theirs = (
        list(inspect.signature(getattr(owner, f"post_process_{name}_segmentation")).parameters)
        for owner in (M2FImageProcessor, Mask2FormerImageProcessorPil)
    )
    assert ours[: len(theirs)] == theirs


def test_unknown_things_are_warned_about(monkeypatch):
    warnings = []
    monkeypatch.setattr("m2f.image_processing.post_processing_mixin.logger.warning_once", warnings.append)
    outputs = make_outputs(*random_logits(0))
    PROCESSOR.post_process_panoptic_segmentation(outputs)
    M2FImageProcessor(task="instance").post_process_panoptic_segmentation(outputs)
    assert not warnings
    M2FImageProcessor().post_process_panoptic_segmentation(outputs)
    assert "thing_label_ids" in warnings[0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_reference_row_17_results_stay_on_the_outputs_device():
    case = make_outputs(*random_logits(0), (41, 57))
    on_gpu = SimpleNamespace(**{name: value.cuda() for name, value in vars(case).items()})
    for expected, result in zip(
        results_of(PROCESSOR, case, [(82, 114)]), results_of(PROCESSOR, on_gpu, [(82, 114)]), strict=True
    ):
        if isinstance(expected[0], dict):
            assert [item["label_id"] for item in result[0]["segments_info"]] == [
                item["label_id"] for item in expected[0]["segments_info"]
            ]
            expected, result = [expected[0]["segmentation"]], [result[0]["segmentation"]]
        assert result[0].is_cuda
        assert (result[0].cpu() == expected[0]).float().mean() > 0.999
