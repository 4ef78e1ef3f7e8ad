"""No image, no query, no mask, no point: every kernel, and the model. Expected forms are those that the operators'
fakes promise, and sums of nothing are 0."""

import re

import numpy as np
import pytest
import torch
from small_models import small_model

from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.modeling_m2f.convolution import OPERATOR as CONVOLUTION
from m2f.modeling_m2f.convolution import WEIGHT_GRADIENT as CONVOLUTION_GRADIENT
from m2f.modeling_m2f.kernels.group_norm import group_norm_
from m2f.modeling_m2f.kernels.kernel_sources import CSRC
from m2f.modeling_m2f.kernels.masked_attention import OPERATOR as MASKED_ATTENTION
from m2f.modeling_m2f.kernels.padded_pixels import pad_pixels
from m2f.modeling_m2f.kernels.point_losses import StoredMasks, mask_losses_
from m2f.modeling_m2f.kernels.resized_masks import ResizedMasks, lay_masks
from m2f.modeling_m2f.kernels.sampled_points import draw_uniform, sample_shared, sigmoid_sums
from m2f.modeling_m2f.kernels.semantic_votes import vote_by_class
from m2f.modeling_m2f.kernels.winograd import join_tiles, room_for_tiles, split_gradient, split_tiles

pytest_plugins = ("kernel_fixtures",)
pytestmark = pytest.mark.usefixtures("compiled_kernel")

zeros, SHAPES = torch.zeros, [4, 4, 2, 2]


def deformable(batch=0, queries=5, heads=2, dim=4, points=3):
    return (
        zeros(batch, 20, heads, dim),
        SHAPES,
        zeros(1, queries, 2, 2),
        zeros(batch, queries, heads, 2, points, 2),
        zeros(batch, queries, heads, 2 * points),
    )


def deformable_backward(**sizes):
    value, _, _, offsets, _ = inputs = deformable(**sizes)
    return (value.new_zeros(*offsets.shape[:2], value.shape[2] * value.shape[3]), *inputs, True, True)


def windows(batch=0, heads=2, dim=4):
    return zeros(batch, 12, 3, heads, dim), zeros(3, heads, dim), zeros(heads, 9, 9), 4, 3, 1


def windows_backward(**sizes):
    qkv, *others = windows(**sizes)
    return (qkv.new_zeros(*qkv.shape[:2], qkv.shape[3] * qkv.shape[4]), qkv, *others)


def masked(batch=0, queries=5, cells=7, channels=8):
    keep = torch.ones(batch, 1, queries, cells, dtype=torch.bool)
    return zeros(batch, queries, channels), *[zeros(batch, cells, channels)] * 2, keep, 2


def convolution(batch=0, channels=3, out_channels=4):
    return zeros(batch, channels, 64, 64), zeros(out_channels, channels, 3, 3)


def convolution_gradient(batch=0, channels=3, out_channels=4):
    return zeros(batch, channels, 64, 64), zeros(batch, out_channels, 64, 64)


# name of an operator -> its inputs of which one size is 0
OPERATORS = {
    "m2f::ms_deform_attn_v1": [deformable(**{k: 0}) for k in ("batch", "queries", "heads", "dim", "points")],
    "m2f::ms_deform_attn_backward_v1": [
        deformable_backward(**{k: 0}) for k in ("batch", "queries", "heads", "dim", "points")
    ],
    "m2f::window_attention_v1": [windows(**{k: 0}) for k in ("batch", "heads", "dim")],
    "m2f::window_attention_backward_v1": [windows_backward(**{k: 0}) for k in ("batch", "heads", "dim")],
    MASKED_ATTENTION: [masked(**{k: 0}) for k in ("batch", "queries", "cells", "channels")],
    CONVOLUTION: [convolution(**{k: 0}) for k in ("batch", "channels", "out_channels")],
    CONVOLUTION_GRADIENT: [convolution_gradient(**{k: 0}) for k in ("batch", "channels", "out_channels")],
}


def operators() -> set[str]:
    return {name for name in torch._C._dispatch_get_all_op_names() if name.startswith("m2f::")}


def test_every_operator_has_a_case():
    """What files define on import; other tests' operators are of other namespaces. The loss, which
    takes lists of labels, has tests of its own."""
    assert operators() - {"m2f::loss_v1"} == set(OPERATORS)


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_takes_nothing(name):
    """Masked attention of no image ended the process (SIGFPE). The form is that which the fake promises."""
    operator = getattr(torch.ops.m2f, name.removeprefix("m2f::"))
    for inputs in OPERATORS[name]:
        found = operator(*inputs)
        on_meta = [x.to("meta") if isinstance(x, torch.Tensor) else x for x in inputs]
        promised = operator(*on_meta)
        for one, other in zip(*([x] if isinstance(x, torch.Tensor) else x for x in (found, promised)), strict=True):
            assert (one.shape, one.dtype, one.stride()) == (other.shape, other.dtype, other.stride())
            assert not one.any()


def norm(*size):
    features = zeros(*size).contiguous(memory_format=torch.channels_last)
    group_norm_(features, 2, torch.ones(size[1]), torch.ones(size[1]), 1e-5, None, None, None, True)
    return [features]


