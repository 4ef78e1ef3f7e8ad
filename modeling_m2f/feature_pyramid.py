"""The simple feature pyramid: maps of strides 4, 8, 16 and 32 from a plain Vision Transformer, whose maps have one.

Li et al., "Exploring Plain Vision Transformer Backbones for Object Detection", ECCV 2022, section 3; channels, norms
and their order are those of its code (detectron2, `SimpleFeaturePyramid`).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d

from m2f.modeling_m2f.convolution import Conv3x3
from m2f.modeling_m2f.recompute import recomputed_if_asked
from m2f.modeling_m2f.valid_region import ValidRegion, zero_padding

_EPSILON = 1e-6  # of the norms, as in ViTDet's code


class FeaturePyramid(nn.Module):
    """Every level is the map of its stage, resized by deconvolutions or max pooling, then a 1x1 and a 3x3 convolution,
    each with LayerNorm.

    Departures from the paper: the levels may come from four stages instead of from the last alone, as BEiT's do; and
    the padding stays out of the pooling and the 3x3 convolutions, so that an image gives the same in every batch.

    Args:
        in_channels: of the maps, one or four.
        channels: C, of the levels.
        patch_size: of the Vision Transformer; its stride is taken for the nearest power of two, see `resized`.
        strides: of the levels.

    Raises:
        ValueError: there are not one or four maps, or a stride or a patch is far from what the others can be made of.
    """

    def __init__(self, in_channels: list[int], channels: int, patch_size: int, strides: list[int]):
        super().__init__()
        if len(in_channels) not in (1, len(strides)):
            raise ValueError(
                f"backbone_config.out_features names {len(in_channels)} stages; a plain Vision Transformer gives one, "
                f"of which all levels are made, or {len(strides)}, one for each."
            )
        self.patch_size = patch_size
        self.stride = 2 ** round(math.log2(patch_size))
        if any(stride & (stride - 1) for stride in strides) or not strides[0] <= self.stride <= strides[-1]:
            raise ValueError(
                f"feature_strides={list(strides)} cannot be had of patches of {patch_size} pixels; they must be "
                f"powers of two, from at most {self.stride} to at least {self.stride}."
            )
        sources = list(in_channels) * (len(strides) // len(in_channels))
        self.levels = nn.ModuleList(
            PyramidLevel(source, channels, self.stride, stride)
            for source, stride in zip(sources, strides, strict=True)
        )

    def resized(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, H, W) as the Vision Transformer gets it: one patch for each cell of `stride` x `stride` pixels.

        Patches of 16 pixels are such cells. For patches of 14 the canvas is resized, bilinearly, to 14 / 16 of its
        size, so that the levels' strides are exact; position embeddings are then interpolated by the backbone itself
        to the number of patches. Padding to a multiple of 14 would put cells where no level has any.
        """
        size = [math.ceil(length / self.stride) * self.patch_size for length in pixel_values.shape[-2:]]
        if size == list(pixel_values.shape[-2:]):
            return pixel_values
        return interpolate(pixel_values, size=size, mode="bilinear", align_corners=False)

    def forward(self, feature_maps: tuple[Tensor, ...], valid: ValidRegion | None = None) -> tuple[Tensor, ...]:
        """Make the levels.

        Args:
            feature_maps: one or four of (B, C_l, h, w), of the stride of the patches.
            valid: where the images are; no valid output depends on what stands outside.

        Returns:
            As many as there are strides, (B, C, H / stride, W / stride) each.
        """
        maps = feature_maps * (len(self.levels) // len(feature_maps))
        return tuple(level(features, valid) for level, features in zip(self.levels, maps, strict=True))


class PyramidLevel(nn.Module):
    """A map of one stride to one of another.

    Args:
        in_channels, channels: before and after.
        from_stride, to_stride: powers of two.
    """

    def __init__(self, in_channels: int, channels: int, from_stride: int, to_stride: int):
        super().__init__()
        self.recomputes_all = False  # see `recompute_decoders`
        self.pool = max(to_stride // from_stride, 1)
        doublings = int(math.log2(max(from_stride // to_stride, 1)))
        self.upsampling = _deconvolutions(in_channels, doublings)
        self.projection = nn.Conv2d(in_channels // 2**doublings, channels, 1, bias=False)
        self.projection_norm = ChannelNorm(channels, _EPSILON)
        self.output = Conv3x3(channels, channels, 3, padding=1, bias=False)
        self.output_norm = ChannelNorm(channels, _EPSILON)

    def forward(self, features: Tensor, valid: ValidRegion | None) -> Tensor:
        """(B, C_l, h, w) -> (B, C, H_l, W_l)."""

        def convolved(features: Tensor) -> Tensor:
            features = self.upsampling(_pooled(features, self.pool, valid))
            features = self.projection_norm(self.projection(features))
            return self.output(zero_padding(features, valid))

        features = recomputed_if_asked(self, convolved, features)
        return self.output_norm(features)


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of each cell."""

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, h, w) -> the same shape."""
        return super().forward(features.movedim(1, -1)).movedim(-1, 1)


def _deconvolutions(channels: int, doublings: int) -> nn.Sequential:
    """Each doubles height and width and halves the channels; between two of them norm and GELU."""
    layers: list[nn.Module] = []
    for i in range(doublings):
        if i:
            layers += [ChannelNorm(channels, _EPSILON), nn.GELU()]
        layers.append(nn.ConvTranspose2d(channels, channels // 2, kernel_size=2, stride=2))
        channels //= 2
    return nn.Sequential(*layers)


def _pooled(features: Tensor, size: int, valid: ValidRegion | None) -> Tensor:
    """The largest of size x size cells, among the valid ones of them; 0 where none is."""
    if size == 1:
        return features
    if valid is not None:
        features = features.masked_fill(~valid.mask(features.shape[-2:])[:, None], -torch.inf)
    return zero_padding(max_pool2d(features, size, ceil_mode=True), valid)
