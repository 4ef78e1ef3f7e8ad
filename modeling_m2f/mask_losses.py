"""The mask losses of matched queries, computed together with their gradient, a few masks at a time.

A mask is the product of a query's embedding and the mask features. The losses are sums over masks, so a mask can be
made, compared at its points, turned into its part of the gradient and forgotten before the next one: what remains is
one gradient of the size of the features, however many masks and predictions there are. Autograd alone would keep
every mask until the backward pass.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from m2f.modeling_m2f.kernels.point_losses import POINT_LOSSES, mask_losses_
from m2f.modeling_m2f.kernels.readable_memory import is_readable, is_transformed
from m2f.modeling_m2f.mask_targets import MaskTargets
from m2f.modeling_m2f.matcher import Matches
from m2f.modeling_m2f.point_sampling import PointChoice, drawn_points, sample_at_points, uncertain_points

# Numbers in the largest tensor of a group of masks.
GROUP_ELEMENTS = 2**21

SECOND_DERIVATIVE = (
    "Autograd has no second derivative of the mask losses: their gradient is computed along with them, and no mask is "
    "kept. Use torch.func (grad of grad, hessian, jacrev), which computes them in another way."
)


def mask_loss(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean cross-entropy over the points of each mask: (N, R) -> (N,); weights (N, R) are those of the mean, and
    without any weight it is 0."""
    losses = binary_cross_entropy_with_logits(logits, targets, reduction="none")
    if weights is None:
        return losses.mean(1)
    return (weights * losses).sum(1) / weights.sum(1).clamp(min=1)


