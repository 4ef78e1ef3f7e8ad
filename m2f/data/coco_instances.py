"""COCO instance annotations: one json file and a folder of images (https://cocodataset.org/#format-data)."""

import math
from pathlib import Path
from typing import Any

from transformers.utils import logging

from m2f.data.coco_json import (
    ANYTHING,
    CATEGORY_RULES,
    FLAG,
    ID,
    IMAGE_RULES,
    INTEGER,
    PackedLists,
    by_id,
    coco_image_files,
    coco_images,
    read_sections,
)
from m2f.data.coco_masks import CocoObject, left_out_remarks, segments_of_objects, without_bad_parts
from m2f.data.coco_values import settled_segmentation
from m2f.data.crowd_regions import crowd_remarks, takes_as_objects
from m2f.data.dataset_paths import split_of_name
from m2f.data.image_reading import ImageFile
from m2f.data.segment_map import Sample
from m2f.image_processing.channel_counts import USUAL_CHANNELS
from m2f.image_processing.white_level import WhiteLevel
from m2f.output.safe_text import terminal_text

logger = logging.get_logger(__name__)

_RULES = {
    "images": IMAGE_RULES,
    "categories": CATEGORY_RULES,
    "annotations": {"id": ID, "image_id": ID, "category_id": INTEGER, "segmentation": ANYTHING, "iscrowd": FLAG},
}


