"""What FiftyOne 1.22 asks of a model of universal segmentation, in its order, and FiftyOne itself where it can be
imported; it needs torchvision for that.

Its wrapper loads config, processor and model by transformers' Auto classes, prepares images together or one by one in
the workers of a loader, and reads the results of the three post-processing methods.
"""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from object_reader import NAMES, THINGS, ObjectReader, Thing, draw
from PIL import Image
from small_models import small_model
from torch import nn
from transformers import AutoConfig, AutoModelForUniversalSegmentation, AutoProcessor, BatchFeature

from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation

SCENES = {  # by their sizes
    (64, 96): [Thing(1, 0, 0.9, 8, 4, 40, 16), Thing(2, 1, 0.8, 8, 20, 40, 40), Thing(3, 2, 0.7, 44, 0, 64, 96)],
    (48, 64): [Thing(4, 0, 0.6, 8, 4, 16, 16), Thing(5, 0, 0.8, 8, 20, 40, 40)],
}
IMAGES = [draw(size, things) for size, things in SCENES.items()]


class Found(NamedTuple):
    label: str
    confidence: float
    mask: np.ndarray


class Wrapper:
    """The calls, and no more of FiftyOne.

    folder: the checkpoint. model: in place of the folder's. confidence: None gives a threshold of 0, and so all.
    """

    def __init__(self, folder: Path, task: str, model: nn.Module | None = None, confidence: float | None = None):
        place = {"pretrained_model_name_or_path": folder, "cache_dir": folder}
        names = AutoConfig.from_pretrained(folder, cache_dir=folder).id2label
        self.classes = [names[label] for label in range(len(names))]
        self.model = AutoModelForUniversalSegmentation.from_pretrained(**place) if model is None else model
        self.model = self.model.to(torch.device("cpu")).eval()
        self.processor = AutoProcessor.from_pretrained(use_fast=True, **place)
        assert "task_inputs" not in inspect.signature(self.processor.__call__).parameters  # OneFormer's
        self.task, self.confidence = task, confidence

    @property
    def is_ragged(self) -> bool:
        """Whether images of different sizes are prepared to different sizes, so that a loader must not stack them."""
        size = self.processor.size
        if size.get("height") and size.get("width"):
            return False
        edges = [edge for edge in ("shortest_edge", "longest_edge") if size.get(edge)]
        return not self.processor.do_pad if len(edges) == 2 else len(edges) == 1

    def prepare(self, images: Image.Image | list[Image.Image]) -> BatchFeature:
        inputs = self.processor(images=images, return_tensors="pt")
        sizes = [image.size[::-1] for image in (images if isinstance(images, list) else [images])]
        inputs.update({"fo_image_size": torch.tensor(sizes)})
        return inputs

    def predict(self, inputs: BatchFeature | dict) -> list:
        target_sizes = [tuple(size) for size in inputs.pop("fo_image_size").tolist()]
        for name, tensor in inputs.items():
            inputs[name] = tensor.to(torch.device("cpu"))
        with torch.no_grad():
            outputs = self.model(**inputs, output_hidden_states=False)
        if self.task == "semantic":
            maps = self.processor.post_process_semantic_segmentation(outputs, target_sizes=target_sizes)
            return [found.cpu().numpy().astype(np.int16) + 1 for found in maps]  # 0 is its background
        threshold = 0.0 if self.confidence is None else self.confidence
        fields = {"threshold": threshold, "mask_threshold": 0.5, "overlap_mask_area_threshold": 0.8}
        fields["target_sizes"] = target_sizes
        if self.task == "panoptic":
            results = self.processor.post_process_panoptic_segmentation(outputs, **fields)
        else:
            method = self.processor.post_process_instance_segmentation
            assert "return_binary_maps" in inspect.signature(method).parameters
            results = method(outputs, **fields, return_binary_maps=True)
        return [list(self.detections(result)) for result in results]

    def detections(self, result: dict) -> Iterator[Found]:
        pixels = result["segmentation"].cpu().numpy()
        for number, segment in enumerate(result["segments_info"]):
            mask = pixels == segment["id"] if self.task == "panoptic" else pixels[number] > 0
            if mask.any():
                yield Found(self.classes[int(segment["label_id"])], segment.get("score", 1.0), mask)


def collated(batch: list[BatchFeature]) -> dict[str, torch.Tensor]:
    """Tensors of one image each, padded with 0 to the largest."""
    return {name: torch.cat(list(padded([inputs[name] for inputs in batch]))) for name in batch[0]}