def dice_loss(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """1 - (2 p.t + 1) / (sum p + sum t + 1) of each mask: (N, R) -> (N,); weights (N, R) are those of every sum, and
    without any weight it is 0."""
    probabilities = logits.sigmoid()
    if weights is not None:
        probabilities, targets = weights * probabilities, weights * targets
    overlap = 2 * (probabilities * targets).sum(-1)
    return 1 - (overlap + 1) / (probabilities.sum(-1) + targets.sum(-1) + 1)


class _Rows(NamedTuple):
    """Matched pairs of one image: (n,) int64 each, all pairs of the first prediction before those of the second."""

    prediction: Tensor
    query: Tensor
    target: Tensor


def matched_mask_losses(
    embeddings: Tensor,
    features: Tensor,
    targets: list[MaskTargets],
    matches: list[Matches],
    points: PointChoice,
    coefficients: Tensor,
) -> tuple[Tensor, Tensor]:
    """Mask losses of every prediction of a batch.

    Args:
        embeddings: (L, B, Q, C), mask embeddings of L predictions.
        features: (B, C, h, w), mask features.
        targets: per image.
        matches: per prediction and image; an image has equally many pairs in every prediction.
        points: how many points a mask is compared at, and which.
        coefficients: (2,), the factors of mask loss and dice loss in the total.

    Returns:
        The total, a scalar whose gradient reaches embeddings and features; and mask loss and dice loss of each
        prediction, (2, L), summed over masks, without gradient. Where nothing is matched all are 0, and the total
        stays attached to the graph, so that every parameter gets a gradient on every process.
    """
    if is_transformed():
        return _losses_of_autograd(embeddings, features, targets, matches, points, coefficients)
    learns = torch.is_grad_enabled() and (embeddings.requires_grad or features.requires_grad)
    gradients = [x.new_zeros(x.shape, dtype=torch.float32) for x in (embeddings, features)] if learns else []
    sums = torch.zeros(2, len(embeddings), device=embeddings.device)
    with torch.no_grad():
        for image, image_targets in enumerate(targets):
            rows = _rows([prediction[image] for prediction in matches])
            if not len(rows.target):
                continue
            gradient = (gradients[0][:, image], gradients[1][image].flatten(1)) if learns else None
            losses = _image_losses(
                embeddings[:, image].float(),
                features[image].float(),
                image_targets,
                rows,
                points,
                coefficients,
                gradient,
            )
            sums += losses.unflatten(1, (len(embeddings), -1)).sum(-1)
        total = coefficients @ sums.sum(1)
    if learns:
        total = _WithGradients.apply(total, embeddings, features, _attached_zero(embeddings, features), *gradients)
    return total, sums


def _losses_of_autograd(
    embeddings: Tensor,
    features: Tensor,
    targets: list[MaskTargets],
    matches: list[Matches],
    points: PointChoice,
    coefficients: Tensor,
) -> tuple[Tensor, Tensor]:
    """As `matched_mask_losses`, at the same points, by plain PyTorch that keeps every mask: what torch.func and
    forward-mode differentiation see through, also more than once."""
    sums = torch.zeros(2, len(embeddings), device=embeddings.device) + _attached_zero(embeddings, features)
    for image, image_targets in enumerate(targets):
        rows = _rows([prediction[image] for prediction in matches])
        flat = features[image].float().flatten(1)
        losses = [sums.new_zeros(2, 0)]
        for group in _groups(rows, max(flat.shape[1], 2 * points.num_candidates)):
            masks = embeddings[group.prediction, image, group.query].float() @ flat
            masks = masks.unflatten(1, features.shape[2:])
            losses.append(_losses_at_points(masks, image_targets, group.target, points))
        sums = sums + torch.cat(losses, 1).unflatten(1, (len(embeddings), -1)).sum(-1)
    return coefficients @ sums.sum(1), sums.detach()


def _attached_zero(*tensors: Tensor) -> Tensor:
    """A scalar 0 that depends on the tensors for autograd, and keeps none of them."""
    return torch.stack([x[:0].sum(dtype=torch.float32) for x in tensors]).sum()


def losses_of_masks(masks: Tensor, targets: list[MaskTargets], matches: Matches, points: PointChoice) -> Tensor:
    """Mask loss and dice loss, (2,), of one prediction whose masks (B, Q, h, w) exist, summed over the matched ones,
    with gradients; 0, attached to the graph, where nothing is matched."""
    total = masks.new_zeros(2, dtype=torch.float32) + masks.flatten()[:0].float().sum()
    for logits, image_targets, (queries, chosen) in zip(masks, targets, matches, strict=True):
        if len(queries):
            total = total + _losses_at_points(logits[queries].float(), image_targets, chosen, points).sum(1)
    return total


def _rows(matches: Matches) -> _Rows:
    counts = [len(queries) for queries, _ in matches]
    prediction = torch.arange(len(matches), device=matches[0][0].device).repeat_interleave(counts[0])
    return _Rows(prediction, *(torch.cat(indices) for indices in zip(*matches, strict=True)))


def _image_losses(
    embeddings: Tensor,
    features: Tensor,
    targets: MaskTargets,
    rows: _Rows,
    points: PointChoice,
    coefficients: Tensor,
    gradient: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """Losses (2, n) of the rows of one image, group by group; their gradient is added to `gradient`.

    embeddings: (L, Q, C). features: (C, h, w). gradient: of the embeddings, (L, Q, C), and of the features, (C, hw).
    """
    flat = features.flatten(1)
    group_losses_of, elements = _group_losses, max(flat.shape[1], 2 * points.num_candidates)
    if is_readable() and POINT_LOSSES.runs_on(flat.device):
        # The kernel splits a group once more; large products are faster.
        group_losses_of, elements = _kernel_group_losses, flat.shape[1]
    losses = []
    for group in _groups(rows, elements):
        chosen = embeddings[group.prediction, group.query]
        masks = (chosen @ flat).unflatten(1, features.shape[1:])
        group_losses, mask_gradient = group_losses_of(
            masks, targets, group.target, points, coefficients, gradient is not None
        )
        losses.append(group_losses)
        if gradient is not None:
            assert mask_gradient is not None  # it was asked for
            gradient[0][group.prediction, group.query] = mask_gradient @ flat.T
            gradient[1].addmm_(chosen.T, mask_gradient)
    return torch.cat(losses, 1)


def _groups(rows: _Rows, elements: int) -> Iterator[_Rows]:
    """A few rows at a time, of which each needs a tensor of so many elements."""
    size = max(1, GROUP_ELEMENTS // elements)
    for start in range(0, len(rows.target), size):
        yield _Rows(*(indices[start : start + size] for indices in rows))


def _losses_at_points(masks: Tensor, targets: MaskTargets, indices: Tensor, points: PointChoice) -> Tensor:
    """Losses (2, n) of mask logits (n, h, w) compared with the targets at `indices`."""
    where = uncertain_points(masks, *points, targets.weights)
    wanted, weights = targets.at_own_points(indices, where), targets.weights(where)
    logits = sample_at_points(masks[:, None], where).squeeze(1)
    return torch.stack([mask_loss(logits, wanted, weights), dice_loss(logits, wanted, weights)])


def _group_losses(
    masks: Tensor, targets: MaskTargets, indices: Tensor, points: PointChoice, coefficients: Tensor, learns: bool
) -> tuple[Tensor, Tensor | None]:
    """Losses (2, n) of mask logits (n, h, w) compared with the targets at `indices`, and the gradient of their total
    with respect to the logits, (n, h * w)."""
    with torch.set_grad_enabled(learns):
        losses = _losses_at_points(masks.requires_grad_(learns), targets, indices, points)
        gradient = torch.autograd.grad((coefficients @ losses).sum(), masks)[0].flatten(1) if learns else None
    return losses.detach(), gradient


def _kernel_group_losses(
    masks: Tensor, targets: MaskTargets, indices: Tensor, points: PointChoice, coefficients: Tensor, learns: bool
) -> tuple[Tensor, Tensor | None]:
    """`_group_losses` by the CPU's kernel, which writes the gradient in the place of the logits. The points of a few
    masks at a time are drawn."""
    # A mask a thread; few, because fresh memory takes longer than the numbers that are drawn into it.
    size = max(torch.get_num_threads(), GROUP_ELEMENTS // (4 * points.num_drawn))
    losses = []
    for some_masks, some_indices in zip(masks.split(size), indices.split(size), strict=True):
        drawn = drawn_points(len(some_masks), points, masks.device)
        counts = (points.num_candidates, points.num_uncertain)
        losses.append(mask_losses_(some_masks, drawn, *counts, targets.stored(some_indices), coefficients, learns))
    return torch.cat(losses, 1), masks.flatten(1) if learns else None


class _WithGradients(torch.autograd.Function):
    """A number whose gradients were computed along with it; `zero` depends on what the number depends on."""

    @staticmethod
    def forward(ctx, value: Tensor, embeddings: Tensor, features: Tensor, zero: Tensor, *gradients: Tensor) -> Tensor:
        ctx.dtypes = embeddings.dtype, features.dtype
        ctx.save_for_backward(zero, *gradients)
        return value.clone()

    @staticmethod
    def backward(ctx, factor: Tensor):
        zero, *gradients = ctx.saved_tensors
        gradients = [(factor * x).to(dtype) for x, dtype in zip(gradients, ctx.dtypes, strict=True)]
        if torch.is_grad_enabled():  # they may be differentiated again
            gradients = [_Once.apply(x, zero) for x in gradients]
        return None, *gradients, None, None, None


class _Once(torch.autograd.Function):
    """A gradient that says so where it is differentiated. Not torch's `once_differentiable`: where the factor is a
    constant, as that of a loss is, it takes the gradient for one too, and its part is left out without a word."""

    @staticmethod
    def forward(ctx, gradient: Tensor, zero: Tensor) -> Tensor:
        return gradient.clone()

    @staticmethod
    def backward(ctx, factor: Tensor):
        raise RuntimeError(SECOND_DERIVATIVE)
