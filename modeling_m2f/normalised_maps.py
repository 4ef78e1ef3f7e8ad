"""Normalisation of the pixel decoder's feature maps, with what follows it."""

import torch
from torch import Tensor
from torch.nn.functional import interpolate, relu

from m2f.modeling_m2f.kernels.group_norm import group_norm_, use_group_norm
from m2f.modeling_m2f.kernels.readable_memory import is_readable
from m2f.modeling_m2f.linear import is_plain
from m2f.modeling_m2f.valid_region import MaskedGroupNorm, ValidRegion, replicate_edge, zero_padding


def normalised(
    norm: MaskedGroupNorm,
    features: Tensor,
    valid: ValidRegion | None,
    coarser: Tensor | None = None,
    activation: bool = False,
) -> Tensor:
    """norm(features), plus the coarser map resized to its size, or through ReLU: (B, C, H, W), 0 in the padding.

    Args:
        features: (B, C, H, W) that nobody else needs: it may be overwritten.
        coarser: (B, C, h, w) or None; its padding is not seen.
        activation: ReLU in the end; not with `coarser`.
    """
    if not _is_fast(norm, features, coarser):
        return _plain(norm, features, valid, coarser, activation)
    parts = [None if valid is None or x is None else valid.cells(tuple(x.shape[2:])) for x in (features, coarser)]
    group_norm_(features, norm.num_groups, norm.weight, norm.bias, norm.eps, parts[0], coarser, parts[1], activation)
    return features


def _is_fast(norm: MaskedGroupNorm, features: Tensor, coarser: Tensor | None) -> bool:
    maps = [features] if coarser is None else [features, coarser]
    learns = torch.is_grad_enabled() and any(x.requires_grad for x in (*maps, *norm.parameters()))
    return (
        not learns
        and not torch.compiler.is_compiling()  # which fuses the plain form itself
        and is_plain(norm, MaskedGroupNorm)
        and norm.affine
        and is_readable(*maps)
        and all(type(x) is Tensor and x.is_contiguous(memory_format=torch.channels_last) for x in maps)
        and all(x.dtype == features.dtype for x in maps)
        and use_group_norm(features.device, features.dtype)
    )


def _plain(
    norm: MaskedGroupNorm, features: Tensor, valid: ValidRegion | None, coarser: Tensor | None, activation: bool
) -> Tensor:
    features = norm(features, valid)
    if coarser is not None:
        # In place: the norm's backward pass needs its input and not its result.
        features += interpolate(
            replicate_edge(coarser, valid), size=features.shape[-2:], mode="bilinear", align_corners=False
        )
        features = zero_padding(features, valid)
    return relu(features, inplace=True) if activation else features
