"""The CPU kernel of post-processing against its definition in plain PyTorch."""

import itertools
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mask_logits import SIZES, masks_of

from m2f.image_processing.instance_masks import Instances, visible_instances
from m2f.image_processing.plain_masks import MaskGeometry, PlainMasks
from m2f.image_processing.post_processing import CHUNK_BYTES, masks_at_target, semantic_map, semantic_scores
from m2f.modeling_m2f.kernels.c_arguments import _loaded_gomp_parallel
from m2f.modeling_m2f.kernels.resized_masks import TILE, ResizedMasks, axis_table, lay_masks, lowest_logit

pytest_plugins = ("kernel_fixtures",)
pytestmark = pytest.mark.usefixtures("compiled_kernel")


def both(kind: str, size: tuple[int, int], geometry, count: int = 13):
    masks = masks_of(kind, count, size)
    chosen = torch.arange(0, count, 2)
    return (
        ResizedMasks(masks, chosen, *geometry),
        PlainMasks(masks, chosen, MaskGeometry(*geometry), CHUNK_BYTES),
        torch.linspace(0.4, 0.9, len(chosen))[torch.randperm(len(chosen))],
    )


KINDS = ("discs", "noise", "ties")


@pytest.mark.parametrize(("size", "geometry"), SIZES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mask_threshold", [0.0, 0.3, 0.5, 1.0])
def test_merge_equals_plain_pytorch(kind, size, geometry, mask_threshold):
    compiled, plain, scores = both(kind, size, geometry)
    codes, counts = compiled.merge(scores, mask_threshold)
    expected_codes, expected_counts = plain.merge(scores, mask_threshold)
    assert codes.dtype == expected_codes.dtype and counts.dtype == expected_counts.dtype
    # They round differently: a pixel in 10,000 may lie that near to a threshold or to another mask.
    allowed = 1 + geometry[2][0] * geometry[2][1] // 10_000 if kind == "noise" else 0
    assert (codes != expected_codes).sum() <= allowed
    assert (counts - expected_counts).abs().max() <= allowed


def test_of_equal_masks_the_first_wins():
    masks = masks_of("discs", 1, (24, 40)).repeat(5, 1, 1)
    codes, counts = ResizedMasks(masks, torch.arange(5), *SIZES[1][1]).merge(torch.full((5,), 0.9), 0.5)
    assert codes.unique().tolist() == [0, 1] and counts[0].tolist() == [54 * 80, 0, 0, 0, 0]


@pytest.mark.parametrize(("size", "geometry"), SIZES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("threshold", [-math.inf, -1.0, 0.0, 5.0, math.inf])
def test_measures_and_masks_equal_plain_pytorch(kind, size, geometry, threshold):
    compiled, plain, scores = both(kind, size, geometry)
    areas, sums = compiled.measure(threshold)
    expected_areas, expected_sums = plain.measure(threshold)
    allowed = 1 if kind == "noise" else 0
    assert (areas - expected_areas).abs().max() <= allowed
    torch.testing.assert_close(sums, expected_sums.double(), rtol=1e-5, atol=allowed + 1e-6)
    which = torch.tensor([4, 0, 0, 6])
    masks, expected = compiled.binary(which, threshold), plain.binary(which, threshold)
    assert masks.dtype == torch.bool and (masks != expected).sum() <= 2 * allowed
    assert torch.equal(masks.sum((1, 2)), areas[which])


def test_scores_are_as_exact_as_float64():
    """The mean probability of a mask, from which its score is made, against the same logits summed in float64."""
    compiled, plain, _ = both("discs", *SIZES[2])
    areas, sums = compiled.measure(0.0)
    logits = torch.cat([logits for _, logits in plain._chunks(plain._chosen)]).double()
    expected = (logits.sigmoid() * (logits > 0)).sum((1, 2)) / areas
    torch.testing.assert_close(sums / areas, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("edges", [(24, 96, 90, 54), (40, 160, 133, 297), (7, 28, 25, 3), (1, 4, 3, 9), (9, 9, 9, 9)])
def test_tables_are_two_interpolations(edges):
    source, padded, valid, target = edges
    row = torch.randn(1, 1, source, 1)
    between = F.interpolate(row, (padded, 1), mode="bilinear")[:, :, :valid]
    expected = F.interpolate(between, (target, 1), mode="bilinear").flatten()
    table = axis_table(*edges)
    found = (table.weights * row.flatten()[table.cells.long()]).sum(0)
    assert table.target == target
    torch.testing.assert_close(found[:target], expected, rtol=0, atol=2e-6)
    assert torch.equal(found[target:], found[target - 1].expand(TILE))
    assert table.cells.min() >= 0 and table.cells.max() < source and (table.cells.diff(dim=1) >= 0).all()


ROOT = Path(__file__).resolve().parents[3]
LARGEST_ERROR = """
import torch
import torch.nn.functional as F
from m2f.modeling_m2f.kernels.resized_masks import axis_table
table = axis_table(287, 1148, 1131, 2465)
rows = torch.randn(64, 287, generator=torch.Generator().manual_seed(0))
between = F.interpolate(rows[None, :, :, None], (1148, 1), mode="bilinear")[:, :, :1131]
expected = F.interpolate(between, (2465, 1), mode="bilinear")[0, :, :, 0]
found = (table.weights * rows[:, table.cells.long()]).sum(1)[:, :2465]
print(torch.backends.cpu.get_cpu_capability(), float((found - expected).abs().max()))
"""


def test_tables_are_two_interpolations_on_a_processor_without_avx2():
    """torch 2.13 rounds a position once with AVX2 and twice without, torch 2.15 always twice. The variable makes torch
    take the kernels that it has for other processors. Rounded the other way, the error here was 6e-5."""
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": "default", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", LARGEST_ERROR]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) < 2e-6, done.stdout


@pytest.mark.parametrize("probability", [1e-6, 0.3, 0.5, 0.9, 1.0])
def test_the_lowest_logit_is_where_the_sigmoid_arrives(probability):
    logit = np.float32(lowest_logit(probability))
    below = np.nextafter(logit, np.float32(-np.inf))
    assert torch.tensor(logit).sigmoid() >= probability > torch.tensor(below).sigmoid()
    assert lowest_logit(0.0) == -math.inf


@pytest.mark.parametrize("share", [0.0, 0.5, 0.8, 1.0])
def test_layers_equal_plain_pytorch(share, monkeypatch):
    masks = masks_of("discs", 40, (150, 130)) > 0
    masks[3] = False
    instances = Instances(torch.rand(40), torch.arange(40), masks)
    owner, kept = lay_masks(masks, share)
    monkeypatch.setenv("M2F_KERNELS", "reference")
    expected, left = visible_instances(instances, share)
    assert torch.equal(owner, expected) and kept.nonzero().flatten().tolist() == left.labels.tolist()
    assert owner.dtype == expected.dtype and not kept[3] and 1 < len(left.labels) < 40


def everything(masks: torch.Tensor, geometry) -> list[torch.Tensor]:
    chosen, scores = torch.arange(len(masks)), torch.linspace(0.5, 1, len(masks))
    compiled = ResizedMasks(masks, chosen, *geometry)
    labels = semantic_map(torch.eye(len(masks)), masks, MaskGeometry(*geometry), True)
    binary = compiled.binary(chosen, 0.0)
    return [*compiled.merge(scores, 0.5), *compiled.measure(0.0), binary, *labels, *lay_masks(binary, 0.5)]


def test_results_do_not_depend_on_threads(monkeypatch):
    masks = masks_of("noise", 30, (60, 80))
    geometry = ((240, 320), (230, 310), (300, 400))
    before, results = torch.get_num_threads(), []
    try:
        for threads, address in itertools.product((1, 2, 5), (_loaded_gomp_parallel(), None)):
            torch.set_num_threads(threads)
            monkeypatch.setattr(
                "m2f.modeling_m2f.kernels.c_arguments._loaded_gomp_parallel", lambda address=address: address
            )
            results.append(everything(masks, geometry))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_are_left_to_plain_pytorch(value):
    masks = masks_of("discs", 5, (24, 40))
    geometry, chosen = MaskGeometry(*SIZES[1][1]), torch.arange(5)
    assert isinstance(masks_at_target(masks, chosen, geometry), ResizedMasks)
    masks[3, 5, 7] = value
    assert isinstance(masks_at_target(masks, chosen, geometry), PlainMasks)
    assert isinstance(masks_at_target(masks, chosen[:3], geometry), ResizedMasks)
    scores = semantic_scores(torch.eye(5), masks, geometry, False)
    assert torch.equal(semantic_map(torch.eye(5), masks, geometry, False).labels, scores.argmax(0))


def test_logits_that_are_to_shrink_are_left_to_plain_pytorch():
    geometry = MaskGeometry((12, 90), (12, 90), (12, 90))
    assert isinstance(masks_at_target(masks_of("discs", 5, (24, 40)), torch.arange(5), geometry), PlainMasks)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_any_dtype_and_layout_is_read(dtype):
    masks = masks_of("discs", 5, (40, 24)).to(dtype)
    geometry, chosen = SIZES[1][1], torch.arange(5)
    found = ResizedMasks(masks.transpose(1, 2).requires_grad_(), chosen, *geometry).measure(0.0)
    expected = ResizedMasks(masks.float().transpose(1, 2).contiguous(), chosen, *geometry).measure(0.0)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
