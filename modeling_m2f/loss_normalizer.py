"""What the sums of the loss are divided by, so that neither gradient accumulation nor the number of processes shows.

Every term is a sum over masks, or over queries, divided by a total that belongs to the whole optimizer step: the
number of target masks, and the sum of the class weights (1 for a matched query, `no_object_weight` for another).
"""

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
    return Normalizer(totals[0].clamp(min=1) / processes, totals[1:] / processes)


def of_accumulated_steps(
    num_masks: int,
    num_images: int,
    num_items_in_batch: Tensor | int,
    num_images_in_batch: Tensor | int | None,
    num_queries: int,
    no_object_weight: float,
    device: torch.device,
) -> Normalizer:
    """Totals of a step of several forward passes, from what the training loop counted beforehand.

    The counts belong to all passes on all processes, so nothing is reduced here, and the loop multiplies the loss by
    the number of processes where gradients are averaged (as `transformers.Trainer` does by itself).

    Without `num_images_in_batch` the images elsewhere are taken to have as many targets as those at hand; the class
    term then is its mean over this batch times this batch's share of all targets. That is exact where images have
    equally many targets, and only the balance between images differs where they have not.

    Args:
        num_masks, num_images: targets and images in this forward pass.
        num_items_in_batch: targets in the step. num_images_in_batch: images in the step.
        num_queries: Q. no_object_weight: class weight of an unmatched query.
    """
    items = torch.as_tensor(num_items_in_batch, dtype=torch.float32, device=device)
    if num_images_in_batch is None:
        num_images_in_batch = num_images * items.clamp(min=1) / max(num_masks, 1)
    queries = num_queries * torch.as_tensor(num_images_in_batch, dtype=torch.float32, device=device)
    matched = torch.minimum(items, queries)
    return Normalizer(items.clamp(min=1), matched + no_object_weight * (queries - matched))
