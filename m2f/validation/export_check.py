"""An exported graph beside the model that it was made of, on real images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from m2f.exported.exported_network import ExportedNetwork
from m2f.exported.graph_description import read_description
from m2f.exported.graph_form import GraphForm
from m2f.exported.graph_runtimes import open_graph
from m2f.image_processing.band_image import PixelImage
from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation

# By the type of the weights: the largest difference of a logit, as share of the largest logit, and the least share of
# pixels with the same result. A difference may move the border of an attention mask, and then more than roundings.
LIMITS = {"float32": (1e-2, 0.995), "float16": (0.25, 0.97), "bfloat16": (0.5, 0.9)}


@dataclass(frozen=True)
class Agreement:
    """
    images: that were compared.
    logits: largest difference of a class or mask logit, as share of the largest; None for finished results.
    pixels: share of pixels with the same result, of the images' own pixels.
    segments: of those that either finds, the share that both find, with a mask IoU above 0.5 and the same label; None
        where neither finds any.
    """

    images: int
    logits: float | None
    pixels: float
    segments: float | None

    def line(self) -> str:
        logits = "" if self.logits is None else f"logits differ by {self.logits:.1e} of the largest, "
        segments = "" if self.segments is None else f", {self.segments:.2%} of the segments"
        return f"checked on {self.images} images: {logits}the same result on {self.pixels:.3%} of the pixels{segments}"


class ExportDisagreesError(ValueError):
    """A graph gives other results than its model."""


def check_export(graph: Path, model: M2FForUniversalSegmentation, images: Sequence[PixelImage]) -> Agreement:
    """Compares a graph with its model.

    Raises:
        ExportDisagreesError: they differ by more than `LIMITS`.
    """
    description, form = read_description(graph)
    processor = M2FImageProcessor.from_dict(description["processor"])
    compare = _compare_logits if form.post == "none" else _compare_results
    found = compare(graph, form, model, processor, images)
    most, least = LIMITS[form.dtype]
    if found.pixels < least or (found.logits or 0) > most:
        raise ExportDisagreesError(
            f"the graph disagrees with its model: {found.line()}; at least {least:.1%} of the pixels"
            + ("" if found.logits is None else f" and a difference of at most {most:g}")
            + " are needed"
        )
    return found


def _compare_logits(
    graph: Path,
    form: GraphForm,
    model: M2FForUniversalSegmentation,
    processor: M2FImageProcessor,
    images: Sequence[PixelImage],
) -> Agreement:
    exported = ExportedNetwork(graph)
    differences, tally = [0.0], _Tally()
    for image in images:
        inputs = processor(image, return_tensors="pt")
        with torch.inference_mode():
            theirs = exported(**inputs)
            ours = model(**inputs)
        for name in ("class_queries_logits", "masks_queries_logits"):
            differences.append(_relative_difference(theirs[name], ours[name]))
        size = [(image.height, image.width)]
        tally.add(*(_segment_map(processor, outputs, size) for outputs in (theirs, ours)))
    return tally.agreement(len(images), max(differences))


def _compare_results(
    graph: Path,
    form: GraphForm,
    model: M2FForUniversalSegmentation,
    processor: M2FImageProcessor,
    images: Sequence[PixelImage],
) -> Agreement:
    run, tally = open_graph(graph, form), _Tally()
    for image in images:
        inputs = processor(image, return_tensors="pt")
        with torch.inference_mode():
            ours = model(**inputs)
        pixel_values = inputs["pixel_values"].expand(form.batch or 1, -1, -1, -1)
        sizes = ours.valid_sizes.expand(form.batch or 1, -1)
        results = dict(zip(form.outputs, run((pixel_values, sizes) if form.padding else (pixel_values,)), strict=True))
        height, width = ours.valid_sizes[0].tolist()
        theirs = finished_map({name: x[0] for name, x in results.items()}, form.post)[:height, :width]
        tally.add(theirs, _segment_map(processor, ours, [(height, width)], form.post))
    return tally.agreement(len(images), None)


def finished_map(results: dict[str, Tensor], post: str, threshold: float = 0.5) -> Tensor:
    """What a graph with finished results found in an image, as `_segment_map`."""
    if post == "semantic":
        return torch.stack([results["labels"].long(), results["labels"].long()], -1)
    if post == "panoptic":
        ids = results["ids"].long()
        labels = torch.full((int(ids.max()) + 1,), -1)
        for segment, label in zip(results["segment_ids"].tolist(), results["segment_labels"].tolist(), strict=True):
            if segment:
                labels[segment] = label
        return torch.stack([ids, labels[ids]], -1)
    kept = results["scores"] >= threshold
    return _laid(results["masks"][kept], results["labels"][kept])


def _segment_map(
    processor: M2FImageProcessor, outputs: Any, sizes: list[tuple[int, int]], task: str | None = None
) -> Tensor:
    """(H, W, 2): segment and label of each pixel; 0 and -1 where there is none."""
    task = task or processor.task
    if task == "semantic":
        labels: Any = processor.post_process_semantic_segmentation(outputs, target_sizes=sizes)[0]
        return torch.stack([labels, labels], -1)
    if task == "panoptic":
        (result,) = processor.post_process_panoptic_segmentation(outputs, target_sizes=sizes)
        ids, labels = result["segmentation"].long(), torch.full((len(result["segments_info"]) + 1,), -1)
        for info in result["segments_info"]:
            labels[info["id"]] = info["label_id"]
        return torch.stack([ids, labels[ids]], -1)
    (result,) = processor.post_process_instance_segmentation(outputs, target_sizes=sizes, return_binary_maps=True)
    labels = torch.tensor([info["label_id"] for info in result["segments_info"]], dtype=torch.long)
    return _laid(result["segmentation"], labels)


def _laid(masks: Tensor, labels: Tensor) -> Tensor:
    """Masks (N, H, W), best first, on one map; the better ones on top."""
    out = torch.tensor([0, -1]).repeat(*masks.shape[1:], 1)
    for index in reversed(range(len(masks))):
        out[masks[index].bool()] = torch.tensor([index + 1, int(labels[index])])
    return out


class _Tally:
    def __init__(self):
        self._pixels = self._equal = self._segments = self._found = 0

    def add(self, theirs: Tensor, ours: Tensor):
        """Two maps of one image, see `_segment_map`; numbers of segments need not agree, their pixels must."""
        height, width = ours.shape[:2]
        pairs, counts = torch.cat([theirs, ours], -1).flatten(0, 1).unique(dim=0, return_counts=True)
        areas = [_areas(x) for x in (theirs, ours)]
        matched, equal = 0, 0
        for (their_id, their_label, our_id, our_label), count in zip(pairs.tolist(), counts.tolist(), strict=True):
            both = their_label == our_label
            if both and their_label == -1:
                equal += count
                continue
            if not both:
                continue
            union = areas[0][their_id, their_label] + areas[1][our_id, our_label] - count
            if count > 0.5 * union:
                matched += 1
                equal += count
        segments = [sum(label != -1 for _, label in of) for of in areas]
        self._pixels += height * width
        self._equal += equal
        self._found += matched
        self._segments += sum(segments) - matched

    def agreement(self, images: int, logits: float | None) -> Agreement:
        segments = self._found / self._segments if self._segments else None
        return Agreement(images, logits, self._equal / max(1, self._pixels), segments)


def _areas(segment_map: Tensor) -> dict[tuple[int, int], int]:
    pairs, counts = segment_map.flatten(0, 1).unique(dim=0, return_counts=True)
    return {(a, b): count for (a, b), count in zip(pairs.tolist(), counts.tolist(), strict=True)}


def _relative_difference(found: Tensor, wanted: Tensor) -> float:
    """NaN counts as infinitely far."""
    difference = float((found.float() - wanted.float()).abs().max() / wanted.float().abs().max().clamp(min=1e-6))
    return difference if difference == difference else float("inf")
