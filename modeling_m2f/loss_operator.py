"""The criterion as one operator of PyTorch, so that `torch.compile` gets a training step as one graph.

Labels are checked, queries assigned (by SciPy) and masks compared by code that branches on numbers, which no graph can
hold. As an operator all of this is one node of it, run as it is without a compiler. Its gradients are the node's
outputs: the criterion computes most of them along with the loss in any case (`mask_losses`).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from m2f.modeling_m2f.criterion import TERMS, Criterion, named_terms
from m2f.modeling_m2f.kernels.operators import packet
from m2f.modeling_m2f.mask_losses import SECOND_DERIVATIVE
from m2f.modeling_m2f.matcher import HungarianMatcher
from m2f.modeling_m2f.pixel_values import round_up
from m2f.modeling_m2f.plain_modules import is_plain
from m2f.modeling_m2f.point_sampling import PointChoice
from m2f.modeling_m2f.prepare_targets import prepare_targets

NAME = "m2f::loss_v1"


def is_operable(criterion: torch.nn.Module, *labels) -> bool:
    """Whether the operator does what the criterion does: no other one, nor another matcher, was put in its place, and
    the labels are tensors."""
    return (
        is_plain(criterion, Criterion)
        and type(criterion.matcher) is HungarianMatcher
        and all(
            isinstance(x, Tensor) or (isinstance(x, list | tuple) and all(isinstance(y, Tensor) for y in x))
            for x in labels
        )
    )


def loss_in_graph(
    criterion: Criterion,
    class_logits: Tensor,
    mask_embeddings: Tensor,
    mask_features: Tensor,
    mask_labels,
    class_labels,
    image_sizes: Tensor,
    given_size: tuple[int, ...],
    padding_counts: bool,
    counts: Sequence[Tensor | float | None],
) -> tuple[Tensor, dict[str, Tensor]]:
    """`criterion(class_logits, mask_embeddings, mask_features, targets, *counts)` with the targets of these labels.

    Args:
        mask_labels, class_labels: for which `is_operable` holds.
        image_sizes: (B, 2) int64, (h, w) of each image's real pixels.
        rest: as in `Criterion.forward` and `prepare_targets`.
    """
    predictions = (class_logits, mask_embeddings, mask_features)
    labels = (mask_labels, class_labels)
    matcher, points = criterion.matcher, criterion.points
    total, terms, *_ = packet(NAME)(
        *predictions,
        *([x] if isinstance(x, Tensor) else list(x) for x in labels),
        [isinstance(x, Tensor) for x in labels],
        image_sizes,
        list(given_size),
        criterion.empty_weight,
        *(_as_tensor(count, class_logits.device) for count in counts),
        [matcher.class_weight, matcher.mask_weight, matcher.dice_weight],
        [criterion.loss_weights[name] for name in TERMS],
        [matcher.num_points, points.num_points],
        [points.oversample_ratio, points.importance_ratio],
        padding_counts,
        criterion.training,
        torch.is_grad_enabled() and any(x.requires_grad for x in predictions),
    )
    return total, named_terms(terms.detach())


def _as_tensor(count: Tensor | float | None, device: torch.device) -> Tensor | None:
    if count is None or isinstance(count, Tensor):
        return count
    return torch.full((), count, dtype=torch.float32, device=device)


def _loss(
    class_logits: Tensor,
    mask_embeddings: Tensor,
    mask_features: Tensor,
    mask_labels: Sequence[Tensor],
    class_labels: Sequence[Tensor],
    are_batches: Sequence[bool],
    image_sizes: Tensor,
    given_size: Sequence[int],
    empty_weight: Tensor,
    num_items_in_batch: Tensor | None,
    num_images_in_batch: Tensor | None,
    class_weight_in_batch: Tensor | None,
    costs: Sequence[float],
    weights: Sequence[float],
    point_counts: Sequence[int],
    point_ratios: Sequence[float],
    padding_counts: bool,
    is_training: bool,
    learns: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The total, the terms (3, L), and where `learns` holds the gradients of the three predictions, else nothing.

    Args:
        mask_labels, class_labels: one of each per image, or where `are_batches` says so one with the batch first.
        costs, weights: of class, mask and dice, in matching and in the total.
        point_counts: points of matching, and of the mask losses. point_ratios: the rest of `PointChoice`.
    """
    masks, classes = (
        x[0] if is_batch else x for x, is_batch in zip((mask_labels, class_labels), are_batches, strict=True)
    )
    targets = prepare_targets(
        masks,
        classes,
        image_sizes=[tuple(size) for size in image_sizes.tolist()],
        given_size=tuple(given_size),
        canvas=tuple(round_up(length) for length in given_size),
        padding_counts=padding_counts,
        num_classes=len(empty_weight) - 1,
        num_queries=class_logits.shape[2],
        device=class_logits.device,
        counted_by_labels=num_items_in_batch is not None and class_weight_in_batch is None,
    )
    matcher = HungarianMatcher(costs[0], costs[1], costs[2], point_counts[0])
    points = PointChoice(point_counts[1], *point_ratios)
    criterion = Criterion(matcher, len(empty_weight) - 1, 1.0, points, dict(zip(TERMS, weights, strict=True)))
    criterion.empty_weight = empty_weight
    criterion.train(is_training)
    with _autograd(), torch.set_grad_enabled(learns):
        predictions = [x.detach().requires_grad_(learns) for x in (class_logits, mask_embeddings, mask_features)]
        logits, embeddings, features = predictions
        counts = (num_items_in_batch, num_images_in_batch, class_weight_in_batch)
        total, terms = criterion.compare(logits, embeddings, features, targets, *counts)
        gradients = torch.autograd.grad(total, predictions) if learns else [x.new_empty(0) for x in predictions]
    of_classes, of_embeddings, of_features = (x.contiguous() for x in gradients)
    return total.detach(), terms, of_classes, of_embeddings, of_features


