"""COCO panoptic annotations: a json file, a folder of PNGs whose colours are segment ids, and a folder of images
(https://cocodataset.org/#format-data, item 4)."""

import reprlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from transformers.utils import logging

from m2f.data.coco_json import (
    CATEGORY_RULES,
    FLAG,
    ID,
    IMAGE_RULES,
    INTEGER,
    LIST,
    TEXT,
    PackedLists,
    by_id,
    check_entries,
    coco_image_files,
    coco_images,
    read_sections,
)
from m2f.data.crowd_regions import crowd_remarks, takes_as_objects
from m2f.data.dataset_paths import find_folder, split_of_name
from m2f.data.image_reading import ImageFile
from m2f.data.label_maps import read_channels, segments_of_ids
from m2f.data.named_files import NamedFiles
from m2f.data.segment_map import Sample, SegmentMap
from m2f.image_processing.channel_counts import USUAL_CHANNELS
from m2f.image_processing.label_values import IGNORED, NOTHING
from m2f.image_processing.white_level import WhiteLevel
from m2f.output.safe_text import terminal_text

logger = logging.get_logger(__name__)

_RULES = {
    "images": IMAGE_RULES,
    "categories": {**CATEGORY_RULES, "isthing": FLAG},
    "annotations": {"image_id": ID, "file_name": TEXT, "segments_info": LIST},
}
SEGMENT_RULES = {"id": INTEGER, "category_id": INTEGER, "iscrowd": FLAG}
VOID = 0  # the id of pixels without a segment
_ID_LIMIT = 1 << 24