class CocoInstances:
    """A `SegmentationDataset` of COCO instances: polygons, compressed and uncompressed RLE.

    Classes are numbered from 0 in ascending order of the category ids, which may have gaps.

    Args:
        annotation_file: json with "images", "categories" and "annotations".
        image_folder: folder that the images' `file_name` are relative to; searched for near the json by default.
        ignore_unknown: crowd regions (`iscrowd` 1), which cover groups of objects, are `IGNORED` where no object lies.
            Departure: the original drops them, so that their pixels count as background, as with False.
        drop_groups: leaves out the categories that only group others, as Roboflow's export has one with id 0: those
            without a supercategory (or "none") that are the supercategory of another.
        split: found in the file's name by default, else the name itself.
        crowd: "ignore", or "object" where crowd regions are objects as all others: annotation tools mark every mask
            that they write as run lengths.

    Attributes beside those of `SegmentationDataset`:
        category_ids: the json's id of each class.
        images: the json's entry of each image, of which `id` names it in predictions.
        remarks: (kind of finding, message) for what the json has of no use: crowd regions; and what is left out, with
            one warning: annotations of images that are not listed, polygons of fewer than three points, and
            annotations that have no other.

    Raises:
        FileNotFoundError: no annotation file, or (for an item) no image.
        ValueError: not such a json: a key is missing or has a wrong value, an id appears twice, an annotation names an
            unknown category, no annotation is of an image that is listed, none has a mask, no polygon reaches beyond
            1, or an image lies outside the folder; for an item: a segmentation or an image that cannot be decoded, or
            an image of another size
            than the json says. The message names the file and the annotation's id.
    """

    task = "instance"
    thing_label_ids = None

    white_level: WhiteLevel = None
    num_channels: int = USUAL_CHANNELS

    def __init__(
        self,
        annotation_file: str | Path,
        image_folder: str | Path | None = None,
        ignore_unknown: bool = True,
        drop_groups: bool = False,
        split: str | None = None,
        crowd: str = "ignore",
    ):
        self.annotation_file = Path(annotation_file)
        self.ignore_unknown = ignore_unknown
        self.format = "roboflow-coco" if drop_groups else "coco-instance"
        self.split = split or split_of_name(self.annotation_file.stem) or self.annotation_file.stem
        self._segmentations = PackedLists((), str(self.annotation_file))
        self._dropped_parts: dict[int | None, int] = {}  # index of a segmentation -> polygons that it lost
        self._reach = 0.0  # the largest coordinate of a polygon, if it is no more than 1
        content = read_sections(self.annotation_file, _RULES, "COCO instance", self._packed)
        categories = by_id(content["categories"], f"{self.annotation_file}: 'categories'")
        groups = _grouping(content["categories"]) if drop_groups else set()
        self.category_ids: list[int] = sorted(set(categories) - groups)  # type: ignore[arg-type]  # by CATEGORY_RULES
        self.id2label = {i: categories[category]["name"] for i, category in enumerate(self.category_ids)}
        images = coco_images(content, self.annotation_file)
        self.images, self._files = coco_image_files(images, self.annotation_file, image_folder)
        self.image_folder = self._files.folder
        self._crowds_are_objects = takes_as_objects(crowd)
        if 0 < self._reach <= 1:
            raise ValueError(
                f"{self.annotation_file}: no polygon reaches beyond {self._reach}, as shares of the image's width and "
                "height do; pixels are needed, so multiply by the image's size (or export in pixels)"
            )
        objects = self._objects_by_image(content["annotations"], groups)
        self._objects = PackedLists(objects.values(), str(self.annotation_file))
        flags = ((class_id, is_crowd) for entries in objects.values() for _, class_id, _, is_crowd, *_ in entries)
        self.remarks += crowd_remarks(flags, self.id2label)
        for _, text in self.remarks:
            logger.warning_once(terminal_text(f"{self.annotation_file}: {text}"))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        entry = self.images[index]
        size = (entry.height, entry.width)
        path, doubt = self._files.find(entry.file_name)
        name = f"{path} (image {entry.id}{', ' * bool(doubt)}{doubt})"
        image = ImageFile(path, name, self.white_level, self.num_channels)
        image.check_size(size, str(self.annotation_file))
        objects = [
            CocoObject(number, class_id, self._segmentations[segmentation], is_crowd)
            for number, class_id, segmentation, is_crowd, *_ in self._objects[index]
        ]
        segments = segments_of_objects(objects, size, self.ignore_unknown, str(self.annotation_file))
        return image.sample(segments, entry.file_name)

    def name_of(self, index: int) -> str:
        return self.images[index].file_name

    def image_path(self, index: int) -> Path:
        return self._files.path(self.images[index].file_name)

    def annotations(self, index: int) -> list[dict[str, Any]]:
        """The json's annotations of an image as they are read: without what is left out, and with `iscrowd` as `crowd`
        has it."""
        return [
            {
                "id": number,
                "category_id": self.category_ids[class_id],
                "segmentation": self._segmentations[segmentation],
                "iscrowd": is_crowd,
                **dict(zip(("area",), area, strict=False)),
            }
            for number, class_id, segmentation, is_crowd, *area in self._objects[index]
        ]

    def _packed(self, section: str, entry: Any) -> Any:
        """An annotation with what is used of it. Its segmentation is packed, and in its place is the index, or None
        where nothing is left of it."""
        if section != "annotations" or not isinstance(entry, dict):
            return entry
        used = {key: entry[key] for key in (*_RULES[section], "area") if key in entry}
        segmentation, dropped = without_bad_parts(settled_segmentation(entry))
        used["segmentation"] = None if segmentation == [] else self._segmentations.append(segmentation)
        if dropped:
            self._dropped_parts[used["segmentation"]] = dropped
        if self._reach <= 1 and segmentation != []:
            self._reach = _reach(segmentation)
        return used

    def _objects_by_image(self, annotations: list[dict], groups: set[int]) -> dict[int | str, list[tuple]]:
        """By image the fields of its `CocoObject`s, of the segmentation its index, and the area where there is one."""
        grouped: dict[int | str, list[tuple]] = {image.id: [] for image in self.images}
        class_of: dict[int, int] = {category: i for i, category in enumerate(self.category_ids)}
        orphans: list[dict] = []
        parts, hollow = 0, 0
        for entry in annotations:
            self._check_category(entry, class_of, groups)
            if entry["image_id"] not in grouped:
                orphans.append(entry)
            elif entry["segmentation"] is None:
                hollow += 1
            else:
                parts += self._dropped_parts.get(entry["segmentation"], 0)
                crowd = bool(entry.get("iscrowd")) and not self._crowds_are_objects
                area = (entry["area"],) if "area" in entry else ()
                fields = (entry["id"], class_of[entry["category_id"]], entry["segmentation"], crowd, *area)
                grouped[entry["image_id"]].append(fields)
        self.remarks = self._remarks(len(annotations), orphans, hollow, parts)
        return grouped

    def _check_category(self, entry: dict, class_of: dict[int, int], groups: set[int]):
        category = entry["category_id"]
        if category in groups:
            remedy = 'open the json with format="coco-instance" to have it as a class'
            self._refuse(entry, f"category_id {category} groups other categories and is dropped; {remedy}")
        if category not in class_of:
            self._refuse(entry, f"category_id {category} is not among the categories {self.category_ids[:100]}")

    def _remarks(self, total: int, orphans: list[dict], hollow: int, parts: int) -> list[tuple[str, str]]:
        """What was left out. All annotations left out are an error: the json is another's, or one of boxes."""
        if orphans and len(orphans) == total:
            known = f"is not among the {len(self.images)} images, and so it is for all {total} annotations"
            self._refuse(orphans[0], f"image_id {orphans[0]['image_id']} {known}")
        if hollow and hollow + len(orphans) == total:
            raise ValueError(f"{self.annotation_file}: none of the {total} annotations has a mask (a box is no mask)")
        text = f"{len(orphans)} of {total} annotations name an image that is not listed; left out"
        return [("left out", text)] * bool(orphans) + left_out_remarks(total, hollow, parts)

    def _refuse(self, annotation: dict, reason: str):
        raise ValueError(f"{self.annotation_file}, annotation {annotation['id']}: {reason}")


def _reach(segmentation: Any) -> float:
    """The largest coordinate of a segmentation of polygons; infinite for any other."""
    flat = isinstance(segmentation, list) and all(isinstance(part, list) for part in segmentation)
    numbers = [number for part in segmentation for number in part] if flat else []
    return max(numbers) if numbers and all(type(number) in (int, float) for number in numbers) else math.inf


def _grouping(categories: list[dict]) -> set[int]:
    """Ids of the categories that are another's supercategory and have none themselves. Decided by the categories
    alone, so that all splits have the same classes."""
    return {
        entry["id"]
        for entry in categories
        if entry.get("supercategory") in (None, "", "none")
        and any(other.get("supercategory") == entry["name"] and other["id"] != entry["id"] for other in categories)
    }
