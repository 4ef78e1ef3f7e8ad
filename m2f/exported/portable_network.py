"""The network with tensors as inputs and outputs, as a graph has them."""

from typing import Any

import torch
from torch import Tensor, nn

from m2f.exported.graph_form import GraphForm
from m2f.exported.graph_results import best_instances, panoptic_map, semantic_labels
from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.image_processing.post_processing_mixin import MASK_THRESHOLD, OVERLAP_THRESHOLD
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation

_TOP_K = 100  # the original's number of (query, class) pairs


class PortableNetwork(nn.Module):
    """What is exported.

    Args:
        model: in evaluation mode.
        processor: of the same checkpoint, whose settings the finished results follow.
        form: of the graph.
    """

    def __init__(self, model: M2FForUniversalSegmentation, processor: M2FImageProcessor, form: GraphForm):
        super().__init__()
        self.model = model
        self.form = form
        self.channels = processor.num_channels
        self.settings = result_settings(processor, form.post, model.config.num_labels)

    def forward(self, pixel_values: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
        """(B, C, H, W) and, of each image, height and width before padding (B, 2) int64, to the outputs."""
        inside = None if sizes is None else _inside(sizes, pixel_values.shape[2:])
        outputs = self.model(pixel_values=pixel_values.to(self.model.dtype), pixel_mask=inside)
        logits = outputs.class_queries_logits.float(), outputs.masks_queries_logits.float()
        size = (pixel_values.shape[2], pixel_values.shape[3])
        if self.form.post == "semantic":
            return semantic_labels(*logits, size)
        if self.form.post == "instance":
            return best_instances(*logits, inside, size, **self.settings)
        if self.form.post == "panoptic":
            return panoptic_map(*logits, inside, size, **self.settings)
        return logits


def result_settings(processor: M2FImageProcessor, post: str, num_labels: int) -> dict[str, Any]:
    """The thresholds and labels that finished results depend on: arguments of the functions in graph_results.py."""
    if post == "instance":
        things = sorted(processor.thing_labels(num_labels))
        return {"things": things, "mask_threshold": MASK_THRESHOLD, "top_k": _TOP_K}
    if post == "panoptic":
        thresholds = {"threshold": processor.panoptic_threshold, "mask_threshold": MASK_THRESHOLD}
        fused = sorted(processor.labels_to_fuse(num_labels))
        return {"fused": fused, **thresholds, "overlap_threshold": OVERLAP_THRESHOLD}
    return {}


def _inside(sizes: Tensor, canvas: tuple[int, ...]) -> Tensor:
    """(B, H, W) bool."""
    rows, columns = (
        torch.arange(length, device=sizes.device) < sizes[:, axis, None] for axis, length in enumerate(canvas)
    )
    return rows[:, :, None] & columns[:, None]
