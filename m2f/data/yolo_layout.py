"""Where the files of a YOLO dataset are, also where its yaml was written on another machine, or where it has none."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from m2f.data.dataset_paths import files_with, name_key, name_parts, split_of_folder, subfolders

CLASSES_FILE = "classes.txt"
_IMAGES, _LABELS = "images", "labels"


def is_classes_file(path: Path) -> bool:
    """Whether this is a list of class names, as Label Studio and labelImg write it in place of a yaml."""
    return path.name.lower() == CLASSES_FILE


def classes_files(root: Path) -> list[Path]:
    """The lists of class names in a folder, or in its "labels", that has text files of labels, and images or
    a folder "labels"."""
    folders = {path.name.lower(): path for path in subfolders(root)}
    places = [root, *([folders[_LABELS]] if _LABELS in folders else [])]
    files = [path for place in places for path in sorted(place.iterdir()) if is_classes_file(path) and path.is_file()]
    return [path for path in files[:1] if (_places_of_images(root) or _LABELS in folders) and _has_labels(root)]


def classes_root(path: Path) -> Path:
    """The dataset's folder of a list of class names."""
    return path.parent.parent if path.parent.name.lower() == _LABELS else path.parent


def classes_content(path: Path, lines: list[str]) -> dict[str, Any]:
    """What a yaml would say beside a list of class names: "names", and the images' folders of each split; without
    splits, all are "train", in "images" even where the images were left out."""
    places = _places_of_images(classes_root(path)) or {"train": [_IMAGES]}
    return {"names": [line.strip() for line in lines if line.strip()], **places}


def ends_of_place(place: str) -> Iterator[list[str]]:
    """The parts of a path but for the first 0, 1, 2, ..., of which the last that names a split stays: those below the
    dataset's folder, wherever that was. ["data-1", "train", "images"] and ["train", "images"] of
    "..\\data-1\\train\\images"."""
    parts = name_parts(place)
    named = [number for number, part in enumerate(parts) if split_of_folder(part)]
    for start in range((named[-1] if named else len(parts) - 1) + 1):
        yield parts[start:]


def find_path(root: Path, parts: list[str]) -> Path | None:
    """What is there of this path, in capitals or small letters; None where nothing is, or several things are."""
    path = root
    for part in parts:
        if not os.path.exists(path / part):
            same = [name for name in _names(path) if name_key(name) == name_key(part)]
            if len(same) != 1:
                return None
            part = same[0]
        path /= part
    return path


def yolo_label_path(image: Path, root: Path) -> Path:
    """The text file of an image: the last folder "images" of its path below the root becomes "labels", and "Images"
    becomes "Labels".

    Where there is no such folder, the text file is beside the image.
    """
    *folders, _ = image.relative_to(root).parts
    for place in reversed(range(len(folders))):
        labels = _labels_like(folders[place])
        if labels is not None:
            folders[place] = labels
            break
    return root.joinpath(*folders, image.stem + ".txt")


def _labels_like(images: str) -> str | None:
    """What the folder of labels is called beside one of images; None where this is none."""
    if images.lower() != _IMAGES:
        return None
    return _LABELS.upper() if images.isupper() else _LABELS.title() if images.istitle() else _LABELS


def _places_of_images(root: Path) -> dict[str, list[str]]:
    """Split -> folders: images/SPLIT and SPLIT/images, or images."""
    found: dict[str, list[str]] = {}
    for folder in subfolders(root):
        inner = subfolders(folder)
        if folder.name.lower() == _IMAGES:
            places = [path for path in inner if split_of_folder(path.name)]
            for path in places or [folder]:
                split = split_of_folder(path.name) or "train"
                found.setdefault(split, []).append(path.relative_to(root).as_posix())
        if named := split_of_folder(folder.name):
            images = [path for path in inner if path.name.lower() == _IMAGES]
            found.setdefault(named, []).extend(path.relative_to(root).as_posix() for path in images)
    return {split: places for split, places in found.items() if places}


def _has_labels(root: Path) -> bool:
    return any(
        not is_classes_file(Path(name))
        for folder in subfolders(root)
        if folder.name.lower() == _LABELS or split_of_folder(folder.name)
        for name in files_with(folder, (".txt",))
    )


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []
