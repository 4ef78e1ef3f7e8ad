"""Folders of images with a label map for each: the layouts of ADE20K, CamVid and many others."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from m2f.data.class_names import check_names
from m2f.data.dataset_paths import files_with, has_files_with, image_files, subfolders
from m2f.data.image_reading import ImageFile
from m2f.data.label_maps import (
    LABEL_SUFFIXES,
    ClassTable,
    highest_class,
    names_by_number,
    read_label_map,
    segments_of_classes,
)
from m2f.data.segment_map import Sample
from m2f.image_processing.label_values import IGNORE_INDEX, IGNORED, NOTHING
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
        ignore_index: label of the pixels whose class is unknown, as it stands in the files; None: there is none.
        reduce_labels: label 0 is unknown too and the others are reduced by 1, as ADE20K needs it.
        ignore_unknown: pixels of unknown class are `IGNORED`. Departure: the original makes a mask of each class that
            is there, so that these pixels count as background of every mask, as with False.
        split: name of this part of the dataset; that of the image folder by default.
        class_folders: folders of label maps whose classes count where `id2label` is not given; the label folder by
            default. Give those of all splits, so that all have the same classes.

    Raises:
        FileNotFoundError: no such folder; for an item: no image or no label map.
        ValueError: no image at all, two with the same name, or bad class names; for an item: a file that cannot be
            decoded, a label that is no class, or different sizes.
    """

    task = "semantic"
    format = "semantic-folder"
    white_level: WhiteLevel = None

    def __init__(
        self,
        image_folder: str | Path,
        label_folder: str | Path,
        id2label: Mapping[int, str] | Sequence[str] | None = None,
        ignore_index: int | None = IGNORE_INDEX,
        reduce_labels: bool = False,
        ignore_unknown: bool = True,
        split: str | None = None,
        class_folders: Sequence[str | Path] = (),
    ):
        self.image_folder, self.label_folder = Path(image_folder), Path(label_folder)
        self.thing_label_ids: list[int] = []
        self.split = split or self.image_folder.name
        names = None if id2label is None else check_names(id2label, "id2label")
        unknown = IGNORED if ignore_unknown else NOTHING
        labels = None if names is None else list(names)
        self._labels, self._first_label = labels, int(reduce_labels)
        self._table = ClassTable(labels, ignore_index, reduce_labels, unknown, zero=unknown)
        self._id2label = None if names is None else dict(enumerate(names.values()))
        self._class_folders = [Path(folder) for folder in class_folders] or [self.label_folder]
        images, label_maps = _by_stem(self.image_folder, image_files), _by_stem(self.label_folder, _label_files)
        if not images.keys() & label_maps.keys():
            raise ValueError(
                f"no image in {self.image_folder} ({len(images)} files) has a label map of its name in "
                f"{self.label_folder} ({len(label_maps)} PNG and TIFF files)"
            )
        # A missing file keeps the name that it is missed under.
        self._files = [
            (images.get(stem, f"{stem}.jpg"), label_maps.get(stem, f"{stem}.png"))
            for stem in sorted(images.keys() | label_maps.keys())
        ]

    @property
    def id2label(self) -> dict[int, str]:
        if self._id2label is None:
            paths = (folder / name for folder in self._class_folders for name in _label_files(folder))
            classes = (self._table.classes(read_label_map(path, str(path)), str(path)) for path in paths)
            self._id2label = names_by_number(highest_class(classes))
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
        image = ImageFile(self.image_path(index), str(self.image_path(index)), self.white_level)
        path = self.label_folder / label_name
        labels = read_label_map(path, str(path))
        image.check_size(labels.shape, str(path))
        return image.sample(segments_of_classes(self._table.classes(labels, str(path))), name)

    def name_of(self, index: int) -> str:
        return self._files[index][0]

    def image_path(self, index: int) -> Path:
        return self.image_folder / self._files[index][0]


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


def _label_files(folder: Path) -> list[str]:
    return files_with(folder, LABEL_SUFFIXES)


def _by_stem(folder: Path, list_files: Callable[[Path], list[str]]) -> dict[str, str]:
    """Name without suffix -> name."""
    if not folder.is_dir():
        raise FileNotFoundError(f"no such folder: {folder}")
    found: dict[str, str] = {}
    for name in list_files(folder):
        stem = name.rpartition(".")[0]
        if stem in found:
            raise ValueError(f"{folder} has two files for one image: {found[stem]} and {name}")
        found[stem] = name
    return found
