"""From samples to a batch that a model takes as `model(**batch)`."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from m2f.data.sample_geometry import resize_ids
from m2f.data.segment_map import Sample, SegmentMap
from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.image_processing.label_values import NOTHING, PADDING_LABEL

FORMS = ("maps", "masks")


class Collator:
    """Prepares the images with an image processor and brings the labels to the size that the images got.

    Every entry of a batch is one tensor with the images first, so that batches can be split, gathered from several
    processes and concatenated; see `PADDING_LABEL`. The labels have the integer types that gathering keeps: it turns
    bool into int64 on some processes only, and NCCL has no int16. To gather `mask_labels` of more than one batch, give
    them one size by `canvas`: gathering pads the second dimension alone.

    Segments without a pixel left are dropped, so that an image may have none: N is that of the batch's image with
    most segments, and may be 0.

    Args:
        image_processor: an `M2FImageProcessor`, or any other that returns "pixel_values" and "pixel_mask" with the
            padding on the right and at the bottom.
        form: of the mask labels, "maps" (as lean as the sample) or "masks" (a mask per segment, as transformers has
            them, in which an ignored pixel is background).
        keep_size: the images have the size for training from their augmentation; the processor does not resize them,
            whatever its settings say. Otherwise it does what they say, and labels follow with nearest neighbours.
        canvas: (height, width) to pad every batch to; by default what the processor's settings say.
        count_labels: adds "labels", the class labels again, which Trainer counts to tell the model
            `num_items_in_batch` under gradient accumulation.

    Raises:
        ValueError: another form; for a batch: an image larger than `canvas`.
    """

    def __init__(
        self,
        image_processor: M2FImageProcessor,
        form: str = "maps",
        keep_size: bool = False,
        canvas: tuple[int, int] | None = None,
        count_labels: bool = False,
    ):
        if form not in FORMS:
            raise ValueError(f"form must be one of {', '.join(FORMS)}, got {form!r}")
        self.image_processor = image_processor
        self.form = form
        self.keep_size = keep_size
        self.canvas = canvas
        self.count_labels = count_labels

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """A batch of B images.

        Returns:
            "pixel_values" (B, 3, H, W) float32, "pixel_mask" (B, H, W) int64, 1 at real pixels;
            "mask_labels" as maps, (B, G, H, W) int32: the index of the pixel's segment in [0, N), -1 for none
            (padding too), -2 for ignored, -100 on layers that only fill up; or as masks, (B, N, H, W) uint8 of 0 and
            1, 0 in the padding;
            "class_labels" (B, N) int64 in [0, K), -100 for segments that only fill up; "labels", if asked for.
        """
        inputs = self.image_processor([sample.image for sample in samples], return_tensors="pt", **self._settings())
        pixel_mask = inputs["pixel_mask"]
        segments = [_fit(sample.segments, valid_size(mask)) for sample, mask in zip(samples, pixel_mask, strict=True)]
        size = tuple(pixel_mask.shape[1:])
        classes = pad_class_labels(segments)
        batch = {
            "pixel_values": inputs["pixel_values"],
            "pixel_mask": pixel_mask,
            "mask_labels": pad_maps(segments, size) if self.form == "maps" else pad_masks(segments, size),
            "class_labels": classes,
        }
        return {**batch, "labels": classes.clone()} if self.count_labels else batch

    def _settings(self) -> dict[str, Any]:
        """What is said to the processor beside its own settings."""
        settings: dict[str, Any] = {"do_resize": False} if self.keep_size else {}
        if self.canvas is not None:
            settings.update(do_pad=True, pad_size={"height": self.canvas[0], "width": self.canvas[1]})
        return settings


def valid_size(pixel_mask: Tensor) -> tuple[int, int]:
    """(height, width) of the real pixels of (H, W), which fill its top left corner."""
    return int(pixel_mask[:, 0].sum()), int(pixel_mask[0].sum())


def pad_class_labels(segments: Sequence[SegmentMap]) -> Tensor:
    """(B, N) int64, N the most segments of an image."""
    most = max(len(labels.class_ids) for labels in segments)
    classes = torch.full((len(segments), most), PADDING_LABEL, dtype=torch.int64)
    for row, labels in zip(classes, segments, strict=True):
        row[: len(labels.class_ids)] = torch.from_numpy(labels.class_ids)
    return classes


def pad_maps(segments: Sequence[SegmentMap], canvas: tuple[int, int]) -> Tensor:
    """(B, G, *canvas) int32, G the most layers of an image."""
    most = max(len(labels.ids) for labels in segments)
    maps = torch.full((len(segments), most, *canvas), NOTHING, dtype=torch.int32)
    for layers, labels in zip(maps, segments, strict=True):
        height, width = labels.size
        layers[: len(labels.ids), :height, :width] = torch.from_numpy(labels.ids)
        layers[len(labels.ids) :] = PADDING_LABEL
    return maps


def pad_masks(segments: Sequence[SegmentMap], canvas: tuple[int, int]) -> Tensor:
    """(B, N, *canvas) uint8 of 0 and 1, N the most segments of an image."""
    most = max(len(labels.class_ids) for labels in segments)
    masks = torch.zeros((len(segments), most, *canvas), dtype=torch.uint8)
    for stack, labels in zip(masks, segments, strict=True):
        height, width = labels.size
        for number, layer in enumerate(labels.layers()):  # one at a time: a stack of bool would double the memory
            stack[number, :height, :width] = torch.from_numpy(labels.ids[layer] == number)
    return masks


def _fit(segments: SegmentMap, size: tuple[int, int]) -> SegmentMap:
    return segments.with_ids(resize_ids(segments.ids, size))
