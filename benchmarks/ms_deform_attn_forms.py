"""Implementations of deformable attention, each from what the linear layers give: value (B, S, M, D), shapes,
reference points (1, Q, L, 2) float32, raw offsets (B, Q, M, L, P, 2) and raw logits (B, Q, M, L * P) -> (B, Q, M * D).

Whatever a library leaves to its user (locations, softmax, conversions) is part of its time.
"""

import contextlib
import functools
import importlib.metadata
import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor
from transformers.models.mask2former.modeling_mask2former import multi_scale_deformable_attention

from m2f.modeling_m2f.kernels.ms_deform_attn import ms_deform_attn
from m2f.modeling_m2f.pixel_decoder import reference_points

Shapes = list[tuple[int, int]]
HEADS, HEAD_DIM, POINTS = 8, 32, 4
OURS = "ours"
# The distribution that each needs; the others need none.
OTHERS = {"deformops": "deformops", "torch-ms-deform-attn": "torch-ms-deform-attn"}


def make_inputs(size: tuple[int, int], batch: int, dtype: torch.dtype, device: str) -> tuple:
    """Those of the pixel decoder's encoder for images of `size`: levels of stride 32, 16 and 8, a query per cell."""
    shapes = [(size[0] // stride, size[1] // stride) for stride in (32, 16, 8)]
    cells = sum(height * width for height, width in shapes)
    torch.manual_seed(0)
    value = torch.randn(batch, cells, HEADS, HEAD_DIM)
    offsets = 2 * torch.randn(batch, cells, HEADS, len(shapes), POINTS, 2)
    logits = torch.randn(batch, cells, HEADS, len(shapes) * POINTS)
    value, offsets, logits = (x.to(device, dtype).requires_grad_() for x in (value, offsets, logits))
    return value, shapes, reference_points(shapes, value.device), offsets, logits


def run(form: Callable, inputs: tuple, backward: bool):
    if not backward:
        with torch.no_grad():
            return form(*inputs)
    out = form(*inputs)
    return torch.autograd.grad(out, (inputs[0], inputs[3], inputs[4]), torch.ones_like(out))


def installed_forms() -> dict[str, Callable]:
    """Name -> function, ours first."""
    forms = {OURS: ms_deform_attn, "transformers": as_transformers}
    if importlib.util.find_spec("deformops"):
        forms["deformops"] = as_deformops
    if importlib.util.find_spec("torch_ms_deform_attn"):
        forms["torch-ms-deform-attn"] = as_torch_ms_deform_attn
    return forms


def versions(forms: dict[str, Callable]) -> dict[str, str]:
    return {name: importlib.metadata.version(OTHERS[name]) for name in forms if name in OTHERS}


def as_transformers(value: Tensor, shapes: Shapes, reference: Tensor, offsets: Tensor, logits: Tensor) -> Tensor:
    """What Mask2Former's attention layer does between the linear layers, half types under autocast."""
    # It makes this tensor in every call.
    normalizer = torch.tensor([[width, height] for height, width in shapes], device=value.device)
    with _autocast(value):
        locations, weights = _locations(reference, offsets, normalizer), _weights(logits, offsets)
        return multi_scale_deformable_attention(value, shapes, locations, weights).to(value.dtype)


def as_deformops(value: Tensor, shapes: Shapes, reference: Tensor, offsets: Tensor, logits: Tensor) -> Tensor:
    """Its own choice of backend, its softmax inside the kernel, and locations in float32."""
    from deformops.registry import msda

    sizes, first_cells = _levels(tuple(shapes), value.device)
    locations = _locations(reference, offsets, sizes.flip(1))
    return msda(value, sizes, first_cells, locations, logits, method="softmax")


def as_torch_ms_deform_attn(
    value: Tensor, shapes: Shapes, reference: Tensor, offsets: Tensor, logits: Tensor
) -> Tensor:
    """Half types under autocast, where it takes float32 locations."""
    from torch_ms_deform_attn import ms_deform_attn as theirs

    sizes, first_cells = _levels(tuple(shapes), value.device)
    locations, weights = _locations(reference, offsets, sizes.flip(1)), _weights(logits, offsets)
    with _autocast(value):
        return theirs(value, sizes, first_cells, locations, weights).to(value.dtype)


def _autocast(value: Tensor):
    if value.dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(value.device.type, value.dtype)


def _locations(reference: Tensor, offsets: Tensor, normalizer: Tensor) -> Tensor:
    return reference[:, :, None, :, None, :] + offsets / normalizer[None, None, None, :, None, :]


def _weights(logits: Tensor, offsets: Tensor) -> Tensor:
    return logits.softmax(-1).unflatten(-1, offsets.shape[3:5])


@functools.cache
def _levels(shapes: tuple[tuple[int, int], ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Sizes and first cells, which a model can prepare once."""
    sizes = torch.tensor(shapes, device=device)
    areas = sizes.prod(1)
    return sizes, areas.cumsum(0) - areas
