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
from m2f.exported.graph_runtimes import Runner, open_graph
from m2f.exported.layer_probe import first_difference, relative_difference
from m2f.exported.portable_network import PortableNetwork
from m2f.image_processing.band_image import PixelImage
from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation
from m2f.modeling_m2f.pixel_values import image_sizes

# By the type of the weights, or what was compressed: the largest difference of a logit, as share of the largest logit,
# and the least share of pixels with the same result. A difference may move the border of an attention mask, and then
# more than roundings.
LIMITS = {
    "float32": (1e-2, 0.995),
    "float16": (0.25, 0.97),
    "bfloat16": (0.5, 0.9),
    "int8-weights": (0.5, 0.95),
}


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
    found = compare_export(graph, model, images)
    most, least = _limits(read_description(graph)[1])
    if found.pixels < least or (found.logits or 0) > most:
        raise ExportDisagreesError(
            f"the graph disagrees with its model: {found.line()}; at least {least:.1%} of the pixels"
            + ("" if found.logits is None else f" and a difference of at most {most:g}")
            + " are needed"
        )
    return found


def _limits(form: GraphForm) -> tuple[float, float]:
    return LIMITS[form.dtype if form.compress == "none" else form.compress]


def differing_layer(graph: Path, model: M2FForUniversalSegmentation, image: PixelImage) -> str:
    """Where a graph leaves its model, in words: see `first_difference`."""
    description, form = read_description(graph)
    processor = M2FImageProcessor.from_dict(description["processor"])
    prepared = processor(image, return_tensors="pt")
    inputs = _graph_inputs(form, prepared["pixel_values"], image_sizes(**prepared))
    return first_difference(PortableNetwork(model, processor, form).eval(), form, inputs, _limits(form)[0])


def compare_export(graph: Path, model: M2FForUniversalSegmentation, images: Sequence[PixelImage]) -> Agreement:
    """What a graph and its model find in the images, at their own size; finished results at the network's."""
    description, form = read_description(graph)
    processor = M2FImageProcessor.from_dict(description["processor"])
    network: Any = ExportedNetwork(graph) if form.post == "none" else open_graph(graph, form)
    differences: list[float] = []
    tally = _Tally()
    for image in images:
        inputs = processor(image, return_tensors="pt")
        with torch.inference_mode():
            ours = model(**inputs)
            if form.post == "none":
                theirs, task, size = network(**inputs), processor.task, (image.height, image.width)
                differences += [relative_difference(theirs[name], ours[name]) for name in form.outputs]
                found = _segment_map(processor, theirs, size, task)
            else:
                task, size = form.post, ours.valid_sizes[0].tolist()
                found = _finished_results(network, form, inputs["pixel_values"], ours.valid_sizes)
        tally.add(found[: size[0], : size[1]], _segment_map(processor, ours, size, task))
    return tally.agreement(len(images), max(differences, default=0.0) if form.post == "none" else None)


def _finished_results(run: Runner, form: GraphForm, pixel_values: Tensor, sizes: Tensor) -> Tensor:
    results = run(_graph_inputs(form, pixel_values, sizes))
    return finished_map({name: x[0] for name, x in zip(form.outputs, results, strict=True)}, form.post)


def _graph_inputs(form: GraphForm, pixel_values: Tensor, sizes: Tensor) -> list[Tensor]:
    """Of one image, repeated to the batch of the graph."""
    inputs = (pixel_values, sizes) if form.padding else (pixel_values,)
    return [x.expand(form.batch or 1, *x.shape[1:]) for x in inputs]


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


def _segment_map(processor: M2FImageProcessor, outputs: Any, size: Sequence[int], task: str) -> Tensor:
    """(H, W, 2): segment and label of each pixel; 0 and -1 where there is none."""
    sizes = [tuple(size)]
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
