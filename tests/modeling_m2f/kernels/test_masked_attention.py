"""The CPU kernel of masked attention, against the explicit computation in float64."""

import pytest
import torch
from torch import Tensor

from m2f.modeling_m2f.attention import attend
from m2f.modeling_m2f.kernels.masked_attention import MASKED_ATTENTION, masked_attention

pytest_plugins = ("kernel_fixtures",)
pytestmark = pytest.mark.usefixtures("compiled_kernel")
# Results are averages of values of size 1: rounding of the type, and for float32 of sums of up to 4,000 terms.
TOLERANCES = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 2e-2}


def inputs(
    queries: int, cells: int, heads: int, head_dim: int, dtype: torch.dtype, batch: int = 2
) -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    channels = heads * head_dim
    tensors = (torch.randn(batch, length, channels).to(dtype) for length in (queries, cells, cells))
    return *tensors, torch.rand(batch, 1, queries, cells) < 0.5


def expected(query: Tensor, key: Tensor, value: Tensor, keep: Tensor, heads: int) -> Tensor:
    query, key, value = (x.double().unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    scores = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5
    return (scores.masked_fill(~keep, -torch.inf).softmax(-1) @ value).transpose(1, 2).flatten(2)


# Queries and cells that fill blocks, that do not, and that are fewer than a block; more queries than a unit holds.
@pytest.mark.parametrize(("queries", "cells"), [(100, 400), (128, 64), (300, 131), (1, 1), (7, 65), (129, 1000)])
@pytest.mark.parametrize(("heads", "head_dim"), [(8, 32), (2, 16), (3, 5), (1, 70)])
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_it_is_attention(queries, cells, heads, head_dim, dtype):
    query, key, value, keep = inputs(queries, cells, heads, head_dim, dtype)
    keep[..., 0] |= ~keep.any(-1)
    assert MASKED_ATTENTION.runs_on(query.device, dtype, head_dim=head_dim)
    found = masked_attention(query, key, value, keep, heads)
    assert found.dtype == dtype
    difference = (found.double() - expected(query, key, value, keep, heads)).abs().max()
    assert difference < TOLERANCES[dtype]


def test_masks_of_objects():
    """Cells in one stretch, so that most blocks are seen by nobody or by a few; large scores; one cell alone."""
    query, key, value, _ = inputs(40, 1000, 4, 8, torch.float32, batch=1)
    place = torch.arange(1000)
    keep = torch.stack([(place >= 20 * i) & (place < 20 * i + 13 * i + 1) for i in range(40)])[None, None]
    found = masked_attention(query * 50, key, value, keep, 4)
    assert (found.double() - expected(query * 50, key, value, keep, 4)).abs().max() < 1e-4
    assert torch.allclose(found[0, 0], value[0, 0])


def test_what_is_not_seen_has_no_influence():
    query, key, value, keep = inputs(30, 200, 2, 16, torch.float32)
    keep[..., 50:] = False
    keep[..., 0] = True
    found = masked_attention(query, key, value, keep, 2)
    key[:, 64:], value[:, 64:] = torch.nan, torch.nan
    assert torch.equal(masked_attention(query, key, value, keep, 2), found)


def test_threads_and_other_queries_change_nothing():
    query, key, value, keep = inputs(150, 300, 2, 16, torch.float32)
    keep[..., 0] = True
    found = masked_attention(query, key, value, keep, 2)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 6)
        assert torch.equal(masked_attention(query, key, value, keep, 2), found)
    finally:
        torch.set_num_threads(threads)
    part = masked_attention(query[:, 40:51], key, value, keep[:, :, 40:51], 2)
    assert torch.equal(part, found[:, 40:51])


def test_strided_inputs():
    query, key, value, keep = inputs(20, 90, 2, 16, torch.float32)
    keep[..., 0] = True
    found = masked_attention(query, key, value, keep, 2)
    others = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (query, key, value))
    assert torch.equal(masked_attention(*others, keep.transpose(2, 3).contiguous().transpose(2, 3), 2), found)


def test_attend_uses_it_without_gradients(monkeypatch):
    calls = []
    monkeypatch.setattr(
        "m2f.modeling_m2f.attention.masked_attention",
        lambda *arguments: calls.append(1) or masked_attention(*arguments),
    )
    query, key, value, keep = inputs(20, 90, 2, 16, torch.float32)
    keep[..., 0] = True
    found = attend(query, key, value, 2, keep, False)[0]
    assert len(calls) == 1
    with_gradient = attend(query.clone().requires_grad_(), key, value, 2, keep, False)[0]
    torch.testing.assert_close(found, with_gradient.detach(), rtol=0, atol=2e-6)
    with_gradient.sum().backward()
    attend(query, key, value, 2, None, False)
    monkeypatch.setenv("M2F_KERNELS", "reference")
    torch.testing.assert_close(attend(query, key, value, 2, keep, False)[0], found, rtol=0, atol=2e-6)
    assert len(calls) == 1
