"""Predictions in the official formats: COCO's results json, COCO panoptic's json and PNG, and PNG label maps."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from PIL import Image

from m2f.output.write_errors import naming

INSTANCES, PANOPTIC, SEMANTIC = "instances.json", "panoptic", "semantic"
_MAX_8_BITS, _MAX_16_BITS = 255, 65535


@dataclass(frozen=True)
class PredictedImage:
    """Of which image a prediction is."""

    index: int  # which decides the order in a json
    image_id: int | str
    name: str  # its file in the dataset
    size: tuple[int, int]  # (height, width)


class InstanceFile:
    """COCO's results json (https://cocodataset.org/#format-results), which pycocotools' `loadRes` reads: image_id,
    category_id, segmentation (compressed RLE) and score of each instance.

    Args:
        folder: where `instances.json` is written.
        category_ids: the dataset's number of each label.
    """

    def __init__(self, folder: Path, category_ids: Sequence[int]):
        self.path = folder / INSTANCES
        self.category_ids = category_ids

    def add(self, image: PredictedImage, prediction: Mapping[str, Any]) -> str:
        """The lines of an image.

        Args:
            prediction: of `post_process_instance_segmentation(..., return_coco_annotation=True)`.
        """
        pairs = zip(prediction["segmentation"], prediction["segments_info"], strict=True)
        return ",\n".join(
            json.dumps(
                {
                    "image_id": image.image_id,
                    "category_id": self.category_ids[info["label_id"]],
                    "segmentation": rle,
                    "score": info["score"],
                }
            )
            for rle, info in pairs
        )

    def finish(self, lines: Sequence[str]):
        """Write the file from what `add` gave for all images."""
        with naming(self.path):
            self.path.write_text("[\n" + ",\n".join(filter(None, lines)) + "\n]\n", encoding="utf-8")


class PanopticFiles:
    """COCO's panoptic format (https://cocodataset.org/#format-results): a PNG for each image, whose colours are
    segment ids, and a json that gives the segments' categories; with its images and categories, it can be opened as a
    dataset too.

    Args:
        folder: where `panoptic.json` and the folder `panoptic` are written.
        names: all images' files in the dataset.
        category_ids: the dataset's number of each label.
        id2label: the labels' names.
        things: the labels that are things.
    """

    def __init__(
        self,
        folder: Path,
        names: Sequence[str],
        category_ids: Sequence[int],
        id2label: Mapping[int, str],
        things: Sequence[int],
    ):
        self.folder = folder / PANOPTIC
        self.path = folder / f"{PANOPTIC}.json"
        self.category_ids = category_ids
        self._png_names = png_names(names)
        self._categories = [
            {"id": category_ids[label], "name": name, "isthing": int(label in things)}
            for label, name in sorted(id2label.items())
        ]

    def add(self, image: PredictedImage, prediction: Mapping[str, Any]) -> str:
        """Write an image's PNG; gives its part of the json.

        Args:
            prediction: of `post_process_panoptic_segmentation`.
        """
        ids = torch.as_tensor(prediction["segmentation"]).cpu().numpy()
        colours = np.stack([ids & 255, ids >> 8 & 255, ids >> 16 & 255], axis=-1).astype(np.uint8)
        file_name = self._png_names[image.index]
        _save(Image.fromarray(colours), self.folder / file_name)
        areas = np.bincount(ids.ravel())
        infos = [
            {
                "id": info["id"],
                "category_id": self.category_ids[info["label_id"]],
                "area": int(areas[info["id"]]),
                "iscrowd": 0,
                "score": info["score"],
            }
            for info in prediction["segments_info"]
        ]
        height, width = image.size
        fields = {"id": image.image_id, "file_name": image.name, "height": height, "width": width}
        annotation = {"image_id": image.image_id, "file_name": file_name, "segments_info": infos}
        return json.dumps({"image": fields, "annotation": annotation})

    def finish(self, lines: Sequence[str]):
        """Write the json from what `add` gave for all images."""
        parts = [json.loads(line) for line in lines]
        content = {
            "images": [part["image"] for part in parts],
            "annotations": [part["annotation"] for part in parts],
            "categories": self._categories,
        }
        with naming(self.path):
            self.path.write_text(json.dumps(content) + "\n", encoding="utf-8")


class SemanticFiles:
    """A PNG for each image with one number per pixel: 8 bits, or 16 where a number needs them.

    Args:
        folder: where the folder `semantic` is written.
        names: all images' files in the dataset.
        values: the dataset's number of each label.

    Raises:
        ValueError: a number does not fit into 16 bits.
    """

    def __init__(self, folder: Path, names: Sequence[str], values: Sequence[int]):
        if not 0 <= min(values) <= max(values) <= _MAX_16_BITS:
            raise ValueError(f"labels from {min(values)} to {max(values)} do not fit into a PNG; 0 to 65535 do")
        self.folder = folder / SEMANTIC
        self._png_names = png_names(names)
        self._values = np.array(values, np.uint8 if max(values) <= _MAX_8_BITS else np.uint16)

    def add(self, image: PredictedImage, prediction: Any) -> str:
        """Write an image's PNG.

        Args:
            prediction: (H, W) labels, of `post_process_semantic_segmentation`.
        """
        labels = torch.as_tensor(prediction).cpu().numpy()
        _save(Image.fromarray(self._values[labels]), self.folder / self._png_names[image.index])
        return ""

    def finish(self, lines: Sequence[str]):
        """All is written already."""


def png_names(names: Sequence[str]) -> list[str]:
    """A PNG's name for each image, relative to a folder that it never leaves: the image's own with another ending.
    Where two images would get one name, all get their number too."""
    paths = [PurePosixPath(*(part for part in PurePosixPath(name).parts if part not in ("/", ".."))) for name in names]
    plain = [str(path.with_suffix(".png")) for path in paths]
    if len(set(plain)) == len(plain):
        return plain
    return [f"{path}.{number}.png" for number, path in enumerate(paths)]


def _save(image: Image.Image, path: Path):
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming(path):
        image.save(path)
