"""COCO's instances (https://cocodataset.org/#format-data) as run lengths or polygons, and its panoptic pictures."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from m2f.output.write_errors import naming
from m2f.output_formats.format_writer import FormatWriter, ListWriter
from m2f.output_formats.mask_outlines import Part, part_polygons
from m2f.output_formats.saved_image import Outliner, SavedImage, SavedObject, polygon_numbers

SPLIT = "train"


class CocoRunLengths(FormatWriter):
    """`instances_train.json`, exact. Categories are counted from 1, as some programs take 0 for the background."""

    image_folder = SPLIT
    stem = f"instances_{SPLIT}"

    def __init__(self, folder: Path, id2label: Mapping[int, str], outliner: Outliner):
        super().__init__(folder, id2label, outliner)
        self.images: list[dict[str, Any]] = []
        self._annotations = 0
        # The annotations come first, as they are written image by image.
        self._list = ListWriter(folder / f"{self.stem}.json", '{"annotations": [')

    def add(self, image: SavedImage):
        self._add_image(image)
        for entry in image.objects:
            self._annotations += 1
            left, top, right, bottom = entry.box
            self._list.add(
                {
                    "id": self._annotations,
                    "image_id": len(self.images),
                    "category_id": self.number_of[entry.label_id] + 1,
                    "segmentation": self.segmentation(entry, image),
                    "bbox": [left, top, right - left, bottom - top],
                    "area": entry.area,
                    "iscrowd": 0,
                    "score": entry.score,
                }
            )

    def finish(self):
        rest = json.dumps({"images": self.images, "categories": self.categories()})
        self._list.finish(f"\n], {rest[1:]}\n")

    def close(self):
        self._list.close()

    def segmentation(self, entry: SavedObject, image: SavedImage) -> Any:
        return entry.run_lengths(image.size)

    def categories(self) -> list[dict[str, Any]]:
        return [{"id": self.number_of[label] + 1, "name": name} for label, name in self.id2label.items()]

    def _add_image(self, image: SavedImage):
        height, width = image.size
        name = f"{self.image_folder}/{image.file_name}"
        self.images.append({"id": len(self.images) + 1, "file_name": name, "width": width, "height": height})


class CocoPolygons(CocoRunLengths):
    """The same with a polygon for each part of an object."""

    parts_are = "each part a polygon"

    def segmentation(self, entry: SavedObject, image: SavedImage) -> Any:
        return coco_polygons(self.outliner.parts(entry))


class CocoPanoptic(CocoRunLengths):
    """`panoptic_train.json` and pictures of ids, id = R + 256 G + 65536 B
    (https://cocodataset.org/#format-data, 4). A pixel has one segment: the best of those that overlap."""

    stem = f"panoptic_{SPLIT}"

    def __init__(self, folder: Path, id2label: Mapping[int, str], outliner: Outliner, things: frozenset[int]):
        super().__init__(folder, id2label, outliner)
        self._things, self._covered, self._hidden = things, 0, 0

    def add(self, image: SavedImage):
        self._add_image(image)
        numbers = image.number_map()
        areas = np.bincount(numbers.ravel(), minlength=len(image.objects) + 1)[1:]
        self._covered += sum(0 < area < entry.area for area, entry in zip(areas, image.objects, strict=True))
        self._hidden += int((areas == 0).sum())
        name = f"{image.file_name}.png"
        self._save(numbers, self.folder / self.stem / name)
        infos = [
            {**_info(numbers, number), "category_id": self.number_of[entry.label_id] + 1, "score": entry.score}
            for number, entry in enumerate(image.objects, start=1)
            if areas[number - 1]
        ]
        self._list.add({"image_id": len(self.images), "file_name": name, "segments_info": infos})

    def categories(self) -> list[dict[str, Any]]:
        labels = zip(super().categories(), self.id2label, strict=True)
        return [{**category, "isthing": int(label in self._things)} for category, label in labels]

    def remarks(self) -> list[str]:
        counts = ((self._covered, "partly"), (self._hidden, "wholly and so left out"))
        return [f"objects {how} under better ones: {count}" for count, how in counts if count]

    def _save(self, numbers: np.ndarray, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        colours = np.stack([numbers & 255, numbers >> 8 & 255, numbers >> 16], -1).astype(np.uint8)
        with naming(path):
            Image.fromarray(colours).save(path, "PNG")


def coco_polygons(parts: list[Part]) -> list[list[float]]:
    """The "segmentation" of an annotation."""
    return [polygon_numbers(polygon) for polygon in part_polygons(parts)]


def _info(numbers: np.ndarray, number: int) -> dict[str, Any]:
    rows, columns = np.nonzero(numbers == number)
    left, top = int(columns.min()), int(rows.min())
    box = [left, top, int(columns.max()) + 1 - left, int(rows.max()) + 1 - top]
    return {"id": number, "area": len(rows), "bbox": box, "iscrowd": 0}
