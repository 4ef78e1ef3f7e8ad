"""YOLO segmentation data as Ultralytics defines it: a yaml, images, and a text file of polygons for each image
(https://docs.ultralytics.com/datasets/segment/); or as Label Studio exports it, with classes.txt for the yaml."""

import os
import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from m2f.data.class_names import check_names
from m2f.data.coco_masks import CocoObject, segments_of_objects
from m2f.data.dataset_paths import image_files, inside
from m2f.data.image_reading import ImageFile
from m2f.data.named_files import NamedFiles
from m2f.data.segment_map import Sample
from m2f.data.yolo_label_files import images_of_labels, label_files_of_folder, label_files_of_images
from m2f.data.yolo_layout import (
    classes_content,
    classes_root,
    ends_of_place,
    find_path,
    is_classes_file,
    yolo_label_path,
)
from m2f.image_processing.channel_counts import USUAL_CHANNELS
from m2f.image_processing.flat_yaml import flat_yaml
from m2f.image_processing.white_level import WhiteLevel

_SPLITS = ("train", "val", "test")
_MIN_COORDINATES = 6  # x and y of three points
_TOLERANCE = 0.01  # that annotation tools overstep [0, 1] by; Ultralytics takes as much


class YoloSegmentation:
    """A `SegmentationDataset` of YOLO polygons. An image whose text file is empty or missing has no objects.

    The labels of `.../images/.../x.jpg` are in `.../labels/.../x.txt`, one line for each object: the class, then x and
    y of its polygon's points as shares of the upright image's width and height.

    Args:
        yaml_file: names the classes ("names") and where the images of "train", "val" and "test" are: a folder, a text
            file that lists images, or a list of such, relative to "path", which is relative to the yaml's folder.
            Where they were elsewhere, the end of a place's path counts (see `ends_of_place`). A classes.txt serves
            too, with a class in each line and folders of images and labels beside it.
        split: key of the yaml.
        root: folder in place of the yaml's "path".
        images: folder of the images, where the dataset was exported without them: those that have a text file of
            labels, by the text files' names.

    Raises:
        FileNotFoundError: no yaml, or nothing where it says that images are; for an item: no image.
        ValueError: not such a yaml, no such split, no image, no text file of labels at all (but for "test"), a file
            outside the dataset's folder; for an item: a line that is no polygon, or an image that cannot be decoded.
            The message names file and line.
    """

    task = "instance"
    thing_label_ids = None
    format = "yolo-segmentation"
    white_level: WhiteLevel = None
    num_channels: int = USUAL_CHANNELS

    def __init__(
        self,
        yaml_file: str | Path,
        split: str = "train",
        root: str | Path | None = None,
        images: str | Path | None = None,
    ):
        self.yaml_file = Path(yaml_file)
        self.split = split
        content = read_yolo_yaml(self.yaml_file)
        self.id2label = check_names(content["names"], f"{self.yaml_file}: names")
        count = len(self.id2label)
        if list(self.id2label) != list(range(count)) or content.get("nc", count) != count:
            found = f"names has the classes {reprlib.repr(list(self.id2label))}, nc is {content.get('nc', 'absent')}"
            raise ValueError(f"{self.yaml_file}: {found}; 0 to nc - 1 is needed")
        if split not in yolo_splits(content):
            raise ValueError(f"{self.yaml_file} has no split {split!r}; it has {', '.join(yolo_splits(content))}")
        self.root = Path(root) if root else _root(self.yaml_file, content)
        self._files = NamedFiles(Path(images or self.root))
        self._label_folders: dict[Path, Path] = {}
        self._labels: dict[str, Path] | None = None
        places = content[split] if isinstance(content[split], list) else [content[split]]
        if images is None:
            self._images = [path for place in places for path in self._find_images(place)]
        else:
            self._labels = images_of_labels([path for place in places for path in self._find_labels(place)], images)
            self._images = sorted(self._labels)
        if not self._images:
            where = f"{', '.join(map(str, places))}; if the images are elsewhere, give their folder (image_folder)"
            raise ValueError(f"{self.yaml_file}: {split} has no image in {where}")
        if not any(map(os.path.isfile, map(self.image_path, range(len(self))))):
            raise FileNotFoundError(
                f"{self.yaml_file}: none of the {len(self)} images of {split} is there, such as {self.image_path(0)}; "
                "give their folder (image_folder)"
            )
        # The images that are kept for a test often come without labels.
        if split != "test" and not any(os.path.isfile(self._label_path(name)) for name in self._images):
            raise ValueError(
                f"{self.yaml_file}: none of the {len(self)} images of {split} has a text file of labels; looked for "
                f"{self._label_path(self._images[0])} and the like"
            )

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Sample:
        path = self.image_path(index)
        image = ImageFile(path, str(path), self.white_level, self.num_channels)
        label_path = self._label_path(self._images[index])
        objects = list(self._objects(label_path, image.size)) if os.path.isfile(label_path) else []
        return image.sample(segments_of_objects(objects, image.size, True, str(label_path)), self.name_of(index))

    def name_of(self, index: int) -> str:
        return self._images[index]

    def image_path(self, index: int) -> Path:
        return self._files.path(self._images[index])

    def _label_path(self, name: str) -> Path:
        """The text file of an image; its folder may be in capitals."""
        if self._labels is not None:
            return self._labels[name]
        path = yolo_label_path(self._files.path(name), self.root)
        if path.parent not in self._label_folders:
            found = find_path(self.root, list(path.parent.relative_to(self.root).parts))
            self._label_folders[path.parent] = found or path.parent
        return self._label_folders[path.parent] / path.name

    def _find_images(self, place: Any) -> list[str]:
        """Images, relative to the root, of a folder or of a text file that lists them."""
        path = self._locate(self._checked(place))
        if path.is_dir():
            found = [path / name for name in image_files(path)]
        else:
            # "./" stands for the list's own folder, and nothing for the root, as for Ultralytics.
            return [self._listed(line, path) for line in _lines(path)]
        return [_absolute(image).relative_to(_absolute(self.root)).as_posix() for image in found]

    def _find_labels(self, place: Any) -> list[Path]:
        """Text files, of a folder of images or of a text file that lists these."""
        if self._checked(place).lower().endswith(".txt"):
            return label_files_of_images(self.root, _lines(self._locate(place)))
        return label_files_of_folder(self.root, place)

    def _checked(self, place: Any) -> str:
        if not isinstance(place, str):
            given = f"{self.split} has {reprlib.repr(place)}"
            raise ValueError(f"{self.yaml_file}: {given}; the path of a folder or file is needed")
        return place

    def _listed(self, line: str, path: Path) -> str:
        """The image in a line of a list, relative to the root."""
        if line.startswith("./"):
            line = str(inside(path.parent, line, str(path)))
        return self._files.add(line, str(path))

    def _locate(self, place: str) -> Path:
        """The folder or file of a split. Roboflow writes ../train/images for train/images beside the yaml, and
        data-1/train/images for a yaml in data-1; Windows has backslashes, and its file system no capitals."""
        candidates = [place, place.removeprefix("../")] if place.startswith("../") else [place]
        inner = [_absolute(self.root / name) for name in candidates]
        inner = [path for path in inner if path.is_relative_to(_absolute(self.root))]
        ends = (find_path(_absolute(self.root), parts) for parts in ends_of_place(place))
        found = next((path for path in (*inner, *filter(None, ends)) if os.path.exists(path)), None)
        if found is None and not inner:
            inside(self.root, place, str(self.yaml_file))
        if found is None:
            raise FileNotFoundError(
                f"no such folder or file: {inner[-1]} ({self.split} in {self.yaml_file}); if the images are "
                "elsewhere, give their folder (image_folder)"
            )
        return found

    def _objects(self, path: Path, size: tuple[int, int]) -> Iterator[CocoObject]:
        for number, line in enumerate(_read_text(path).split("\n"), 1):
            if line.strip():
                yield self._object(line.split(), size, f"{path}, line {number}", f"line {number}")

    def _object(self, words: list[str], size: tuple[int, int], where: str, name: str) -> CocoObject:
        try:
            label, *shares = map(_number, words)
        except ValueError as error:
            raise ValueError(f"{where} is not a list of numbers: {error}") from error
        if label not in self.id2label:
            names = f"the {len(self.id2label)} names of {self.yaml_file}"
            raise ValueError(f"{where}: class {words[0][:20]} is not among {names}")
        if len(shares) < _MIN_COORDINATES or len(shares) % 2:
            hint = " (four are a box, of which no mask can be made)" if len(shares) == 4 else ""
            raise ValueError(f"{where} has {len(shares)} coordinates{hint}; x and y of at least 3 points are needed")
        if not all(-_TOLERANCE <= share <= 1 + _TOLERANCE for share in shares):
            raise ValueError(
                f"{where} has coordinates from {min(shares)} to {max(shares)}; shares of width and height in [0, 1] "
                "are needed"
            )
        height, width = size
        polygon = [share * (height if i % 2 else width) for i, share in enumerate(shares)]
        return CocoObject(name, int(label), [polygon], False)


