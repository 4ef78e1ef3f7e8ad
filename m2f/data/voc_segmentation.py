"""Pascal VOC's layout: JPEGImages, SegmentationClass, SegmentationObject and lists in ImageSets/Segmentation
(http://host.robots.ox.ac.uk/pascal/VOC/voc2012/devkit_doc.pdf). CVAT and labelme2voc write it too."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from m2f.data.class_names import check_names
from m2f.data.colour_table import Colour, ColourTable, find_colour_table, read_colour_table
from m2f.data.dataset_paths import files_with, inside, subfolders
from m2f.data.image_finder import ImageFinder
from m2f.data.image_reading import ImageFile
from m2f.data.label_maps import ClassTable, has_channels, read_channels, read_label_map, segments_of_classes
from m2f.data.segment_map import Sample, SegmentMap
from m2f.image_processing.channel_counts import USUAL_CHANNELS
from m2f.image_processing.image_opening import IMAGE_SUFFIXES
from m2f.image_processing.label_values import IGNORE_INDEX, IGNORED, NOTHING
from m2f.image_processing.white_level import WhiteLevel

_IMAGES, _LISTS = "JPEGImages", Path("ImageSets", "Segmentation")
_CLASS_FOLDERS, _OBJECT_FOLDERS = (
    ("SegmentationClass", "SegmentationClassPNG"),
    ("SegmentationObject", "SegmentationObjectPNG"),
)
_NAMES_FILE = "class_names.txt"  # of labelme2voc: one name a line
_BACKGROUND = ("background", "_background_")
_VOID: Colour = (224, 224, 192)  # of value 255 in VOC's palette
NAMES = (
    "background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person "
    "pottedplant sheep sofa train tvmonitor"
).split()
_TASKS = ("semantic", "instance")


class VocSegmentation:
    """A `SegmentationDataset` of Pascal VOC's layout.

    Label files hold the numbers of classes and objects (as grey values or indices of a palette, 255 is unknown), or
    show them in colours.

    Args:
        root: the folder with JPEGImages and SegmentationClass.
        split: a list in ImageSets/Segmentation; where there are no lists, "train" has all.
        task: "semantic", or "instance": the objects of SegmentationObject, each of the class that it has in
            SegmentationClass; background is no class then.
        id2label: names of the classes; by default those of labelmap.txt or class_names.txt in the folder, or else
            VOC's 21.
        image_folder: of the images, JPEGImages by default.

    Raises:
        FileNotFoundError: no such list or folder; for an item: no image or label file.
        ValueError: no such task, no image; for an item: a file that cannot be decoded, values or colours that are no
            class, an object of several classes, different sizes.
    """

    format = "voc"
    white_level: WhiteLevel = None
    num_channels: int = USUAL_CHANNELS

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        task: str = "semantic",
        id2label: Mapping[int, str] | Sequence[str] | None = None,
        image_folder: str | Path | None = None,
    ):
        if task not in _TASKS:
            raise ValueError(f"task must be one of {', '.join(_TASKS)}, got {task!r}")
        self.task, self.split, self._root = task, split, Path(root)
        self.thing_label_ids: list[int] | None = [] if task == "semantic" else None
        self._class_folder = _folder(self._root, _CLASS_FOLDERS)
        self._object_folder = _folder(self._root, _OBJECT_FOLDERS) if task == "instance" else None
        self._stems = _stems(self._root, split, self._class_folder)
        finder = ImageFinder(image_folder or self._root / _IMAGES, by_stem=True)
        self.image_folder = finder.folder
        self._files = [finder.find(stem) for stem in self._stems]
        self._colours, names = _classes(self._root, id2label)
        self._colours.add_unknown(_VOID)
        self._table = ClassTable(list(names), IGNORE_INDEX)
        kept = [name for name in names.values() if task == "semantic" or name.lower() not in _BACKGROUND]
        self.id2label = dict(enumerate(kept))
        # Number of each class in the files -> its number here.
        self._numbers = np.array([kept.index(name) if name in kept else NOTHING for name in names.values()], np.int32)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Sample:
        path = self.image_path(index)
        image = ImageFile(path, str(path), self.white_level, self.num_channels)
        label_path = self._class_folder / f"{self._stems[index]}.png"
        classes = self._read_classes(label_path)
        image.check_size(classes.shape, str(label_path))
        if self._object_folder is None:
            return image.sample(segments_of_classes(classes), self.name_of(index))
        object_path = self._object_folder / f"{self._stems[index]}.png"
        objects, void = _object_numbers(object_path)
        image.check_size(objects.shape, str(object_path))
        if objects.shape != classes.shape:
            raise ValueError(f"{object_path} and {label_path} have different sizes: {objects.shape}, {classes.shape}")
        return image.sample(_objects(objects, void | (classes == IGNORED), classes, object_path), self.name_of(index))

    def name_of(self, index: int) -> str:
        return self._files[index]

    def image_path(self, index: int) -> Path:
        return self.image_folder / self._files[index]

    def _read_classes(self, path: Path) -> np.ndarray:
        if has_channels(path, str(path)):
            classes = self._colours.classes(path, str(path))
        else:
            classes = self._table.classes(read_label_map(path, str(path)), str(path))
        return np.where(classes < 0, classes, self._numbers[np.maximum(classes, 0)])


def voc_root(root: Path) -> Path | None:
    """The folder with JPEGImages and SegmentationClass: `root`, or the only such one in it or in its VOCdevkit."""
    inner = [path for folder in (root, root / "VOCdevkit") for path in subfolders(folder)]
    own = [path for path in [root] if _is_voc(path)]
    found = own or [path for path in inner if _is_voc(path)]
    return found[0] if len(found) == 1 else None


def voc_splits(root: Path) -> list[str]:
    """The lists of a VOC folder; "trainval" only where it has no parts, and none of images without labels."""
    labels = _folder(root, _CLASS_FOLDERS)
    names = [Path(name).stem for name in files_with(root / _LISTS, (".txt",)) if "/" not in name]
    if {"train", "val"} <= set(names):
        names = [name for name in names if name != "trainval"]
    labelled = [name for name in names if any((labels / f"{stem}.png").is_file() for stem in _listed(root, name))]
    return labelled or ["train"]


def _is_voc(path: Path) -> bool:
    return (path / _IMAGES).is_dir() and any((path / name).is_dir() for name in _CLASS_FOLDERS)


def _folder(root: Path, names: Sequence[str]) -> Path:
    found = next((root / name for name in names if (root / name).is_dir()), None)
    if found is None:
        raise FileNotFoundError(f"no such folder: {root / names[0]}")
    return found


def _listed(root: Path, split: str) -> list[str]:
    path = root / _LISTS / f"{split}.txt"
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    return [_stem(words[0]) for line in lines if (words := line.split())]


def _stem(name: str) -> str:
    """Of an image in a list, which may be written as its path in the dataset."""
    name = name.replace("\\", "/").removeprefix("/").removeprefix(f"{_IMAGES}/")
    stem, dot, suffix = name.rpartition(".")
    return stem if dot + suffix.lower() in IMAGE_SUFFIXES else name


def _stems(root: Path, split: str, labels: Path) -> list[str]:
    path = root / _LISTS / f"{split}.txt"
    if os.path.isfile(path):
        stems = _listed(root, split)
        for stem in stems:
            inside(labels, f"{stem}.png", str(path))
    elif split == "train" and not files_with(root / _LISTS, (".txt",)):
        stems = [name.removesuffix(".png") for name in files_with(labels, (".png",))]
    else:
        raise FileNotFoundError(f"no such file: {path}")
    if not stems:
        raise ValueError(f"{path if os.path.isfile(path) else labels} names no image")
    return stems


def _classes(root: Path, id2label: Mapping[int, str] | Sequence[str] | None) -> tuple[ColourTable, dict[int, str]]:
    """The colours of the classes, and the names of their numbers."""
    given = None if id2label is None else check_names(id2label, "id2label")
    table = find_colour_table(root)
    if table is not None:
        colours = read_colour_table(table)
        if given is not None and len(given) != len(colours.names):
            raise ValueError(f"id2label has {len(given)} classes, but {table} has {len(colours.names)}")
        return colours, given or colours.names
    if given is None and os.path.isfile(root / _NAMES_FILE):
        lines = (root / _NAMES_FILE).read_text(encoding="utf-8", errors="replace").splitlines()
        given = dict(enumerate(line.strip() for line in lines if line.strip() not in ("", "__ignore__")))
    names = given or dict(enumerate(NAMES))
    return ColourTable([(voc_colour(number), name) for number, name in names.items()], "VOC's palette", ()), names


def voc_colour(number: int) -> Colour:
    """The colour of a number in [0, 255] in VOC's palette: its bits, from the lowest, go to red, green and blue in
    turn, each channel from its highest bit."""
    channels = [sum((number >> 3 * i + channel & 1) << 7 - i for i in range(3)) for channel in range(3)]
    return channels[0], channels[1], channels[2]


def _object_numbers(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) int32 numbers of the objects, 0 for none, and where it is unknown."""
    if not has_channels(path, str(path)):
        numbers = read_label_map(path, str(path))
        void = numbers == IGNORE_INDEX
    else:
        channels = read_channels(path, str(path)).astype(np.int32)
        numbers = (channels[..., 0] << 16) + (channels[..., 1] << 8) + channels[..., 2]
        void = (channels == _VOID).all(2)
    return np.where(void, 0, numbers), void


def _objects(objects: np.ndarray, void: np.ndarray, classes: np.ndarray, path: Path) -> SegmentMap:
    """A segment for each object, in ascending order of their numbers."""
    numbers, places = np.unique(np.where(void, 0, objects), return_inverse=True)
    places = places.reshape(objects.shape)
    offset = int(numbers[0] == 0)
    ids = np.where(void, IGNORED, places.astype(np.int32) - offset)
    class_ids = []
    for i, number in enumerate(numbers[offset:].tolist()):
        found = np.unique(classes[(ids == i)]).tolist()
        if len(found) != 1 or found[0] < 0:
            raise ValueError(
                f"{path}: the object {number} lies on {len(found)} classes of its class map, or on background"
            )
        class_ids.append(found[0])
    return SegmentMap(np.where(ids == -1, NOTHING, ids).astype(np.int32)[None], np.array(class_ids, np.int64))
