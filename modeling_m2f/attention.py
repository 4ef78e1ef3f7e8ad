"""Dense attention of the Transformer decoder, through `scaled_dot_product_attention` or a kernel for masks."""

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import initialization as init

from m2f.modeling_m2f.kernels.masked_attention import MASKED_ATTENTION, masked_attention
from m2f.modeling_m2f.kernels.portable_graph import is_portable
from m2f.modeling_m2f.kernels.readable_memory import is_transformed
from m2f.modeling_m2f.linear import linear
from m2f.modeling_m2f.plain_modules import is_plain_tensor
from m2f.modeling_m2f.weight_init import xavier_


def attend(
    query: Tensor, key: Tensor, value: Tensor, num_heads: int, keep: Tensor | None, return_weights: bool
) -> tuple[Tensor, Tensor | None]:
    """softmax(query key^T / sqrt(D)) value, per head.

    Args:
        query: (B, Q, C). key, value: (B, S_l, C).
        keep: (B, 1, Q, S_l) bool, True where a query may look; no row may be wholly False.
        return_weights: compute the weights explicitly, at the cost of a (B, M, Q, S_l) tensor.

    Returns:
        (B, Q, C), and the weights (B, M, Q, S_l) or None.
    """
    if keep is not None and not return_weights and _has_kernel(query, key, value, num_heads):
        return masked_attention(query, key, value, keep, num_heads), None
    query, key, value = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (query, key, value))
    weights = None
    if return_weights or is_portable():
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
        if keep is not None:
            scores = scores + scores.new_zeros(()).masked_fill(~keep, -torch.inf)
        shares = scores.float().softmax(-1).to(query.dtype)
        attended, weights = shares @ value, shares if return_weights else None
    else:
        attended = scaled_dot_product_attention(query, key, value, attn_mask=keep)
    return attended.transpose(1, 2).flatten(2), weights


def _has_kernel(query: Tensor, key: Tensor, value: Tensor, num_heads: int) -> bool:
    tensors = (query, key, value)
    return (
        not is_transformed()  # first, because a tracer follows what is asked of sizes
        and not (torch.is_grad_enabled() and any(x.requires_grad for x in tensors))
        and query.dtype == key.dtype == value.dtype
        and MASKED_ATTENTION.runs_on(query.device, query.dtype, head_dim=query.shape[-1] // num_heads)
    )


class SelfAttention(nn.Module):
    """Self-attention among the queries; positions are added to query and key, not to the value."""

    def __init__(self, channels: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = nn.Linear(channels, channels)
        self.k_proj = nn.Linear(channels, channels)
        self.v_proj = nn.Linear(channels, channels)
        self.out_proj = nn.Linear(channels, channels)

    def init_original_weights(self, gain: float = 1.0):
        # The original packs the three projections into one (3C, C) matrix, whose Xavier bound is sqrt(2) smaller.
        for layer in (self.q_proj, self.k_proj, self.v_proj):
            xavier_(layer, gain=gain * 2**-0.5)
        xavier_(self.out_proj, gain=gain)

    def forward(self, hidden_states: Tensor, position: Tensor, return_weights: bool) -> tuple[Tensor, Tensor | None]:
        """(B, Q, C) -> (B, Q, C) and weights (B, M, Q, Q) or None; `position`: (1 or B, Q, C)."""
        positioned = hidden_states + position
        attended, weights = attend(
            self.q_proj(positioned),
            self.k_proj(positioned),
            self.v_proj(hidden_states),
            self.num_heads,
            None,
            return_weights,
        )
        return self.out_proj(attended), weights


class CrossAttention(nn.Module):
    """Masked attention from the queries to one level of pixel features (Cheng et al. 2022, section 3.2.2).

    Its three projections are one packed parameter, as in `nn.MultiheadAttention`, whose names checkpoints have.
    """

    def __init__(self, channels: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * channels, channels))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * channels))
        self.out_proj = nn.Linear(channels, channels)

    def init_original_weights(self, gain: float = 1.0):
        init.xavier_uniform_(self.in_proj_weight, gain=gain)
        init.zeros_(self.in_proj_bias)
        xavier_(self.out_proj, gain=gain)

    def forward(
        self,
        hidden_states: Tensor,
        position: Tensor,
        features: Tensor,
        positioned_features: Tensor,
        keep: Tensor | None,
        return_weights: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend.

        Args:
            hidden_states: (B, Q, C). position: (1 or B, Q, C).
            features: (B, S_l, C), of which values are made.
            positioned_features: the same with their positions added, of which keys are made.
            keep: (B, 1, Q, S_l) bool; None where every query may look everywhere.

        Returns:
            (B, Q, C), and weights (B, M, Q, S_l) or None.
        """
        inputs = (hidden_states + position, positioned_features, features)
        query, key, value = _packed_projections(inputs, self.in_proj_weight, self.in_proj_bias)
        attended, weights = attend(query, key, value, self.num_heads, keep, return_weights)
        return self.out_proj(attended), weights


def _packed_projections(inputs: tuple[Tensor, ...], weight: Tensor, bias: Tensor) -> list[Tensor]:
    """Each of three inputs (B, S, C) through its own third of weight (3C, C) and bias (3C,)."""
    if is_plain_tensor(weight) and is_plain_tensor(bias):
        return [linear(*parts) for parts in zip(inputs, weight.chunk(3), bias.chunk(3), strict=True)]
    # Weights of another kind, such as quantised ones, may know products and not how to be cut.
    return [linear(x, weight, bias).chunk(3, -1)[i] for i, x in enumerate(inputs)]
