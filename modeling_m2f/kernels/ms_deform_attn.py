"""The one entry to multi-scale deformable attention.

Kernels for CPU and CUDA are chosen here once they exist; until then every device runs the plain PyTorch form.
"""

from torch import Tensor

from m2f.modeling_m2f.kernels.ms_deform_attn_reference import ms_deform_attn_reference


def ms_deform_attn(
    value: Tensor,
    spatial_shapes: list[tuple[int, int]],
    reference_points: Tensor,
    sampling_offsets: Tensor,
    attention_logits: Tensor,
) -> Tensor:
    """Multi-scale deformable attention; formula and shapes in `ms_deform_attn_reference`.

    Raises:
        ValueError: the areas of `spatial_shapes` do not add up to the cells of `value`.
    """
    cells = sum(height * width for height, width in spatial_shapes)
    if cells != value.shape[1]:
        raise ValueError(f"spatial_shapes={spatial_shapes} hold {cells} cells, but value has {value.shape[1]}.")
    return ms_deform_attn_reference(value, spatial_shapes, reference_points, sampling_offsets, attention_logits)
