"""The pixel decoder's convolutions, the normalisation of their maps, and what follows it."""

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, relu

from m2f.modeling_m2f.convolution import convolve
from m2f.modeling_m2f.kernels.group_norm import group_norm_, use_group_norm
from m2f.modeling_m2f.kernels.readable_memory import is_readable
from m2f.modeling_m2f.linear import is_plain
from m2f.modeling_m2f.plain_modules import is_plain_tensor
from m2f.modeling_m2f.valid_region import MaskedGroupNorm, ValidRegion, replicate_edge, within, zero_padding


class NormalisedConvolution(nn.Sequential):
    """A convolution, a `MaskedGroupNorm`, and perhaps a ReLU, under the names 0, 1 and 2 that checkpoints have."""

    knows_padding = True

    def forward(self, features: Tensor, valid: ValidRegion | None = None) -> Tensor:
        """(B, C_in, H, W) -> (B, C, H, W), 0 in the padding."""
        conv, norm, *after = self
        is_usual = len(after) == 1 and is_plain(after[0], nn.ReLU)
        convolved = convolve(conv, features)
        features = normalised(norm, convolved, valid, activation=is_usual, may_overwrite=_is_ours(conv))
        for module in () if is_usual else after:
            features = module(features)
        return features

    def merge(self, features: Tensor, coarser: Tensor, valid: ValidRegion | None) -> Tensor:
        """`forward`, plus a coarser map (B, C, h, w) resized to its size."""
        conv, norm = self
        return normalised(norm, conv(features), valid, coarser=coarser, may_overwrite=_is_ours(conv))


def merged(lateral: nn.Module, features: Tensor, coarser: Tensor, valid: ValidRegion | None) -> Tensor:
    """`lateral(features)`, plus a coarser map resized to its size: (B, C, H, W), 0 in the padding; in one step where
    nobody waits for what is between the two.

    Args:
        lateral: a `NormalisedConvolution`, or what has been put in its place.
        features: (B, C_in, H, W). coarser: (B, C, h, w); its padding is not seen.
    """
    if is_plain(lateral, NormalisedConvolution) and len(lateral) == 2:
        return lateral.merge(features, coarser, valid)
    features = within(valid, lateral, features)
    return zero_padding(features + _resized(coarser, features, valid), valid)


def _is_ours(conv: nn.Module) -> bool:
    """Whether its result is a new tensor that nobody else has seen."""
    return is_plain(conv, nn.Conv2d)


def normalised(
    norm: MaskedGroupNorm,
    features: Tensor,
    valid: ValidRegion | None,
    coarser: Tensor | None = None,
    activation: bool = False,
    may_overwrite: bool = True,
) -> Tensor:
    """norm(features), plus the coarser map resized to its size, or through ReLU: (B, C, H, W), 0 in the padding.

    Args:
        features: (B, C, H, W).
        coarser: (B, C, h, w) or None; its padding is not seen.
        activation: ReLU in the end; not with `coarser`.
        may_overwrite: whether nobody else needs `features`.
    """
    if not (may_overwrite and _is_fast(norm, features, coarser)):
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
        and is_plain_tensor(norm.weight)
        and is_plain_tensor(norm.bias)
        and all(type(x) is Tensor and x.is_contiguous(memory_format=torch.channels_last) for x in maps)
        and all(x.dtype == features.dtype for x in maps)
        and use_group_norm(features.device, features.dtype)
    )


def _plain(
    norm: MaskedGroupNorm, features: Tensor, valid: ValidRegion | None, coarser: Tensor | None, activation: bool
) -> Tensor:
    # In place below: the norm's backward pass needs its input and not its result. Hooks may have kept that, though.
    in_place = is_plain(norm, MaskedGroupNorm)
    features = within(valid, norm, features)
    if coarser is not None:
        resized = _resized(coarser, features, valid)
        features = zero_padding(features.add_(resized) if in_place else features + resized, valid)
    return relu(features, inplace=in_place) if activation else features


def _resized(coarser: Tensor, features: Tensor, valid: ValidRegion | None) -> Tensor:
    """(B, C, h, w) -> (B, C, H, W), of the size of `features`."""
    size = features.shape[-2:]
    return interpolate(replicate_edge(coarser, valid), size=size, mode="bilinear", align_corners=False)
