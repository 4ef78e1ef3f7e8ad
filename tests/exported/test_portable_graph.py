"""Operators in their portable form give what they give otherwise."""

import shutil

import pytest
import torch
from compiler_there import needs_compiler
from small_models import small_model

from m2f.modeling_m2f.attention import attend
from m2f.modeling_m2f.kernels.kernel_policy import kernels_choice
from m2f.modeling_m2f.kernels.ms_deform_attn import ms_deform_attn
from m2f.modeling_m2f.kernels.portable_graph import is_portable, portable_graph
from m2f.modeling_m2f.kernels.window_attention import window_attention_reference


@pytest.mark.parametrize("batch", [1, 3])
def test_rows_are_gathered_as_grid_sample_reads_them(batch):
    torch.manual_seed(0)
    shapes, heads, points, queries = [(5, 7), (3, 2), (1, 1)], 2, 3, 11
    cells = sum(h * w for h, w in shapes)
    value = torch.randn(batch, cells, heads, 4, dtype=torch.float64)
    # Within, across the border, far outside, and exactly on cells and borders.
    reference = torch.rand(1, queries, len(shapes), 2, dtype=torch.float64) * 1.4 - 0.2
    reference[:, 0], reference[:, 1], reference[:, 2] = 0, 1, 0.5
    offsets = torch.randn(batch, queries, heads, len(shapes), points, 2, dtype=torch.float64)
    offsets[:, :4] = torch.randint(-3, 4, offsets[:, :4].shape).double() / 2
    offsets[:, 4] *= 1e4
    logits = torch.randn(batch, queries, heads, len(shapes) * points, dtype=torch.float64)
    wanted = ms_deform_attn(value, shapes, reference, offsets, logits)
    with portable_graph():
        found = ms_deform_attn(value, shapes, reference, offsets, logits)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("height", "width"), [(4, 4), (5, 9), (8, 3), (1, 13)])
@pytest.mark.parametrize("shift", [0, 2])
def test_windows_are_gathered_as_they_are_scattered(height, width, shift):
    torch.manual_seed(0)
    qkv, padding = torch.randn(2, height * width, 3, 2, 3, dtype=torch.float64), torch.randn(3, 2, 3).double()
    arguments = (qkv, padding, torch.randn(2, 16, 16, dtype=torch.float64), height, width, shift)
    wanted = window_attention_reference(*arguments)
    with portable_graph():
        torch.testing.assert_close(window_attention_reference(*arguments), wanted)


def test_attention_adds_its_mask():
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, n, 8, dtype=torch.float64) for n in (3, 5, 5))
    keep = torch.rand(2, 1, 3, 5) < 0.5
    keep[..., 0] = True
    wanted, _ = attend(query, key, value, 2, keep, False)
    with portable_graph():
        found, weights = attend(query, key, value, 2, keep, False)
    assert weights is None
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("backbone", ["swin", "resnet", "convnext"])
def test_a_model_gives_the_same_in_portable_form(backbone):
    model = small_model(backbone)
    torch.manual_seed(1)
    pixel_values = torch.randn(2, 3, 96, 64)
    mask = torch.ones(2, 96, 64)
    mask[1, 70:], mask[1, :, 60:] = 0, 0
    with torch.no_grad():
        wanted = model(pixel_values=pixel_values, pixel_mask=mask)
        with portable_graph():
            assert is_portable() and kernels_choice() == "reference"
            found = model(pixel_values=pixel_values, pixel_mask=mask)
    assert not is_portable()
    for name in ("class_queries_logits", "masks_queries_logits"):
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
@needs_compiler
def test_inductor_compiles_windows_that_reach_over_the_border():
    """It needs to know of an index that it is not negative."""
    torch.manual_seed(0)
    qkv, padding = torch.randn(1, 45, 3, 2, 4), torch.randn(3, 2, 4)
    arguments = (qkv, padding, torch.randn(2, 16, 16), 5, 9, 2)
    with torch.no_grad(), portable_graph():
        found = torch.compile(lambda *given: window_attention_reference(*given).relu())(*arguments)
        torch.testing.assert_close(found, window_attention_reference(*arguments).relu())