class CocoPanoptic:
    """A `SegmentationDataset` of COCO panoptic annotations.

    Classes are numbered from 0 in ascending order of the category ids, which may have gaps; those with `isthing` 1
    (which is assumed where the key is absent) are things. Segments keep the order of "segments_info".

    Args:
        annotation_file: json with "images", "categories" and "annotations" with "segments_info".
        image_folder: folder that the images' `file_name` are relative to; searched for near the json by default.
        segments_folder: folder that the annotations' `file_name` are relative to; by default the folder beside the
            json that has its name without ".json", as COCO has it, and if there is none, searched for too.
        ignore_unknown: pixels without a segment (id 0) and crowd segments are `IGNORED`, as the panoptic quality
            ignores them. Departure: the original's mapper leaves crowd segments out and makes a mask of each other
            segment, so that all these pixels count as background, as with False.
        split: found in the file's name by default, else the name itself.
        crowd: as for `CocoInstances`.

    Attributes beside those of `SegmentationDataset`:
        category_ids: the json's id of each class.
        images: the json's entry of each image.
        remarks: (kind of finding, message) for crowd segments, and for annotations of images that are not listed,
            which are left out with one warning.

    Raises:
        FileNotFoundError: no annotation file, or (for an item) no image or PNG.
        ValueError: not such a json: a key is missing or has a wrong value, an id appears twice or is not in
            [1, 2^24), an annotation names an unknown category, none is of an image that is listed, a file lies outside
            its folder; for an item: the image has no annotation, a file cannot be decoded, image, PNG and json differ
            in size, or PNG and json in segment ids. The message names the file, and the segment's id.
    """

    task = "panoptic"
    format = "coco-panoptic"
    white_level: WhiteLevel = None
    num_channels: int = USUAL_CHANNELS

    def __init__(
        self,
        annotation_file: str | Path,
        image_folder: str | Path | None = None,
        segments_folder: str | Path | None = None,
        ignore_unknown: bool = True,
        split: str | None = None,
        crowd: str = "ignore",
    ):
        self._crowds_are_objects = takes_as_objects(crowd)
        self.annotation_file = Path(annotation_file)
        self.ignore_unknown = ignore_unknown
        self.split = split or split_of_name(self.annotation_file.stem) or self.annotation_file.stem
        content = read_sections(self.annotation_file, _RULES, "COCO panoptic")
        categories = by_id(content["categories"], f"{self.annotation_file}: 'categories'")
        self.category_ids = sorted(categories)
        self.id2label = {i: categories[category]["name"] for i, category in enumerate(self.category_ids)}
        self.thing_label_ids = [i for i, c in enumerate(self.category_ids) if categories[c].get("isthing", 1)]
        images = coco_images(content, self.annotation_file)
        # Where images are PNG too, they have the names of the annotations' files.
        named = self.annotation_file.with_suffix("")
        segments_folder = named if segments_folder is None and named.is_dir() else segments_folder
        known = None if segments_folder is None else Path(segments_folder)
        self.images, self._files = coco_image_files(images, self.annotation_file, image_folder, known)
        self.image_folder = self._files.folder
        self.segments_folder = known or self._find_segments(content["annotations"])
        self._segment_files = NamedFiles(self.segments_folder, are_labels=True)
        self.remarks: list[tuple[str, str]] = []
        self._annotations = PackedLists(self._annotations_by_image(content["annotations"]), str(self.annotation_file))
        for _, text in self.remarks:
            logger.warning_once(terminal_text(f"{self.annotation_file}: {text}"))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        entry = self.images[index]
        path, doubt = self._files.find(entry.file_name)
        name = f"{path} (image {entry.id}{', ' * bool(doubt)}{doubt})"
        image = ImageFile(path, name, self.white_level, self.num_channels)
        image.check_size((entry.height, entry.width), str(self.annotation_file))
        annotation = self._annotations[index]
        if not annotation:
            raise ValueError(f"{self.annotation_file}: image {entry.id} ({entry.file_name}) has no annotation")
        file_name, segment_ids, class_ids, crowd_ids, _ = annotation
        path = self._segment_files.path(file_name)
        ids = read_segment_ids(path, str(path))
        if ids.shape != (entry.height, entry.width):
            raise ValueError(
                f"{path} is {ids.shape[0]} x {ids.shape[1]} (height x width), but {self.annotation_file} says "
                f"{entry.height} x {entry.width} for image {entry.id}"
            )
        segments = panoptic_segments(ids, segment_ids, class_ids, crowd_ids, self.ignore_unknown, str(path))
        return image.sample(segments, entry.file_name)

    def name_of(self, index: int) -> str:
        return self.images[index].file_name

    def image_path(self, index: int) -> Path:
        return self._files.path(self.images[index].file_name)

    def segments_path(self, index: int) -> Path | None:
        """The PNG of an image; None where the image has no annotation."""
        annotation = self._annotations[index]
        return self._segment_files.path(annotation[0]) if annotation else None

    def segments_info(self, index: int) -> list[dict[str, int]]:
        """The json's segments of an image with "id", "category_id" and "iscrowd", crowd segments last, as they are
        read: with `iscrowd` as `crowd` has it."""
        _, segment_ids, class_ids, crowd_ids, crowd_class_ids = self._annotations[index]
        single, crowds = (zip(segment_ids, class_ids, strict=True), zip(crowd_ids, crowd_class_ids, strict=True))
        return [
            {"id": number, "category_id": self.category_ids[label], "iscrowd": is_crowd}
            for is_crowd, pairs in enumerate((single, crowds))
            for number, label in pairs
        ]

    def _find_segments(self, annotations: list[dict]) -> Path:
        """Where the PNGs are: in a folder without the images; or with them, if no image has the name of a PNG."""
        names = [entry["file_name"] for entry in annotations]
        both = {*names}.isdisjoint(image.file_name for image in self.images)
        return find_folder(names, self.annotation_file, "segments_folder", None if both else self.image_folder)

    def _annotations_by_image(self, annotations: list[dict]) -> Iterable[list]:
        """For each image [file name, segment ids, class ids, ids of crowd segments, their class ids], or [] without
        annotation."""
        found: dict[int | str, list] = {image.id: [] for image in self.images}
        class_of: dict[int | str, int] = {category: i for i, category in enumerate(self.category_ids)}
        flags: list[tuple[int, bool]] = []
        orphans = [entry for entry in annotations if entry["image_id"] not in found]
        if orphans and len(orphans) == len(annotations):
            where = f"{self.annotation_file}, annotation of image {orphans[0]['image_id']}"
            raise ValueError(
                f"{where}: not among the {len(found)} images; so it is for all {len(orphans)} annotations"
            )
        for entry in annotations:
            image_id, segments = entry["image_id"], entry["segments_info"]
            where = f"{self.annotation_file}, annotation of image {image_id}"
            if found.get(image_id):
                raise ValueError(f"{where}: a second one")
            parts = split_segments(segments, class_of, where, self._crowds_are_objects)
            if image_id in found:
                of_image = crowd_flags(segments, class_of, self._crowds_are_objects)
                crowds = [label for label, is_crowd in of_image if is_crowd]
                found[image_id] = [self._segment_files.add(entry["file_name"], where), *parts, crowds]
                flags += of_image
        if orphans:
            text = f"{len(orphans)} of {len(annotations)} annotations name an image that is not listed; left out"
            self.remarks.append(("left out", text))
        self.remarks += crowd_remarks(flags, self.id2label)
        return found.values()


