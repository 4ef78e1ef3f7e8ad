"""Where a kernel from the Hugging Face Hub takes the place of deformable attention's own."""

import torch
from torch import Tensor, nn
from transformers.integrations import use_kernel_forward_from_hub

from m2f.modeling_m2f.kernels.ms_deform_attn import ms_deform_attn
from m2f.modeling_m2f.kernels.ms_deform_attn_reference import locations_and_weights, sum_at_locations
from m2f.modeling_m2f.plain_modules import has_hooks

IMAGES_AT_ONCE = (64, 32, 16, 8, 4, 2, 1)  # 64 is what transformers' models ask of these kernels


@use_kernel_forward_from_hub("MultiScaleDeformableAttention")
class ReplaceableSampling(nn.Module):
    """Deformable attention between the linear layers; it has no parameters.

    `attend` runs the project's own op, from raw offsets and logits. Hub kernels (kernels-community/deformable-detr)
    start from locations and weights, whose making is a good part of the time, so that `forward` has their form but is
    called only where `use_kernels=True`, in transformers' `from_pretrained`, has put a Hub kernel in its place, or
    where hooks wait for a call, which get what they get in transformers.
    """

    def forward(
        self,
        value: Tensor,
        value_spatial_shapes: Tensor,
        value_spatial_shapes_list: list[tuple[int, int]],
        level_start_index: Tensor,
        sampling_locations: Tensor,
        attention_weights: Tensor,
        im2col_step: int,
    ) -> Tensor:
        """Hub kernels' signature, which they are checked against; some parameters are theirs alone.

        Args:
            value: (B, S, M, D).
            value_spatial_shapes: (L, 2), (H_l, W_l) of each level; not read here.
            value_spatial_shapes_list: the same numbers.
            level_start_index: (L,), the first cell of each level; not read here.
            sampling_locations: (B, Q, M, L, P, 2) as (x, y), [0, 1] being the map.
            attention_weights: (B, Q, M, L, P).
            im2col_step: how many images are worked on at once, a divisor of B; not read here.

        Returns:
            (B, Q, M * D).
        """
        return sum_at_locations(value, value_spatial_shapes_list, sampling_locations, attention_weights)

    def attend(
        self,
        value: Tensor,
        spatial_shapes: list[tuple[int, int]],
        reference_points: Tensor,
        sampling_offsets: Tensor,
        attention_logits: Tensor,
    ) -> Tensor:
        """(B, Q, M * D) in the dtype of `value`; arguments as in `ms_deform_attn`."""
        inputs = (reference_points, sampling_offsets, attention_logits)
        if not (self._is_replaced() or has_hooks(self)):
            return ms_deform_attn(value, spatial_shapes, *inputs)
        # Of one dtype, as Hub kernels want it, and not of 16 bits, which would put locations off by whole cells.
        dtype = torch.promote_types(value.dtype, torch.float32)
        locations, weights = locations_and_weights(spatial_shapes, *(x.to(dtype) for x in inputs))
        sizes = torch.tensor(spatial_shapes, device=value.device)
        areas = sizes.prod(1)
        # The largest that divides the batch; no gcd, of which a compiler that has a symbol for the batch has none.
        images_at_once = next(count for count in IMAGES_AT_ONCE if value.shape[0] % count == 0)
        first_cells = areas.cumsum(0) - areas
        out = self(value.to(dtype), sizes, spatial_shapes, first_cells, locations, weights, images_at_once)
        return out.to(value.dtype)

    def _is_replaced(self) -> bool:
        """Whether `forward` is another one than this class's; accelerate's hooks wrap it without replacing it."""
        method = getattr(self.forward, "__wrapped__", self.forward) if hasattr(self, "_hf_hook") else self.forward
        return getattr(method, "__func__", method) is not ReplaceableSampling.forward
