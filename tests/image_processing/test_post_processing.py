import inspect
import math
from types import SimpleNamespace

import numpy as np
import post_processing_reference as reference
import pytest
import torch
from post_processing_reference import class_logits_for, make_outputs, random_logits
from transformers.models.mask2former.image_processing_pil_mask2former import Mask2FormerImageProcessorPil
from transformers.utils import ModelOutput

from m2f.image_processing.image_processing_m2f import M2FImageProcessor

THINGS = [0, 1, 2]
PROCESSOR = M2FImageProcessor(thing_label_ids=THINGS, size={"shortest_edge": 41})
# padded, valid and target size of random_logits' 12 x 16 masks
SIZES = [((48, 64), (41, 57), (90, 125)), ((48, 64), (48, 64), (48, 64)), ((48, 64), (41, 57), (20, 30))]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("task", ["panoptic", "semantic"])
def test_semantic_equals_float64_reference(sizes, task):
    for seed in range(3):
        logits = random_logits(seed)
        expected = reference.semantic(*logits, *sizes, resize_scores=task == "semantic")
        result = M2FImageProcessor(task=task).post_process_semantic_segmentation(
            make_outputs(*logits, sizes[1]), [sizes[2]], return_segmentation_scores=True
        )[0]
        np.testing.assert_allclose(result.segmentation_scores.numpy(), expected, atol=2e-5)
        assert (result.segmentation.numpy() == expected.argmax(0)).mean() > 0.999
        assert result.segmentation.dtype == torch.int64


def test_the_two_semantic_orders_differ():
    # else the test above could not tell them apart
    logits = random_logits(0)
    first, second = (reference.semantic(*logits, *SIZES[0], resize_scores=flag) for flag in (False, True))
    assert np.abs(first - second).max() > 1e-3


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("chunk_bytes", [1, 2**25])
def test_panoptic_equals_float64_reference(sizes, chunk_bytes, monkeypatch):
    monkeypatch.setattr("m2f.image_processing.post_processing.CHUNK_BYTES", chunk_bytes)
    found = 0
    for seed in range(5):
        logits = random_logits(seed)
        ids, segments = reference.panoptic(*logits, *sizes, threshold=0.5, overlap=0.6, fused={3, 4, 5})
        result = PROCESSOR.post_process_panoptic_segmentation(
            make_outputs(*logits, sizes[1]), threshold=0.5, overlap_mask_area_threshold=0.6, target_sizes=[sizes[2]]
        )[0]
        assert [(item["id"], item["label_id"]) for item in result["segments_info"]] == segments
        assert (result["segmentation"].numpy() == ids).mean() > 0.999
        found += len(segments)
    assert found > 10


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("chunk_bytes", [1, 2**25])
def test_instances_equal_float64_reference(sizes, chunk_bytes, monkeypatch):
    monkeypatch.setattr("m2f.image_processing.post_processing.CHUNK_BYTES", chunk_bytes)
    for seed in range(3):
        logits = random_logits(seed)
        expected = reference.instances(*logits, *sizes, top_k=15, things=THINGS)
        result = PROCESSOR.post_process_instance_segmentation(
            make_outputs(*logits, sizes[1]), 0.0, target_sizes=[sizes[2]], return_binary_maps=True, top_k=15
        )[0]
        assert [item["label_id"] for item in result["segments_info"]] == [item[1] for item in expected]
        scores = [item["score"] for item in result["segments_info"]]
        np.testing.assert_allclose(scores, [item[0] for item in expected], atol=1e-5)
        assert (result["segmentation"].numpy() == np.stack([item[2] for item in expected])).mean() > 0.999


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


