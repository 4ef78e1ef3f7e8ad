"""Instances of random model outputs against the float64 reference, and the rules of their masks."""

import numpy as np
import post_processing_reference as reference
import pytest
from post_processing_cases import PROCESSOR, SIZES, THINGS, columns
from post_processing_reference import class_logits_for, make_outputs, random_logits

from m2f.image_processing.image_processing_m2f import M2FImageProcessor


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


def test_semantic_task_has_no_instances():
    with pytest.raises(ValueError, match="no label is a thing"):
        M2FImageProcessor(task="semantic").post_process_instance_segmentation(make_outputs(*random_logits(0)))


@pytest.mark.parametrize(("mask_threshold", "width"), [(0.5, 16), (0.0, 32), (1.0, 0), (0.99, 15)])
def test_instance_mask_threshold(mask_threshold, width):
    # Columns 0..15 are on; their logits fall from 12 to -12 over columns 14..17: 9, 3, -3, -9. logit(0.99) is 4.6.
    outputs = make_outputs(class_logits_for([(0, 0.9)], 1), columns((0, 4)))
    result = M2FImageProcessor(task="instance").post_process_instance_segmentation(
        outputs, 0.0, mask_threshold=mask_threshold, return_binary_maps=True
    )[0]["segmentation"]
    assert result[:, 0].sum(1).tolist() == ([width] if width else [])
