from types import SimpleNamespace

import numpy as np
import post_processing_reference as reference
import pytest
import torch
from post_processing_cases import PROCESSOR, SIZES, columns
from post_processing_reference import class_logits_for, make_outputs, random_logits

from m2f.image_processing.image_processing_m2f import M2FImageProcessor


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


def batch_of(*cases: SimpleNamespace) -> SimpleNamespace:
    return SimpleNamespace(**{name: torch.cat([getattr(case, name) for case in cases]) for name in vars(cases[0])})


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
