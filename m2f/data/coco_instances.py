"""COCO instance annotations: one json file and a folder of images (https://cocodataset.org/#format-data)."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

_REQUIRED_KEYS = {
    "images": ("id", "file_name", "height", "width"),
    "categories": ("id", "name"),
    "annotations": ("id", "image_id", "category_id", "segmentation"),
}
_MIN_POLYGON_NUMBERS = 6  # x and y of three points


class InstanceSample(NamedTuple):
    """One image with its N instances."""

    image: Image.Image  # RGB, W x H
    masks: np.ndarray  # (N, H, W) uint8 of 0 and 1; instances may overlap
    class_ids: np.ndarray  # (N,) int64 in [0, K), positions in `CocoInstances.category_ids`
    image_id: int


class CocoInstances:
    """A map-style dataset of `InstanceSample`; images and masks are decoded when an item is asked for.

    Classes are numbered from 0 in ascending order of the category ids, which may have gaps. Crowd regions
    (`iscrowd` 1) cover groups of objects and are left out, as in the original's training.

    Args:
        annotation_file: json with "images", "categories" and "annotations".
        image_folder: folder that the images' `file_name` are relative to; the json's folder by default.

    Raises:
        FileNotFoundError: no annotation file, or (for an item) no image.
        ValueError: not such a json: a key is missing, an id appears twice, or an annotation names an unknown image or
            category; for an item: a segmentation that cannot be decoded, or an image of another size than the json
            says. The message names the file and the annotation id.
    """

    def __init__(self, annotation_file: str | Path, image_folder: str | Path | None = None):
        self.annotation_file = Path(annotation_file)
        self.image_folder = self.annotation_file.parent if image_folder is None else Path(image_folder)
        content = _read_json(self.annotation_file)
        categories = self._by_id(content["categories"], "category")
        self.category_ids = sorted(categories)
        self.id2label = {i: categories[category]["name"] for i, category in enumerate(self.category_ids)}
        self.images = list(self._by_id(content["images"], "image").values())
        self._annotations = self._annotations_by_image(content["annotations"])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> InstanceSample:
        entry = self.images[index]
        annotations = self._annotations[entry["id"]]
        masks = np.zeros((len(annotations), entry["height"], entry["width"]), np.uint8)
        for mask, annotation in zip(masks, annotations, strict=True):
            mask[:] = self._decode(annotation, entry["height"], entry["width"])
        classes = [self.category_ids.index(annotation["category_id"]) for annotation in annotations]
        return InstanceSample(self._open_image(entry), masks, np.array(classes, np.int64), entry["id"])

    def _by_id(self, entries: list[dict], kind: str) -> dict[int, dict]:
        by_id = {entry["id"]: entry for entry in entries}
        if len(by_id) < len(entries):
            ids = [entry["id"] for entry in entries]
            twice = sorted({i for i in ids if ids.count(i) > 1})
            raise ValueError(f"{self.annotation_file}: {kind} ids appear more than once: {twice[:10]}")
        return by_id

    def _annotations_by_image(self, annotations: list[dict]) -> dict[int, list[dict]]:
        grouped = {image["id"]: [] for image in self.images}
        known_categories = set(self.category_ids)
        for annotation in annotations:
            if annotation["image_id"] not in grouped:
                self._refuse(annotation, f"image_id {annotation['image_id']} is not among the images")
            if annotation["category_id"] not in known_categories:
                known = f"the categories {self.category_ids}"
                self._refuse(annotation, f"category_id {annotation['category_id']} is not among {known}")
            if not annotation.get("iscrowd", 0):
                grouped[annotation["image_id"]].append(annotation)
        return grouped

    def _open_image(self, entry: dict) -> Image.Image:
        path = self.image_folder / entry["file_name"]
        if not path.is_file():
            raise FileNotFoundError(f"no such image: {path} (image {entry['id']} of {self.annotation_file})")
        try:
            with Image.open(path) as file:
                image = file.convert("RGB")
        except OSError as error:
            raise ValueError(f"cannot decode {path} as an image: {error}") from error
        if image.size != (entry["width"], entry["height"]):
            raise ValueError(
                f"{path} is {image.height} x {image.width} (height x width), but {self.annotation_file} says "
                f"{entry['height']} x {entry['width']} for image {entry['id']}; its masks would not fit"
            )
        return image

    def _decode(self, annotation: dict, height: int, width: int) -> np.ndarray:
        try:
            return decode_segmentation(annotation["segmentation"], height, width)
        except ValueError as error:
            self._refuse(annotation, str(error), error)

    def _refuse(self, annotation: dict, reason: str, cause: Exception | None = None):
        raise ValueError(f"{self.annotation_file}, annotation {annotation['id']}: {reason}") from cause


def decode_segmentation(segmentation: Any, height: int, width: int) -> np.ndarray:
    """(H, W) uint8 mask of 0 and 1 from COCO's "segmentation" entry in any of its three forms.

    Args:
        segmentation: a list of polygons [x0, y0, x1, y1, ...], in pixels; or {"size": [H, W], "counts": ...} with the
            counts compressed (str) or not (list of run lengths).

    Raises:
        ValueError: none of these; a polygon with fewer than three points; runs that do not fill height x width.
    """
    from pycocotools import mask as coco_mask

    if isinstance(segmentation, dict):
        rle = _checked_rle(segmentation, height, width)
        if isinstance(rle["counts"], list):
            rle = coco_mask.frPyObjects(rle, height, width)
        return coco_mask.decode(rle)
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError(f"segmentation is neither a list of polygons nor an RLE: {str(segmentation)[:80]!r}")
    for polygon in segmentation:
        if not isinstance(polygon, list) or len(polygon) < _MIN_POLYGON_NUMBERS or len(polygon) % 2:
            raise ValueError(
                f"a polygon needs x and y of at least 3 points, a flat list of an even count: {str(polygon)[:80]!r}"
            )
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width)))


def _checked_rle(rle: dict, height: int, width: int) -> dict:
    size, counts = rle.get("size"), rle.get("counts")
    if not isinstance(size, list) or [height, width] != size:
        raise ValueError(f"the RLE's size is {size}, but the image is {[height, width]} (height, width)")
    if isinstance(counts, list):
        if min(counts, default=0) < 0 or sum(counts) != height * width:
            raise ValueError(f"the RLE's runs sum to {sum(counts)}; {height} x {width} = {height * width} is needed")
    elif not isinstance(counts, str):
        raise ValueError(f"the RLE's counts are of type {type(counts).__name__}; a string or a list is needed")
    return rle


def _read_json(path: Path) -> dict[str, list]:
    with open(path, encoding="utf-8") as file:
        try:
            content = json.load(file)
        except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
            raise ValueError(f"{path} is not a json file: {error}") from error
    for section, keys in _REQUIRED_KEYS.items():
        if not isinstance(content, dict) or not isinstance(content.get(section), list):
            raise ValueError(f"{path} has no list {section!r}; a COCO instance json has {', '.join(_REQUIRED_KEYS)}")
        for position, entry in enumerate(content[section]):
            missing = [key for key in keys if not isinstance(entry, dict) or key not in entry]
            if missing:
                name = entry.get("id", f"number {position}") if isinstance(entry, dict) else f"number {position}"
                raise ValueError(f"{path}: entry {name} of {section!r} has no {', '.join(map(repr, missing))}")
    return content