def padded(tensors: list[torch.Tensor]) -> Iterator[torch.Tensor]:
    largest = [max(edges) for edges in zip(*(tensor.shape for tensor in tensors), strict=True)]
    for tensor in tensors:
        missing = [most - edge for most, edge in zip(largest[1:], tensor.shape[1:], strict=True)]
        yield nn.functional.pad(tensor, [amount for edge in reversed(missing) for amount in (0, edge)])


class Reader(ObjectReader):
    def forward(self, pixel_values, pixel_mask, output_hidden_states):
        return super().forward(pixel_values, pixel_mask)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    names = dict(enumerate(NAMES))
    small_model(id2label=names, num_labels=len(names), thing_label_ids=THINGS).save_pretrained(folder)
    size = {"shortest_edge": 64, "longest_edge": 96}
    M2FImageProcessor(task="panoptic", thing_label_ids=THINGS, size=size).save_pretrained(folder)
    return folder


def reader(folder: Path, task: str) -> Wrapper:
    """Which finds what is drawn, in images as large as they are."""
    wrapper = Wrapper(folder, task, Reader(M2FImageProcessor(size_divisor=4)), 0.5)
    wrapper.processor.do_resize = False
    return wrapper


@pytest.mark.parametrize("task", ["instance", "panoptic"])
def test_detections_are_the_objects(folder, task):
    """But for their corners, which resizing rounds. Stuff is in a panoptic result alone; instances are best first."""
    wrapper = reader(folder, task)
    for found, (size, things) in zip(wrapper.predict(wrapper.prepare(IMAGES)), SCENES.items(), strict=True):
        wanted = [thing for thing in things if task == "panoptic" or thing.label_id in THINGS]
        assert len(found) == len(wanted)
        scores = [entry.confidence for entry in found]
        assert task == "panoptic" or scores == sorted(scores, reverse=True)
        for thing in wanted:
            (entry,) = [entry for entry in found if (entry.mask & thing.mask(size)).any()]
            assert entry.mask.shape == size and (entry.mask ^ thing.mask(size)).sum() <= 4
            assert (entry.label, entry.confidence) == (NAMES[thing.label_id], pytest.approx(thing.score, abs=0.05))


def test_maps_of_classes_are_those_of_the_objects(folder):
    wrapper = reader(folder, "semantic")
    for found, (size, things) in zip(wrapper.predict(wrapper.prepare(IMAGES)), SCENES.items(), strict=True):
        assert found.shape == size
        for thing in things:
            assert set(found[thing.mask(size)].tolist()) == {thing.label_id + 1}


@pytest.mark.parametrize("task", ["instance", "panoptic", "semantic"])
def test_images_of_a_loader_give_what_a_batch_gives(folder, task):
    """The loaded model, of random weights; each image is prepared by itself."""
    wrapper = Wrapper(folder, task)
    assert type(wrapper.model) is M2FForUniversalSegmentation and type(wrapper.processor) is M2FImageProcessor
    assert wrapper.classes == list(NAMES) and not wrapper.is_ragged
    together = wrapper.prepare(IMAGES)
    apart = collated([wrapper.prepare(image) for image in IMAGES])
    assert together.keys() == apart.keys() and all(torch.equal(together[name], apart[name]) for name in apart)
    for found, again, size in zip(wrapper.predict(together), wrapper.predict(apart), SCENES, strict=True):
        masks = [found] if task == "semantic" else [entry.mask for entry in found]
        assert masks and all(mask.shape == size for mask in masks)
        np.testing.assert_equal(found, again)


@pytest.mark.parametrize("task", ["instance", "panoptic", "semantic"])
def test_fiftyones_own_wrapper_gives_the_same(folder, task, monkeypatch):
    # RuntimeError: torchvision, which it asks for, of another build than torch.
    models = pytest.importorskip("fiftyone.utils.transformers", exc_type=(ImportError, RuntimeError))
    monkeypatch.setattr("fiftyone.config.model_zoo_dir", str(folder))
    config = models.FiftyOneTransformerForUniversalSegmentationConfig({"name_or_path": str(folder), "task": task})
    with models.FiftyOneTransformerForUniversalSegmentation(config) as model:
        results = model.predict_all(IMAGES)
    wrapper = Wrapper(folder, task)
    for result, expected in zip(results, wrapper.predict(wrapper.prepare(IMAGES)), strict=True):
        if task == "semantic":
            np.testing.assert_array_equal(result.mask, expected)
            continue
        found = [(entry.label, entry.confidence, int(entry.mask.sum())) for entry in result.detections]
        assert found == [(entry.label, entry.confidence, int(entry.mask.sum())) for entry in expected]
