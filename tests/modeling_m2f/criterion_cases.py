"""Criteria, targets and predictions of a few small images."""

import torch
from plain_criterion import WEIGHTS

from m2f.modeling_m2f.criterion import Criterion
from m2f.modeling_m2f.matcher import HungarianMatcher
from m2f.modeling_m2f.point_sampling import PointChoice
from m2f.modeling_m2f.prepare_targets import NOTHING, PADDING_LABEL, prepare_targets

NUM_CLASSES, NUM_QUERIES = 5, 8


CANVAS = (64, 96)


def make_criterion(num_points: int = 64) -> Criterion:
    matcher = HungarianMatcher(2.0, 5.0, 5.0, num_points)
    return Criterion(matcher, NUM_CLASSES, 0.1, PointChoice(num_points, 3.0, 0.75), WEIGHTS)


def make_targets(masks, classes, canvas: tuple[int, int] = CANVAS, valid: list[tuple[int, int]] | None = None):
    sizes = valid or [canvas] * len(classes)
    cpu = torch.device("cpu")
    return prepare_targets(masks, classes, sizes, canvas, canvas, valid is None, NUM_CLASSES, NUM_QUERIES, cpu)


def random_predictions(num_predictions: int = 3, batch: int = 2, canvas: tuple[int, int] = CANVAS, channels: int = 16):
    """Class logits, mask embeddings and mask features, leaves of the graph."""
    height, width = canvas[0] // 4, canvas[1] // 4
    class_logits = torch.randn(num_predictions, batch, NUM_QUERIES, NUM_CLASSES + 1)
    embeddings = torch.randn(num_predictions, batch, NUM_QUERIES, channels)
    features = torch.randn(batch, channels, height, width)
    return [x.requires_grad_() for x in (class_logits, embeddings, features)]


def overlapping_maps():
    """Index maps of two images (with a layer that only fills up) and the same masks one by one."""
    ids = torch.full((2, 2, *CANVAS), NOTHING, dtype=torch.int32)
    ids[0, 0, 5:30, 7:40], ids[0, 0, 40:60, 10:70] = 0, 1
    ids[0, 1, 20:50, 20:60] = 2
    ids[1, 0, :, :33] = 0
    ids[1, 1] = PADDING_LABEL
    classes = [torch.tensor([1, 3, 1]), torch.tensor([4])]
    masks = [torch.stack([(ids[b] == n).any(0) for n in range(len(c))]).to(torch.uint8) for b, c in enumerate(classes)]
    return ids, masks, classes


def padded(tensors: list[torch.Tensor], value: int) -> torch.Tensor:
    """One tensor of tensors of different length."""
    batch = torch.full((len(tensors), max(map(len, tensors)), *tensors[0].shape[1:]), value, dtype=tensors[0].dtype)
    for row, tensor in zip(batch, tensors, strict=True):
        row[: len(tensor)] = tensor
    return batch


def gradients(criterion_outputs, predictions):
    return torch.autograd.grad(criterion_outputs[0], predictions)


FORMS = {
    "index maps": lambda ids, masks, classes: (ids, padded(classes, PADDING_LABEL)),
    "list of index maps": lambda ids, masks, classes: (list(ids), classes),
    "uint8 stacks": lambda ids, masks, classes: (padded(masks, 0), padded(classes, PADDING_LABEL)),
    "list of uint8 stacks": lambda ids, masks, classes: (masks, classes),
    "list of float stacks": lambda ids, masks, classes: ([m.float() for m in masks], classes),
    "list of bool stacks": lambda ids, masks, classes: ([m.bool() for m in masks], classes),
}
