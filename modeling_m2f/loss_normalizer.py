"""What the sums of the loss are divided by, so that neither gradient accumulation nor the number of processes shows.

Every term is a sum over masks, or over queries, divided by a total that belongs to the whole optimizer step: the
number of target masks, and the sum of the class weights (that of its target for a matched query, `no_object_weight`
for another).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Normalizer(NamedTuple):
    """num_masks: scalar >= some positive number, divides the mask terms. class_weight: (L,) or scalar, divides the
    class term of each prediction."""

    num_masks: Tensor
    class_weight: Tensor


def of_this_step(num_masks: int, class_weight: Tensor, reduce: bool) -> Normalizer:
    """Totals of a step that is one forward pass on each process: their means over the processes, in one reduction.

    Data parallel training averages gradients; divided by the mean, they are those of one process with all the images.
    The original does so with the masks alone and takes each process's own mean of the class term, so that an image's
    weight depends on its neighbours (departure); it also counts at least 1 mask per process, not in all (departure).
    transformers divides the masks by the number of processes twice, and once per prediction.

    Args:
        num_masks: targets in this batch.
        class_weight: (L,) float32, summed class weights in this batch, per prediction.
        reduce: whether there may be other processes in this step; all must call this, or none.
    """
    totals = torch.cat([class_weight.new_tensor([float(num_masks)]), class_weight])
    processes = 1
    if reduce and torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(totals)
        processes = torch.distributed.get_world_size()
    return Normalizer(totals[0].clamp(min=1) / processes, _or_one(totals[1:]) / processes)


def of_counted_step(
    num_items_in_batch: Tensor | int, class_weight_in_batch: Tensor | float, like: Tensor
) -> Normalizer:
    """Totals of a step of several forward passes, from what the training loop counted beforehand: targets and class
    weights, see `count_step`. The type and device are those of `like`.

    The counts belong to all passes on all processes, so nothing is reduced here, and the loop multiplies the loss by
    the number of processes where gradients are averaged (as `transformers.Trainer` does by itself).
    """
    items, weight = (
        torch.as_tensor(count, dtype=like.dtype, device=like.device)
        for count in (num_items_in_batch, class_weight_in_batch)
    )
    return Normalizer(items.clamp(min=1), _or_one(weight))


def of_similar_batches(num_masks: int, class_weight: Tensor, num_items_in_batch: Tensor | int) -> Normalizer:
    """As above where the targets alone are counted: the batches elsewhere are taken to have this batch's class weight
    for each target.

    The class term then is its mean over this batch times this batch's share of all targets. That is exact where this
    batch is the step, and where images have equally many targets of equal weight; where they have not, the balance
    between images differs.

    Args:
        num_masks: targets in this batch. class_weight: (L,) float32, its summed class weights, per prediction.
    """
    items = torch.as_tensor(num_items_in_batch, dtype=class_weight.dtype, device=class_weight.device).clamp(min=1)
    return Normalizer(items, _or_one(class_weight * items / max(num_masks, 1)))


def class_weight_of_counts(
    num_items_in_batch: Tensor | int, num_images_in_batch: Tensor | int, num_queries: int, weight: Tensor
) -> Tensor:
    """Class weights of a step whose targets all have the same, no image more targets than queries.

    Args:
        num_queries: Q. weight: (K + 1,) float32, of each class and of "no object".

    Raises:
        ValueError: the classes have different weights, of which the counts say nothing.
    """
    if not (weight[:-1] == weight[0]).all():
        raise ValueError(
            "num_items_in_batch and num_images_in_batch do not tell the class weights of the step, because the "
            "classes have different ones (M2FConfig.class_weights); give class_weight_in_batch too: the model's "
            "count_targets() counts all three, to be summed over the batches and processes of a step."
        )
    items, images = (
        torch.as_tensor(count, dtype=weight.dtype, device=weight.device)
        for count in (num_items_in_batch, num_images_in_batch)
    )
    matched = torch.minimum(items, num_queries * images)
    return weight[0] * matched + weight[-1] * (num_queries * images - matched)


def count_step(classes: Sequence[Tensor], num_queries: int, weight: Tensor) -> Tensor:
    """What some images contribute to the totals of their step: their targets, their number, and the class weights of
    their queries, (3,) float32 on the device of `weight`.

    The weights are exact unless an image has more targets than queries, of different weights: which of them are
    matched is not known beforehand, and they are taken to have the mean weight of all of its targets.

    Args:
        classes: per image (N,) int64 in [0, K). Others count as the nearest one, and are refused by the model.
        num_queries: Q. weight: (K + 1,) float32, of each class and of "no object".
    """
    counts = [min(len(image), num_queries) for image in classes]
    matched = weight.new_zeros(())
    if sum(counts):
        # In one copy to the device.
        shares = torch.cat([torch.full((len(c),), n / max(len(c), 1)) for c, n in zip(classes, counts, strict=True)])
        chosen = torch.cat(list(classes)).clamp(0, len(weight) - 2).to(weight.device)
        matched = (weight[chosen] * shares.to(weight.device, weight.dtype)).sum()
    targets = weight.new_full((), sum(len(image) for image in classes))
    free = num_queries * len(classes) - sum(counts)
    return torch.stack([targets, weight.new_full((), len(classes)), matched + weight[-1] * free])


def _or_one(class_weight: Tensor) -> Tensor:
    """1 where nothing weighs anything, as in a batch of classes of weight 0: their loss is 0, and no 0 / 0."""
    return torch.where(class_weight > 0, class_weight, 1)