def split_segments(
    segments_info: list[dict], class_of: Mapping[int | str, int], where: str, crowds_are_objects: bool = False
) -> tuple[list[int], list[int], list[int]]:
    """Ids and classes of the segments, and the ids of crowd segments, of one image.

    Args:
        segments_info: dicts with "id", "category_id" and possibly "iscrowd".
        class_of: category id -> class.
        crowds_are_objects: takes crowd segments for single ones.

    Raises:
        ValueError: a key is missing or has a wrong value, an id appears twice or is not in [1, 2^24), or a category is
            unknown.
    """
    check_entries(segments_info, SEGMENT_RULES, f"{where}: 'segments_info'")
    for number, entry in by_id(segments_info, f"{where}: 'segments_info'").items():
        if not isinstance(number, int) or not VOID < number < _ID_LIMIT:
            raise ValueError(f"{where}: segment id {number} is no colour; 1 to {_ID_LIMIT - 1} is needed")
        if entry["category_id"] not in class_of:
            known = f"not among the categories {reprlib.repr(list(class_of))}"
            raise ValueError(f"{where}: segment {number} has category_id {entry['category_id']}, {known}")
    single = [entry for entry in segments_info if crowds_are_objects or not entry.get("iscrowd")]
    return (
        [entry["id"] for entry in single],
        [class_of[entry["category_id"]] for entry in single],
        [entry["id"] for entry in segments_info if entry.get("iscrowd") and not crowds_are_objects],
    )


def crowd_flags(
    segments_info: list[dict], class_of: Mapping[int | str, int], crowds_are_objects: bool
) -> list[tuple[int, bool]]:
    """Class of each segment that `split_segments` takes, and whether it is a crowd region that takes no part."""
    return [
        (class_of[entry["category_id"]], bool(entry.get("iscrowd")) and not crowds_are_objects)
        for entry in segments_info
    ]


def read_segment_ids(source: Path | bytes, name: str) -> np.ndarray:
    """(H, W) int32 ids of a PNG whose colours are ids, R + 256 G + 65536 B.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it cannot be decoded.
    """
    return read_channels(source, name).astype(np.int32) @ np.array([1, 1 << 8, 1 << 16], np.int32)


def panoptic_segments(
    ids: np.ndarray,
    segment_ids: list[int],
    class_ids: list[int],
    crowd_ids: list[int],
    ignore_unknown: bool,
    name: str,
) -> SegmentMap:
    """Compact labels from the ids of a PNG, which messages call `name`, and what `split_segments` returns.

    Raises:
        ValueError: the PNG has other ids than those given.
    """
    unknown = IGNORED if ignore_unknown else NOTHING
    return segments_of_ids(ids, segment_ids, class_ids, dict.fromkeys((VOID, *crowd_ids), unknown), name)
