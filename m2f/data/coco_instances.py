"""COCO instance annotations: one json file and a folder of images (https://cocodataset.org/#format-data)."""

from collections.abc import Iterable
from pathlib import Path

from m2f.data.coco_json import (
    ANYTHING,
    CATEGORY_RULES,
    FLAG,
    ID,
    IMAGE_RULES,
    INTEGER,
    PackedLists,
    by_id,
    coco_image_folder,
    coco_images,
    read_sections,
)
from m2f.data.coco_masks import CocoObject, segments_of_objects
from m2f.data.dataset_paths import split_of_name
from m2f.data.image_reading import ImageFile
from m2f.data.segment_map import Sample
from m2f.image_processing.white_level import WhiteLevel

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

    Attributes beside those of `SegmentationDataset`:
        category_ids: the json's id of each class.
        images: the json's entry of each image, of which `id` names it in predictions.

    Raises:
        FileNotFoundError: no annotation file, or (for an item) no image.
        ValueError: not such a json: a key is missing or has a wrong value, an id appears twice, or an annotation names
            an unknown image or category, or an image lies outside the folder; for an item: a segmentation or an image
            that cannot be decoded, or an image of another size than the json says. The message names the file and the
            annotation's id.
    """

    task = "instance"
    thing_label_ids = None

    white_level: WhiteLevel = None

    def __init__(
        self,
        annotation_file: str | Path,
        image_folder: str | Path | None = None,
        ignore_unknown: bool = True,
        drop_groups: bool = False,
        split: str | None = None,
    ):
        self.annotation_file = Path(annotation_file)
        self.ignore_unknown = ignore_unknown
        self.format = "roboflow-coco" if drop_groups else "coco-instance"
        self.split = split or split_of_name(self.annotation_file.stem) or self.annotation_file.stem
        content = read_sections(self.annotation_file, _RULES, "COCO instance")
        categories = by_id(content["categories"], f"{self.annotation_file}: 'categories'")
        groups = _grouping(content["categories"]) if drop_groups else set()
        self.category_ids = sorted(set(categories) - groups)
        self.id2label = {i: categories[category]["name"] for i, category in enumerate(self.category_ids)}
        self.images = coco_images(content, self.annotation_file)
        self.image_folder = coco_image_folder(self.images, self.annotation_file, image_folder)
        self._objects = PackedLists(self._objects_by_image(content["annotations"], groups), str(self.annotation_file))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        entry = self.images[index]
        size = (entry.height, entry.width)
        path = self.image_path(index)
        image = ImageFile(path, f"{path} (image {entry.id})", self.white_level)
        image.check_size(size, str(self.annotation_file))
        objects = [CocoObject(*values) for values in self._objects[index]]
        segments = segments_of_objects(objects, size, self.ignore_unknown, str(self.annotation_file))
        return image.sample(segments, entry.file_name)

    def name_of(self, index: int) -> str:
        return self.images[index].file_name

    def image_path(self, index: int) -> Path:
        return self.image_folder / self.images[index].file_name

    def _objects_by_image(self, annotations: list[dict], groups: set[int]) -> Iterable[list[tuple]]:
        """The fields of each image's `CocoObject`s."""
        grouped: dict[int | str, list[tuple]] = {image.id: [] for image in self.images}
        class_of = {category: i for i, category in enumerate(self.category_ids)}
        for entry in annotations:
            image_id, category = entry["image_id"], entry["category_id"]
            if image_id not in grouped:
                self._refuse(entry, f"image_id {image_id} is not among the {len(grouped)} images")
            if category in groups:
                remedy = 'open the json with format="coco-instance" to have it as a class'
                self._refuse(entry, f"category_id {category} groups other categories and is dropped; {remedy}")
            if category not in class_of:
                self._refuse(entry, f"category_id {category} is not among the categories {self.category_ids[:100]}")
            crowd = bool(entry.get("iscrowd"))
            grouped[image_id].append((entry["id"], class_of[category], entry["segmentation"], crowd))
        return grouped.values()

    def _refuse(self, annotation: dict, reason: str):
        raise ValueError(f"{self.annotation_file}, annotation {annotation['id']}: {reason}")


def _grouping(categories: list[dict]) -> set[int]:
    """Ids of the categories that are another's supercategory and have none themselves. Decided by the categories
    alone, so that all splits have the same classes."""
    return {
        entry["id"]
        for entry in categories
        if entry.get("supercategory") in (None, "", "none")
        and any(other.get("supercategory") == entry["name"] and other["id"] != entry["id"] for other in categories)
    }
