"""The pixel decoder's convolutions and the normalisation of their maps, which know of padding."""

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, relu

from m2f.modeling_m2f.convolution import Conv3x3
from m2f.modeling_m2f.kernels.group_norm import GROUP_NORM, group_norm_
from m2f.modeling_m2f.kernels.readable_memory import is_readable
from m2f.modeling_m2f.plain_modules import is_plain, is_plain_tensor
from m2f.modeling_m2f.valid_region import ValidRegion, replicate_edge, within, zero_padding


class MaskedGroupNorm(nn.GroupNorm):
    """GroupNorm whose statistics come from the valid region alone, and what follows it in a feature pyramid.

    On a CPU one kernel does it all in place, where nothing has to be kept for gradients: each step of the plain form
    is a pass over the largest maps of the model, with padding many.
    """

    knows_padding = True

    def forward(
        self,
        features: Tensor,
        valid: ValidRegion | None = None,
        coarser: Tensor | None = None,
        activation: bool = False,
        overwrites: bool = False,
    ) -> Tensor:
        """(B, C, H_l, W_l) -> the same shape, 0 in the padding.

        Args:
            coarser: (B, C, h, w), added after it is resized; its padding is not seen.
            activation: ReLU in the end; not with `coarser`.
            overwrites: whether the result may take the place of `features`, which nobody else needs.
        """
        if overwrites and self._has_kernel(features, coarser):
            seen, coarser_seen = (
                None if valid is None or x is None else valid.cells(tuple(x.shape[2:])) for x in (features, coarser)
            )
            learned = self.weight, self.bias
            group_norm_(features, self.num_groups, *learned, self.eps, seen, coarser, coarser_seen, activation)
            return features
        features = self._normalise(features, valid)
        # In place: its backward pass needs the norm's input and not its result.
        if coarser is not None:
            features = plus_coarser(features, coarser, valid, in_place=True)
        return relu(features, inplace=True) if activation else features

    def _normalise(self, features: Tensor, valid: ValidRegion | None) -> Tensor:
        if valid is None:
            return super().forward(features)
        mask = valid.mask(features.shape[-2:])[:, None, None]  # (B, 1, 1, H_l, W_l)
        groups = features.float().unflatten(1, (self.num_groups, -1)).masked_fill(~mask, 0)
        count = mask.sum((-2, -1), keepdim=True) * groups.shape[2]
        mean = groups.sum((2, 3, 4), keepdim=True) / count
        centred = (groups - mean).masked_fill(~mask, 0)
        variance = centred.square().sum((2, 3, 4), keepdim=True) / count
        normalised = (centred * (variance + self.eps).rsqrt()).flatten(1, 2)
        scaled = normalised * self.weight[:, None, None].float() + self.bias[:, None, None].float()
        return zero_padding(scaled, valid).to(features.dtype)

    def _has_kernel(self, features: Tensor, coarser: Tensor | None) -> bool:
        maps = [features] if coarser is None else [features, coarser]
        learns = torch.is_grad_enabled() and any(x.requires_grad for x in (*maps, *self.parameters()))
        return (
            not learns
            and not torch.compiler.is_compiling()  # which fuses the plain form itself
            and self.affine
            and is_readable(*maps)
            and is_plain_tensor(self.weight)
            and is_plain_tensor(self.bias)
            and all(type(x) is Tensor and x.is_contiguous(memory_format=torch.channels_last) for x in maps)
            and all(x.dtype == features.dtype for x in maps)
            and GROUP_NORM.runs_on(features.device, features.dtype)
        )


class NormalisedConvolution(nn.Sequential):
    """A convolution, a `MaskedGroupNorm`, and perhaps a ReLU, under the names 0, 1 and 2 that checkpoints have."""

    knows_padding = True

    def forward(self, features: Tensor, valid: ValidRegion | None = None, coarser: Tensor | None = None) -> Tensor:
        """(B, C_in, H, W) -> (B, C, H, W), 0 in the padding.

        Args:
            coarser: (B, C, h, w), added to the normalised map after it is resized; its padding is not seen.
        """
        conv = self[0]
        # What they make is a new tensor that nobody else has seen.
        is_new = is_plain(conv, nn.Conv2d) or is_plain(conv, Conv3x3)
        return self.normalised(conv(features), valid, coarser, overwrites=is_new)

    def normalised(
        self, features: Tensor, valid: ValidRegion | None, coarser: Tensor | None = None, overwrites: bool = False
    ) -> Tensor:
        """`forward` without the convolution, of what that made; overwrites: as in `MaskedGroupNorm.forward`."""
        _, norm, *after = self
        if is_plain(norm, MaskedGroupNorm):
            is_usual = len(after) == 1 and is_plain(after[0], nn.ReLU)
            features = norm(features, valid, coarser, is_usual, overwrites)
            after = [] if is_usual else after
        else:  # replaced, or watched by a hook, which must see what the norm alone makes
            features = within(valid, norm, features)
            if coarser is not None:
                features = plus_coarser(features, coarser, valid)
        for module in after:
            features = module(features)
        return features


def merged(lateral: nn.Module, features: Tensor, coarser: Tensor, valid: ValidRegion | None) -> Tensor:
    """`lateral(features)`, plus a coarser map resized to its size: (B, C, H, W), 0 in the padding; in one step where
    nobody waits for what is between the two.

    Args:
        lateral: a `NormalisedConvolution`, or what has been put in its place.
        features: (B, C_in, H, W). coarser: (B, C, h, w); its padding is not seen.
    """
    if is_plain(lateral, NormalisedConvolution):
        return lateral(features, valid, coarser)
    return plus_coarser(within(valid, lateral, features), coarser, valid)


def plus_coarser(features: Tensor, coarser: Tensor, valid: ValidRegion | None, in_place: bool = False) -> Tensor:
    """A map (B, C, H, W) plus a coarser one (B, C, h, w) resized to its size, 0 in the padding."""
    size = features.shape[-2:]
    resized = interpolate(replicate_edge(coarser, valid), size=size, mode="bilinear", align_corners=False)
    return zero_padding(features.add_(resized) if in_place else features + resized, valid)