def compare(masks, points):
    stored = StoredMasks(zeros(64 * masks), zeros(masks).long(), zeros(masks).long(), (8, 8), (8, 8), (8, 8), None)
    return [mask_losses_(zeros(masks, 4, 4), zeros(masks, points, 2), 0, 0, stored, torch.ones(2), True)]


def resized(count):
    masks = ResizedMasks(zeros(3, 4, 4), zeros(count).long(), (16, 16), (16, 16), (9, 9))
    assert masks.finite
    return [*masks.merge(zeros(count), 0.5), *masks.measure(0.0), masks.binary(zeros(0).long(), 0.0)]


def winograd(height, rows):
    image, room = zeros(height, 8, 3), room_for_tiles(zeros(height, 8, 3), [0, rows])
    split_gradient(image, 0, rows, split_tiles(image, 0, rows, room))
    join_tiles(room, image, 0, rows)
    return [image]


def padded(height):
    values, mask = torch.ones(3, 4, 4), torch.ones(4, 4, dtype=torch.int64)
    pad_pixels(np.zeros((height, 4, 3), np.uint8), zeros(3, 256), values, mask, False)
    return [values, mask]


# functions of the C interface -> what their callers give for nothing; all of it 0
ENTRIES = {
    "m2f_group_norm": lambda: norm(0, 4, 3, 3) + norm(2, 4, 0, 3),
    "m2f_mask_losses": lambda: compare(0, 6) + compare(2, 0),
    "m2f_pad_pixels": lambda: padded(0),
    "m2f_draw": lambda: [draw_uniform(zeros(0).long(), 4), draw_uniform(zeros(2).long(), 0)],
    "m2f_sample": lambda: [
        sample_shared(zeros(0, 4, 4), zeros(5, 2)),
        sample_shared(zeros(2, 4, 4), zeros(0, 2)),
        sample_shared(zeros(2, 0, 4), zeros(5, 2)),
    ],
    "m2f_sigmoid_sums": lambda: [*sigmoid_sums(zeros(0, 4), None), *sigmoid_sums(zeros(2, 0), None)],
    "m2f_bound_masks, m2f_merge_masks, m2f_measure_masks, m2f_write_masks": lambda: resized(0),
    "m2f_lay_masks": lambda: [1 + lay_masks(zeros(0, 8, 8).bool(), 0.5)[0], *lay_masks(zeros(2, 0, 8).bool(), 0.5)],
    "m2f_vote": lambda: vote_by_class(zeros(0, 5), zeros(0, 4, 4), (16, 16), (16, 16), (9, 9), False),
    "m2f_winograd_split, m2f_winograd_split_gradient, m2f_winograd_join": lambda: winograd(0, 0),
}
BEHIND_OPERATORS = {"m2f_masked_attention", "m2f_forward", "m2f_backward"}
WITHOUT_MEMORY = {"m2f_wide_bias", "m2f_parts"}


def test_every_function_of_the_c_interface_has_a_case():
    sources = "".join(path.read_text(encoding="utf-8") for path in CSRC.glob("*_cpu.cpp"))
    entries = set(re.findall(r"M2F_EXPORT \w+ (m2f_\w+)\(", sources))
    assert entries == {name for names in ENTRIES for name in names.split(", ")} | BEHIND_OPERATORS | WITHOUT_MEMORY


@pytest.mark.parametrize("names", ENTRIES)
def test_a_kernel_takes_nothing(names):
    for result in ENTRIES[names]():
        assert not result.any()


@pytest.fixture(scope="module", params=["resnet", "swin"])
def model(request):
    return small_model(request.param)


@pytest.mark.parametrize("kernels", ["compiled", "reference"])
def test_the_model_takes_no_image(model, kernels, monkeypatch):
    """A shard of a data set, or what is left after a filter, may hold none."""
    monkeypatch.setenv("M2F_KERNELS", kernels)
    pixels, mask = torch.zeros(0, 3, 64, 70), torch.ones(0, 64, 70, dtype=torch.int64)
    with torch.no_grad():
        outputs = model(pixels, pixel_mask=mask, output_auxiliary_logits=True)
    assert outputs.masks_queries_logits.shape == (0, 8, 16, 24) and outputs.class_queries_logits.shape == (0, 8, 6)
    assert all(len(x["masks_queries_logits"]) == 0 for x in outputs.auxiliary_logits)
    processor = M2FImageProcessor()
    assert processor.post_process_semantic_segmentation(outputs) == []
    assert processor.post_process_instance_segmentation(outputs) == []
    assert processor.post_process_panoptic_segmentation(outputs, label_ids_to_fuse=set()) == []


@pytest.mark.parametrize("kernels", ["compiled", "reference"])
def test_a_process_without_images_takes_its_part_in_a_training_step(model, kernels, monkeypatch):
    """The loss is 0, and every parameter has a gradient of 0, for which distributed training waits."""
    monkeypatch.setenv("M2F_KERNELS", kernels)
    model.zero_grad()
    model.train()
    try:
        outputs = model(torch.zeros(0, 3, 64, 64), mask_labels=[], class_labels=[])
    finally:
        model.eval()
    assert outputs.loss == 0 and all(term == 0 for term in outputs.loss_dict.values())
    outputs.loss.backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters() if p.requires_grad)
