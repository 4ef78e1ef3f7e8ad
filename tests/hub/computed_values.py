"""All that the kernels compute, from one image: for comparing an installed m2f with remote code, bit by bit."""

from typing import Any

import torch
from torch import Tensor


def computed_values(model: Any, processor: Any, image: Any, training: bool) -> dict[str, Tensor]:
    """Logits and the three kinds of segments; with `training`, which needs SciPy, the loss and all gradients too."""
    inputs, size = processor(images=image, return_tensors="pt"), [image.size[::-1]]
    with torch.no_grad():
        outputs = model.eval()(**inputs)
    values = {"class": outputs.class_queries_logits, "mask": outputs.masks_queries_logits}
    values["semantic"] = processor.post_process_semantic_segmentation(outputs, target_sizes=size)[0]
    for kind in ("instance", "panoptic"):
        found = getattr(processor, f"post_process_{kind}_segmentation")(outputs, threshold=0.0, target_sizes=size)[0]
        values[kind] = found["segmentation"]
        values[f"{kind} scores"] = torch.tensor([segment["score"] for segment in found["segments_info"]])
    if training:
        values |= _loss_and_gradients(model, inputs["pixel_values"])
    return values


def _loss_and_gradients(model: Any, pixels: Tensor) -> dict[str, Tensor]:
    masks = torch.zeros(2, *pixels.shape[-2:])
    masks[0, 10:40, 20:60] = masks[1, 30:, :30] = 1
    model.zero_grad()
    torch.manual_seed(0)  # the points of the loss are random
    loss = model(pixels, mask_labels=[masks], class_labels=[torch.tensor([1, 3])]).loss
    loss.backward()
    gradients = [weight.grad.flatten() for weight in model.parameters() if weight.grad is not None]
    return {"loss": loss.detach(), "gradients": torch.cat(gradients)}
