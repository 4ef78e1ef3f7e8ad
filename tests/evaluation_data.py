"""Datasets on disk of images that tell their labels by colour, and a model that reads them and errs a little."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from shapes_dataset import NAMES, THINGS, ShapesDataset
from torch import nn
from transformers.modeling_outputs import ModelOutput

from m2f.image_processing.image_processing_m2f import M2FImageProcessor

# With gaps and in another order than the labels, so that no number can stand for another.
CATEGORIES = [{"id": 7, "name": "blue", "isthing": 0}, {"id": 2, "name": "red"}, {"id": 5, "name": "green"}]
CATEGORY_OF = {"red": 2, "green": 5, "blue": 7}
CROWDED = 2  # the first image with all classes


class ColourReader(nn.Module):
    """A query for each colour, moved to the right by `shift` cells of 4 pixels, for green by twice as much."""

    def __init__(self, processor, task: str, shift: int = 0, names=NAMES):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.processor = processor
        self.config = SimpleNamespace(id2label=dict(enumerate(names)), task=task)
        self.order = [NAMES.index(name) for name in names]  # the colour of each class
        self.shift = shift
        self.shapes: list[tuple[int, ...]] = []
        self.has_padding: list[bool] = []

    def forward(self, pixel_values, pixel_mask):
        self.shapes.append(tuple(pixel_values.shape))
        self.has_padding.append(bool((pixel_mask == 0).any()))
        mean, std = (torch.tensor(x).view(3, 1, 1) for x in (self.processor.image_mean, self.processor.image_std))
        bright = ((pixel_values * std + mean) > 0.5) & (pixel_mask[:, None] == 1)
        bright = bright[:, self.order, 2::4, 2::4]
        moves = [self.shift * (1 + (colour == 1)) for colour in self.order]
        moved = torch.stack([bright[:, i].roll(move, -1) for i, move in enumerate(moves)], 1)
        classes = torch.full((len(moved), 3, 4), -20.0)
        for label in range(3):
            there = bright[:, label].flatten(1).any(1)
            classes[:, label, label] = torch.where(there, 2.0 + label, -20.0)
            classes[:, label, 3] = torch.where(there, -20.0, 20.0)
        sizes = torch.stack([pixel_mask[:, :, 0].sum(1), pixel_mask[:, 0].sum(1)], 1)
        return ModelOutput(
            class_queries_logits=classes, masks_queries_logits=torch.where(moved, 9.0, -9.0), valid_sizes=sizes
        )


def colour_reader(task: str, shift: int = 0, names=NAMES) -> ColourReader:
    """With a processor that leaves images as large as they are."""
    things = None if task != "panoptic" else sorted(names.index(NAMES[label]) for label in THINGS["panoptic"])
    return ColourReader(M2FImageProcessor(task=task, thing_label_ids=things, do_resize=False), task, shift, names)


def shapes(count: int, task: str):
    """Samples of two sizes, alternately."""
    datasets = [ShapesDataset(count, task, size=size) for size in (64, 96)]
    return [datasets[index % 2][index] for index in range(count)]


def write_instances(folder: Path, count: int = 5) -> Path:
    """COCO instances; image `CROWDED` has a crowd of red, and areas are not those of the masks."""
    images, annotations = [], []
    for index, sample in enumerate(shapes(count, "instance")):
        height, width = sample.segments.size
        # Ids that descend, as in no other order that a result could be in by accident.
        image_id = 100 - index
        images.append({"id": image_id, "file_name": sample.name, "height": height, "width": width})
        for mask, label in zip(sample.segments.masks(), sample.segments.class_ids, strict=True):
            rle = coco_mask.encode(np.asfortranarray(mask))
            entry = {"image_id": image_id, "category_id": CATEGORY_OF[NAMES[label]], "id": len(annotations) + 1}
            entry |= {"segmentation": {**rle, "counts": rle["counts"].decode()}, "bbox": [0, 0, 1, 1]}
            is_crowd = int(index == CROWDED and label == 0)
            annotations.append({**entry, "iscrowd": is_crowd, "area": float(mask.sum()) * 4})
        _save(sample.image, folder / "val" / sample.name)
    path = folder / "instances_val.json"
    categories = [{"id": entry["id"], "name": entry["name"]} for entry in CATEGORIES]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def write_panoptic(folder: Path, count: int = 5) -> Path:
    """COCO panoptic; in image `CROWDED` red is a crowd. Pixels without a segment are void."""
    images, annotations = [], []
    for index, sample in enumerate(shapes(count, "panoptic")):
        height, width = sample.segments.size
        images.append({"id": 100 - index, "file_name": sample.name, "height": height, "width": width})
        ids = np.where(sample.segments.ids[0] >= 0, 300 + 10 * sample.segments.ids[0], 0)
        infos = [
            {
                "id": 300 + 10 * number,
                "category_id": CATEGORY_OF[NAMES[label]],
                "iscrowd": int(index == CROWDED and label == 0),
            }
            for number, label in enumerate(sample.segments.class_ids.tolist())
        ]
        colours = np.stack([ids & 255, ids >> 8, 0 * ids], -1).astype(np.uint8)
        _save(Image.fromarray(colours), folder / "panoptic_val" / sample.name)
        annotations.append({"image_id": 100 - index, "file_name": sample.name, "segments_info": infos})
        _save(sample.image, folder / "val" / sample.name)
    path = folder / "panoptic_val.json"
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    path.write_text(json.dumps(content))
    return path


def write_semantic(folder: Path, count: int = 5) -> Path:
    """Label maps; 255 where no class is known."""
    for sample in shapes(count, "semantic"):
        ids = sample.segments.ids[0]
        labels = np.append(sample.segments.class_ids, [255, 255])[ids].astype(np.uint8)  # for -2 and -1
        _save(sample.image, folder / "images" / "val" / sample.name)
        _save(Image.fromarray(labels), folder / "annotations" / "val" / sample.name)
    (folder / "id2label.json").write_text(json.dumps(dict(enumerate(NAMES))))
    return folder


def _save(image: Image.Image, path: Path):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