def read_yolo_yaml(path: Path) -> dict[str, Any]:
    """The yaml of a YOLO dataset, or what a classes.txt stands for.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a yaml.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no such file: {path}")
    if is_classes_file(path):
        return classes_content(path, _read_text(path).split("\n"))
    content = flat_yaml(_read_text(path), str(path))
    if not isinstance(content, dict) or "names" not in content or not yolo_splits(content):
        raise ValueError(f"{path} is no yaml of a YOLO dataset: it has no names, or none of {', '.join(_SPLITS)}")
    return content


def yolo_splits(content: dict[str, Any]) -> list[str]:
    """The splits that a yaml gives a place for."""
    return [split for split in _SPLITS if content.get(split)]


def _root(yaml_file: Path, content: dict[str, Any]) -> Path:
    """The dataset's folder: "path" of the yaml, else the yaml's folder."""
    if is_classes_file(yaml_file):
        return classes_root(yaml_file)
    folder = yaml_file.parent
    name = content.get("path")
    if not name:
        return folder
    if not isinstance(name, str):
        raise ValueError(f"{yaml_file}: path is {name!r}; a text is needed")
    path = _absolute(folder / name)
    if not os.path.isdir(path):  # a yaml that was copied with its data still has the path that it had elsewhere
        return folder
    if not path.is_relative_to(_absolute(folder)):
        raise ValueError(
            f"{yaml_file} has its data in {path}, which is outside its own folder; if you trust it, give that folder "
            "yourself (image_folder of open_dataset, root of YoloSegmentation)"
        )
    return path


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:  # ValueError: no UTF-8
        raise ValueError(f"cannot read {path}: {error}") from error


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in _read_text(path).split("\n") if line.strip()]


def _number(word: str) -> float:
    # float() would take 1_0 for 10, and digits of other scripts.
    if "_" in word or not word.isascii():
        raise ValueError(f"{word[:20]!r} is no number")
    return float(word)


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))
