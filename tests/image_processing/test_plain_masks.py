"""The tests of post-processing once more in plain PyTorch, which runs on GPUs and where there is no compiler."""

import pytest
import torch
from test_instance_masks import (  # noqa: F401
    test_instance_mask_threshold,
    test_instances_equal_float64_reference,
)
from test_post_processing import (  # noqa: F401
    test_panoptic_equals_float64_reference,
    test_semantic_equals_float64_reference,
    test_semantic_task_gives_one_segment_per_class_in_the_panoptic_method,
)
from test_post_processing_golden import (  # noqa: F401
    case,
    golden,
    test_instances,
    test_panoptic_segments,
    test_semantic_map,
)
from test_post_processing_mixin import (  # noqa: F401
    test_batch_equals_each_image_alone,
    test_outputs_are_not_changed_and_need_no_gradient,
)

from m2f.image_processing.plain_masks import MaskGeometry, resized_chunks
from m2f.image_processing.post_processing import CHUNK_BYTES


@pytest.fixture(autouse=True)
def plain_pytorch(monkeypatch):
    monkeypatch.setenv("M2F_KERNELS", "reference")


def test_chunks_of_200_masks_at_1024_x_2048_are_small(monkeypatch):
    # 200 masks are 1.7 GB; a chunk exists up to four times (logits, padded logits, what is inside, a factor)
    sizes = []
    monkeypatch.setattr(
        "m2f.image_processing.plain_masks.resize_masks", lambda maps, geometry: sizes.append(len(maps))
    )
    geometry = MaskGeometry(*[(1024, 2048)] * 3)
    starts = [start for start, _ in resized_chunks(torch.empty(200, 1, 1), geometry, CHUNK_BYTES)]
    assert sum(sizes) == 200 and starts == list(range(0, 200, sizes[0]))
    assert 4 * max(sizes) * 4 * 1024 * 2048 < 150e6
    # and where the target is larger than what the model saw, by the target
    sizes.clear()
    list(resized_chunks(torch.empty(9, 1, 1), MaskGeometry((8, 8), (8, 8), (1024, 2048)), CHUNK_BYTES // 4))
    assert sizes == [1] * 9
