"""Folders of images with a label map for each: the layouts of ADE20K, CamVid and many others."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from m2f.data.class_names import check_names
from m2f.data.dataset_paths import has_files_with, subfolders
from m2f.data.image_reading import ImageFile
from m2f.data.label_maps import (
    LABEL_SUFFIXES,
    ClassTable,
    read_label_map,
    segments_of_classes,
    values_in,
)
from m2f.data.label_survey import check_two_values, chosen_index, numbered_classes
from m2f.data.paired_files import label_maps, paired_files
from m2f.data.segment_map import Sample
from m2f.image_processing.channel_counts import USUAL_CHANNELS
from m2f.image_processing.label_values import IGNORED, NOTHING
from m2f.image_processing.white_level import WhiteLevel

_LABEL_FOLDERS = ("annotations", "masks", "labels")
_IMAGE_FOLDER = "images"


class SemanticFolder:
    """A `SegmentationDataset` of images and label maps with the same name, in folders and folders of folders.

    Each class that an image has is one segment. An image without a label map, and a label map without an image, are
    items that raise.

    Args:
        image_folder: folder of the images.
        label_folder: folder of the label maps, PNG or TIFF with one number per pixel.
        id2label: name of each label, a dict or a list. Labels may have gaps; classes are numbered from 0 in ascending
            order of the labels. With `reduce_labels` these are the reduced labels. Without it classes are called by
            their number, and the first look at `id2label` reads all label maps to find the highest.
        ignore_index: label of the pixels whose class is unknown, as it stands in the files; None: there is none;
            "auto": 255, if there are other labels than that and one more.
        reduce_labels: label 0 is unknown too and the others are reduced by 1, as ADE20K needs it.
        ignore_unknown: pixels of unknown class are `IGNORED`. Departure: the original makes a mask of each class that
            is there, so that these pixels count as background of every mask, as with False.
        split: name of this part of the dataset; that of the image folder by default.
        class_folders: folders of label maps whose classes count where `id2label` is not given; the label folder by
            default. Give those of all splits, so that all have the same classes.
        label_suffix: what the label maps' names have behind those of their images, such as "_mask". Both may then be
            in one folder.

    Raises:
        FileNotFoundError: no such folder; for an item: no image or no label map.
        ValueError: no image at all, two with the same name, bad class names, or label maps of two values of which one
            is ignored, such as 0 and 255; for `id2label`: values that are no classes by number; for an item: a file
            that cannot be decoded, a label that is no class, or different sizes.
    """

    task = "semantic"
    format = "semantic-folder"
    white_level: WhiteLevel = None
    num_channels: int = USUAL_CHANNELS

    def __init__(
        self,
        image_folder: str | Path,
        label_folder: str | Path,
        id2label: Mapping[int, str] | Sequence[str] | None = None,
        ignore_index: int | None | Literal["auto"] = "auto",
        reduce_labels: bool = False,
        ignore_unknown: bool = True,
        split: str | None = None,
        class_folders: Sequence[str | Path] = (),
        label_suffix: str = "",
    ):
        self.image_folder, self.label_folder = Path(image_folder), Path(label_folder)
        self.thing_label_ids: list[int] = []
        self.split = split or self.image_folder.name
        names = None if id2label is None else check_names(id2label, "id2label")
        unknown = IGNORED if ignore_unknown else NOTHING
        labels = None if names is None else list(names)
        self._labels, self._first_label = labels, int(reduce_labels)
        ignored, self._chosen = chosen_index(ignore_index)
        self._table = ClassTable(labels, ignored, reduce_labels, unknown, zero=unknown)
        self._id2label = None if names is None else dict(enumerate(names.values()))
        self._class_folders = [Path(folder) for folder in class_folders] or [self.label_folder]
        self._label_suffix = label_suffix
        self._files = paired_files(self.image_folder, self.label_folder, label_suffix)
        named = None if names is None else list(names.values())
        self._values: dict[Path, list[int]] = {}  # of each label map that was read for them
        check_two_values(self._readable_values(), self._table, named, self._maps(), chosen=self._chosen)

    @property
    def id2label(self) -> dict[int, str]:
        if self._id2label is None:
            values = (self._values_of(path) for path in self._label_paths())
            remedy = "--format instance-maps"
            self._id2label = numbered_classes(values, self._table, self._maps(), remedy, self._chosen)
        return self._id2label

    @property
    def label_values(self) -> list[int]:
        """The number of each class in the label maps, such as 1 to 150 for ADE20K's classes 0 to 149."""
        labels = range(len(self.id2label)) if self._labels is None else self._labels
        return [label + self._first_label for label in labels]

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Sample:
        name, label_name = self._files[index]
        image = ImageFile(self.image_path(index), str(self.image_path(index)), self.white_level, self.num_channels)
        path = self.label_folder / label_name
        classes = self._classes(path)
        image.check_size(classes.shape, str(path))
        return image.sample(segments_of_classes(classes), name)

    def name_of(self, index: int) -> str:
        return self._files[index][0]

    def image_path(self, index: int) -> Path:
        return self.image_folder / self._files[index][0]

    def _maps(self) -> str:
        return f"the label maps in {' and '.join(map(str, self._class_folders))}"

    def _label_paths(self) -> Iterator[Path]:
        for folder in self._class_folders:
            yield from (folder / name for name in label_maps(folder, self._label_suffix).values())

    def _readable_values(self) -> Iterator[list[int]]:
        """The values in each label map that can be read; the others are errors of their items."""
        for path in self._label_paths():
            with contextlib.suppress(OSError, ValueError):
                yield self._values_of(path)

    def _values_of(self, path: Path) -> list[int]:
        """Those in a label map, which is read once for them."""
        if path not in self._values:
            self._values[path] = values_in(read_label_map(path, str(path)))
        return self._values[path]

    def _classes(self, path: Path) -> np.ndarray:
        """(H, W) int32 classes of a label map, `IGNORED` or `NOTHING`."""
        return self._table.classes(read_label_map(path, str(path)), str(path))


def semantic_splits(root: Path) -> dict[str, tuple[Path, Path]]:
    """Split -> (image folder, label folder) of a dataset's folder; empty where it is none of label maps.

    Found are images/SPLIT beside annotations/SPLIT, SPLIT/images beside SPLIT/annotations, and images beside
    annotations, which is one split "train"; "masks" and "labels" serve for "annotations".
    """
    for folder in _LABEL_FOLDERS:
        pairs = {path.name: (path, root / folder / path.name) for path in subfolders(root / _IMAGE_FOLDER)}
        pairs |= {path.name: (path / _IMAGE_FOLDER, path / folder) for path in subfolders(root)}
        found = {split: pair for split, pair in pairs.items() if _has_label_maps(*pair)}
        if found:
            return found
        if _has_label_maps(root / _IMAGE_FOLDER, root / folder):
            return {"train": (root / _IMAGE_FOLDER, root / folder)}
    return {}


def _has_label_maps(images: Path, labels: Path) -> bool:
    return images.is_dir() and labels.is_dir() and has_files_with(labels, LABEL_SUFFIXES)
