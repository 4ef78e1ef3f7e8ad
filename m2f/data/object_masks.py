"""A mask file for each object: the layouts of the Data Science Bowl 2018 (ID/images/*.png and ID/masks/*.png) and of
pycococreator (IMAGE_CLASS_NUMBER.png, https://github.com/waspinator/pycococreator)."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from m2f.data.class_names import check_names
from m2f.data.coco_masks import CocoObject, segments_of_objects
from m2f.data.dataset_paths import files_with, image_files, subfolders
from m2f.data.drawn_shapes import runs_of_mask
from m2f.data.image_reading import ImageFile
from m2f.data.label_maps import LABEL_SUFFIXES, has_channels, read_channels, read_label_map, values_in
from m2f.data.segment_map import Sample
from m2f.image_processing.channel_counts import USUAL_CHANNELS
from m2f.image_processing.white_level import WhiteLevel

IMAGES, MASKS = "images", "masks"
NAMELESS = "object"  # the class where file names tell none
_NAMED = re.compile(r"(?P<image>.+)_(?P<label>[^_]+)_(?P<number>\d+)")


class MaskedImage(NamedTuple):
    """An image's file and those of its objects, (class, file) each."""

    image: Path
    masks: list[tuple[str, Path]]


class ObjectMasks:
    """A `SegmentationDataset` of images with a file of one binary mask for each object.

    A mask is 0 outside and one other value inside. Objects may overlap; each keeps its pixels.

    Args:
        images: as `bowl_images` and `named_images` find them.
        root: folder that the images' names are relative to.
        id2label: names of the classes; by default those of `labels`, or else of the images, sorted.
        labels: names that all splits have together.
        split: name of the split.

    Raises:
        ValueError: no image; for an item: a mask with several values, of another size or class, or a file that cannot
            be decoded. The message names the file.
        FileNotFoundError: for an item: no image.
    """

    task = "instance"
    format = "object-masks"
    thing_label_ids = None
    white_level: WhiteLevel = None
    num_channels: int = USUAL_CHANNELS

    def __init__(
        self,
        images: Sequence[MaskedImage],
        root: str | Path,
        id2label: Mapping[int, str] | Sequence[str] | None = None,
        labels: Iterable[str] = (),
        split: str = "train",
    ):
        if not images:
            raise ValueError(f"{root}: the split {split!r} has no image with masks")
        self.split, self.root, self._images = split, Path(root), images
        found = sorted({*labels, *(label for image in images for label, _ in image.masks)})
        names = check_names(id2label, "id2label") if id2label else dict(enumerate(found))
        self.id2label = dict(enumerate(names.values()))
        self._class_of = {name: label for label, name in self.id2label.items()}

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Sample:
        path, masks = self._images[index]
        image = ImageFile(path, str(path), self.white_level, self.num_channels)
        sizes = set()
        objects = []
        for label, file in masks:
            mask = read_binary_mask(file, str(file))
            image.check_size(mask.shape, str(file))
            sizes.add(mask.shape)
            objects.append(CocoObject(file.name, self._class(label, file), runs_of_mask(mask), False))
        if len(sizes) > 1:
            raise ValueError(f"{path}: its masks have different sizes (height, width): {sorted(sizes)}")
        size = next(iter(sizes), image.size)
        return image.sample(segments_of_objects(objects, size, True, str(path)), self.name_of(index))

    def name_of(self, index: int) -> str:
        return self._images[index].image.relative_to(self.root).as_posix()

    def image_path(self, index: int) -> Path:
        return self._images[index].image

    def _class(self, label: str, file: Path) -> int:
        # One name of one's own serves for objects without any.
        if label == NAMELESS and len(self.id2label) == 1:
            return 0
        if label not in self._class_of:
            raise ValueError(f"{file}: the class {label[:80]!r} is none of {', '.join(self._class_of)[:200]}")
        return self._class_of[label]


def read_binary_mask(source: Path | bytes, name: str) -> np.ndarray:
    """(H, W) bool of a mask file, True inside; grey, a palette, or colours of which all three channels are alike.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is damaged, or has more values than 0 and another one.
    """
    if has_channels(source, name):
        channels = read_channels(source, name)
        if (channels != channels[..., :1]).any():
            raise ValueError(f"{name} has colours; the mask of one object is black and white")
        values = channels[..., 0].astype(np.int32)
    else:
        values = read_label_map(source, name)
    found = values_in(values)
    if len(found) > 2 or (len(found) == 2 and found[0] != 0):
        shown = ", ".join(map(str, found[:6])) + (", ..." if len(found) > 6 else "")
        raise ValueError(f"{name} holds the values {shown}; the mask of one object has 0 and one other")
    return values != 0


def bowl_folders(root: Path) -> list[Path]:
    """The folders ID of ID/images/*.png and ID/masks/*.png in a folder; none where it has label maps of the same
    names instead."""
    folders = [path for path in subfolders(root) if (path / IMAGES).is_dir() and (path / MASKS).is_dir()]
    if not folders:
        return []
    stems = [{Path(name).stem for name in files_with(folders[0] / kind, LABEL_SUFFIXES)} for kind in (IMAGES, MASKS)]
    return folders if len(image_files(folders[0] / IMAGES)) == 1 and stems[0].isdisjoint(stems[1]) else []


def bowl_images(folders: Iterable[Path]) -> list[MaskedImage]:
    """The images of folders ID.

    Raises:
        ValueError: one has no image, or several.
    """
    found = []
    for folder in folders:
        images = image_files(folder / IMAGES)
        if len(images) != 1:
            raise ValueError(f"{folder / IMAGES} has {len(images)} images; its masks need one")
        masks = [(NAMELESS, folder / MASKS / name) for name in files_with(folder / MASKS, LABEL_SUFFIXES)]
        found.append(MaskedImage(folder / IMAGES / images[0], masks))
    return found


def named_images(image_folder: Path, mask_folder: Path) -> list[MaskedImage]:
    """The images whose masks are called IMAGE_CLASS_NUMBER; images without a mask have no objects.

    Raises:
        ValueError: a file in the folder of masks is called otherwise, or after no image.
    """
    images = {Path(name).stem: name for name in image_files(image_folder)}
    masks: dict[str, list[tuple[int, str, Path]]] = {stem: [] for stem in images}
    for name in files_with(mask_folder, LABEL_SUFFIXES):
        parts = _NAMED.fullmatch(Path(name).stem)
        if parts is None or parts["image"] not in images:
            raise ValueError(f"{mask_folder / name} is not called IMAGE_CLASS_NUMBER after an image in {image_folder}")
        masks[parts["image"]].append((int(parts["number"]), parts["label"], mask_folder / name))
    return [
        MaskedImage(image_folder / images[stem], [(label, path) for _, label, path in sorted(masks[stem])])
        for stem in sorted(images)
    ]


def has_named_masks(image_folder: Path, mask_folder: Path) -> bool:
    """Whether a mask in a folder is called IMAGE_CLASS_NUMBER after an image of the other, and is no label
    map of an image called so."""
    if not image_folder.is_dir() or not mask_folder.is_dir():
        return False
    # One look, not a list: folders of label maps may be large.
    files = (entry.name for entry in os.scandir(mask_folder) if entry.name.lower().endswith(LABEL_SUFFIXES))
    stem = Path(next(files, "")).stem
    parts = _NAMED.fullmatch(stem)
    if parts is None:
        return False
    stems = {Path(name).stem for name in image_files(image_folder)}
    return parts["image"] in stems and stem not in stems