def test_nan_is_not_taken_for_an_empty_image():
    class_logits, mask_logits = random_logits(0)
    class_logits[0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        PROCESSOR.post_process_panoptic_segmentation(make_outputs(class_logits, mask_logits))


@pytest.mark.parametrize("kernels", ["auto", "reference"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_masks_that_are_not_finite_are_refused_as_classes_are(value, kernels, monkeypatch):
    """Such masks gave maps without the object, or of another one, and no word."""
    monkeypatch.setenv("M2F_KERNELS", kernels)
    batch = batch_of(*(make_outputs(*random_logits(seed), (41, 57)) for seed in range(3)))
    batch.masks_queries_logits[1, 2, 3, 4] = value
    batch.masks_queries_logits[2, 0, 0, 0] = value
    for name in ("semantic", "panoptic", "instance"):
        with pytest.raises(ValueError, match=r"masks_queries_logits of image \[1, 2\] .* NaN or infinity; .*float32"):
            getattr(PROCESSOR, f"post_process_{name}_segmentation")(batch)


def test_infinity_is_refused_among_the_classes_where_no_probability_is_left():
    """softmax of +inf, and of -inf alone, is NaN; a class at -inf has the probability 0."""
    for row, is_valid in (((np.inf, 0), False), ((-np.inf, 0), True), ((-np.inf, -np.inf), False)):
        class_logits, mask_logits = random_logits(0)
        class_logits[5] = row[1]
        class_logits[5, 0] = row[0]
        outputs = make_outputs(class_logits, mask_logits)
        if is_valid:
            assert PROCESSOR.post_process_panoptic_segmentation(outputs)
            continue
        with pytest.raises(ValueError, match=r"class_queries_logits of image \[0\] .*infinity"):
            PROCESSOR.post_process_panoptic_segmentation(outputs)


def test_finite_masks_pass_whose_sum_is_not():
    for dtype, value in ((torch.float16, 6e4), (torch.float32, 3e38)):
        outputs = make_outputs(*random_logits(0))
        outputs.masks_queries_logits = torch.full_like(outputs.masks_queries_logits, value, dtype=dtype)
        assert PROCESSOR.post_process_panoptic_segmentation(outputs)


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


# Masks of whole blocks: 8 x 8 logits, 32 x 32 pixels, columns from..to of each query on.
def columns(*spans: tuple[int, int], logit: float = 12.0) -> np.ndarray:
    masks = np.full((len(spans), 8, 8), -logit)
    for mask, (start, stop) in zip(masks, spans, strict=True):
        mask[:, start:stop] = logit
    return masks


def test_semantic_task_gives_one_segment_per_class_in_the_panoptic_method():
    # three queries, two of class 4: no thresholds apply, the whole image is covered
    classes = class_logits_for([(4, 0.6), (1, 0.7), (4, 0.45)], 6)
    outputs = make_outputs(classes, columns((0, 2), (2, 5), (5, 8)))
    processor = M2FImageProcessor(task="semantic")
    result = processor.post_process_panoptic_segmentation(outputs, threshold=0.99, target_sizes=None)[0]
    semantic = processor.post_process_semantic_segmentation(outputs)[0]
    info = result["segments_info"]
    assert [(item["id"], item["label_id"], item["was_fused"]) for item in info] == [(1, 1, True), (2, 4, True)]
    assert torch.equal(result["segmentation"], torch.where(semantic == 1, 1, 2).int())
    # the pixels of class 1 have score 0.7 for it and nothing for others but at the borders
    assert 0.9 < info[0]["score"] <= 1 and 0 < info[1]["score"] <= 1


def test_semantic_task_has_no_instances():
    with pytest.raises(ValueError, match="no label is a thing"):
        M2FImageProcessor(task="semantic").post_process_instance_segmentation(make_outputs(*random_logits(0)))


def test_instance_task_fuses_nothing_in_the_panoptic_method():
    outputs = make_outputs(class_logits_for([(4, 0.9), (4, 0.9)], 6), columns((0, 3), (5, 8)))
    processor = M2FImageProcessor(task="instance", thing_label_ids=[0])
    info = processor.post_process_panoptic_segmentation(outputs)[0]["segments_info"]
    assert [(item["id"], item["was_fused"]) for item in info] == [(1, False), (2, False)]


def test_explicit_labels_to_fuse_win():
    outputs = make_outputs(
        class_logits_for([(4, 0.9), (4, 0.95), (1, 0.9), (1, 0.9)], 6), columns((0, 2), (3, 4), (5, 6), (7, 8))
    )
    info = PROCESSOR.post_process_panoptic_segmentation(outputs, label_ids_to_fuse={1})[0]["segments_info"]
    assert [(item["label_id"], item["was_fused"]) for item in info] == [(4, False), (4, False), (1, True)]
    info = PROCESSOR.post_process_panoptic_segmentation(outputs)[0]["segments_info"]
    assert [(item["label_id"], item["was_fused"]) for item in info] == [(4, True), (1, False), (1, False)]
    assert info[0]["score"] == pytest.approx(0.95, abs=1e-6)  # the best of the fused queries
    info = PROCESSOR.post_process_panoptic_segmentation(outputs, label_ids_to_fuse=set())[0]["segments_info"]
    assert len(info) == 4


def test_unknown_things_are_warned_about(monkeypatch):
    warnings = []
    monkeypatch.setattr("m2f.image_processing.post_processing_mixin.logger.warning_once", warnings.append)
    outputs = make_outputs(*random_logits(0))
    PROCESSOR.post_process_panoptic_segmentation(outputs)
    M2FImageProcessor(task="instance").post_process_panoptic_segmentation(outputs)
    assert not warnings
    M2FImageProcessor().post_process_panoptic_segmentation(outputs)
    assert "thing_label_ids" in warnings[0]


@pytest.mark.parametrize(("mask_threshold", "width"), [(0.5, 16), (0.0, 32), (1.0, 0), (0.99, 15)])
def test_instance_mask_threshold(mask_threshold, width):
    # Columns 0..15 are on; their logits fall from 12 to -12 over columns 14..17: 9, 3, -3, -9. logit(0.99) is 4.6.
    outputs = make_outputs(class_logits_for([(0, 0.9)], 1), columns((0, 4)))
    result = M2FImageProcessor(task="instance").post_process_instance_segmentation(
        outputs, 0.0, mask_threshold=mask_threshold, return_binary_maps=True
    )[0]["segmentation"]
    assert result[:, 0].sum(1).tolist() == ([width] if width else [])


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
