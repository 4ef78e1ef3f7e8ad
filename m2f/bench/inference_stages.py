"""What is timed: the whole way from an image to its segments, the network, and its parts."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import Mask2FormerImageProcessor

from m2f.bench.compared_models import Form
from m2f.image_processing.image_processing_m2f import M2FImageProcessor

STAGES = ("end to end", "model", "backbone", "pixel decoder", "decoder", "processor", "post-processing")
MODEL_STAGES = ("end to end", "model", "backbone", "pixel decoder", "decoder")


def make_images(size: tuple[int, int], batch: int) -> list[Image.Image]:
    """Random images, of the (height, width) that the network sees: nothing is resized."""
    draw = np.random.default_rng(0)
    return [Image.fromarray(draw.integers(0, 256, (*size, 3), dtype=np.uint8)) for _ in range(batch)]


def make_processor(is_ours: bool) -> M2FImageProcessor | Mask2FormerImageProcessor:
    kind = M2FImageProcessor if is_ours else Mask2FormerImageProcessor
    options = {"task": "panoptic", "thing_label_ids": list(range(80))} if is_ours else {}
    return kind(do_resize=False, **options)


def make_outputs(size: tuple[int, int], batch: int, queries: int, num_classes: int, device: str) -> SimpleNamespace:
    """Outputs of a network that is sure of every query: logits of smooth blobs, one class for each."""
    draw = torch.Generator().manual_seed(0)
    height, width = size[0] // 4, size[1] // 4
    y = torch.arange(height).view(-1, 1) / height - torch.rand(batch, queries, 1, 1, generator=draw)
    x = torch.arange(width) / width - torch.rand(batch, queries, 1, 1, generator=draw)
    radius = 0.05 + 0.2 * torch.rand(batch, queries, 1, 1, generator=draw)
    classes = torch.randint(num_classes, (batch, queries), generator=draw)
    class_logits = 12.0 * torch.nn.functional.one_hot(classes, num_classes + 1)
    masks = 20 * (radius - (x.square() + y.square()).sqrt())
    return SimpleNamespace(
        class_queries_logits=class_logits.to(device), masks_queries_logits=masks.to(device), valid_sizes=None
    )


def stage_work(
    stage: str, form: Form, is_ours: bool, size: tuple[int, int], batch: int, device: str
) -> Callable[[], object]:
    """The work of a stage for images of `size`, without arguments.

    Raises:
        ValueError: an unknown stage.
    """
    if stage in ("processor", "post-processing", "end to end"):
        return _image_work(stage, form, is_ours, size, batch, device)
    pixels = torch.randn(batch, 3, *size, device=device)
    if stage == "model":
        return lambda: form(pixels)
    if stage not in STAGES:
        raise ValueError(f"stage {stage!r} is unknown; use one of {', '.join(STAGES)}")
    return _part_work(stage, form, is_ours, pixels)


def _image_work(
    stage: str, form: Form, is_ours: bool, size: tuple[int, int], batch: int, device: str
) -> Callable[[], object]:
    images, processor, sizes = make_images(size, batch), make_processor(is_ours), [size] * batch

    def prepare():
        return processor(images, return_tensors="pt")

    def post_process(outputs):
        threshold = 0.8  # of both: transformers' default is another
        return processor.post_process_panoptic_segmentation(outputs, threshold=threshold, target_sizes=sizes)

    if stage == "processor":
        return prepare
    model: Any = form.model
    config = model.config
    outputs = make_outputs(size, batch, config.num_queries, config.num_labels, device)
    if stage == "post-processing":
        return lambda: post_process(outputs)

    def whole_way():
        form(prepare()["pixel_values"].to(device))
        return post_process(outputs)  # random weights find nothing; these are segments as a trained model finds them

    return whole_way


class _Reached(Exception):
    """Carries the arguments of a part out of the network."""


def _part_work(stage: str, form: Form, is_ours: bool, pixels: torch.Tensor) -> Callable[[], object]:
    """Calls a part of the network with the arguments that it gets inside, and as it is called there."""
    model: Any = form.model
    base = getattr(model, "_orig_mod", model).model
    level = base.pixel_level_module
    if stage == "backbone":
        alone = form._replace(model=level.feature_maps if is_ours else level.encoder)
        return lambda: alone(pixels)
    part = {"pixel decoder": level.decoder, "decoder": base.transformer_module}[stage]
    arguments, named = _arguments_of(part, form, pixels)
    run = form._replace(model=lambda _: part(*arguments, **named))
    if is_ours and stage == "pixel decoder":
        run = run._replace(autocast=None)  # it leaves an autocast region
    return lambda: run(pixels)


def _arguments_of(part: torch.nn.Module, form: Form, pixels: torch.Tensor) -> tuple[tuple, dict]:
    def stop(module, args, kwargs):
        raise _Reached(args, kwargs)

    handle = part.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        form(pixels)
    except _Reached as reached:
        return reached.args
    finally:
        handle.remove()
    raise RuntimeError(f"the network never called its {type(part).__name__}")