@contextmanager
def _autograd() -> Iterator[None]:
    """Autograd as outside of an operator: PyTorch switches it off inside."""
    keys = (torch._C.DispatchKey.AutogradFunctionality, torch._C.DispatchKey.AutogradOther)
    excluded = torch._C._dispatch_tls_local_exclude_set()
    for key in (*keys, torch._C.DispatchKey.ADInplaceOrView):
        excluded = excluded - torch._C.DispatchKeySet(key)
    with torch._C._ForceDispatchKeyGuard(torch._C._dispatch_tls_local_include_set(), excluded):
        yield


def _fake_loss(class_logits: Tensor, mask_embeddings: Tensor, mask_features: Tensor, *others):
    gradients = (x.new_empty(x.shape if others[-1] else (0,)) for x in (class_logits, mask_embeddings, mask_features))
    terms = class_logits.new_empty((len(TERMS), class_logits.shape[0]), dtype=torch.float32)
    return class_logits.new_empty((), dtype=torch.float32), terms, *gradients


def _save(ctx, inputs, output):
    ctx.set_materialize_grads(False)
    ctx.lists = [len(x) for x in inputs[3:5]]
    ctx.num_inputs = len(inputs)
    ctx.save_for_backward(*output[2:])


def _differentiate(ctx, factor: Tensor | None, of_terms: Tensor | None, *of_gradients: Tensor | None):
    if any(x is not None for x in of_gradients):
        raise RuntimeError(SECOND_DERIVATIVE)
    gradients = [None if factor is None else (factor * x).to(x.dtype) for x in ctx.saved_tensors]
    labels = ([None] * length for length in ctx.lists)
    return *gradients, *labels, *[None] * (ctx.num_inputs - 5)


def define_operator():
    """Define the operator; does nothing where this version of it exists."""
    if hasattr(torch.ops.m2f, NAME.split("::")[1]):
        return
    # Random points are drawn, and processes reduce their totals: it must not be called twice or once for two.
    operator = torch.library.custom_op(NAME, _loss, mutates_args=(), tags=(torch.Tag.nondeterministic_seeded,))
    operator.register_fake(_fake_loss)
    operator.register_autograd(_differentiate, setup_context=_save)


define_operator()
