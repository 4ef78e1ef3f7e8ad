"""Folders of images and of label maps under the names that people give them, and label maps that are called after
their images with a suffix."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from m2f.data.dataset_paths import files_with, has_files_with, image_files, split_of_name, subfolders
from m2f.data.label_maps import LABEL_SUFFIXES

_IMAGE_NAMES = ("images", "image", "imgs", "img", "jpegimages", "rgb", "camerargb", "original_images")
_LABEL_NAMES = (
    "annotations", "masks", "labels", "annotation", "mask", "label", "gt", "groundtruth", "segmentation",
    "segmentationclass", "cameraseg", "label_images_semantic",
)  # fmt: skip
# CamVid's train and trainannot; copies of it have train_labels.
_SPLIT_SUFFIXES = ("annot", "_labels", "_masks", "_mask", "_label")
LABEL_ENDINGS = ("_mask", "_masks", "_label", "_labels", "_L", "_gt", "_seg", "_segmentation", "_matte", "-mask")


class FolderPair(NamedTuple):
    """Where a split's images and label maps are.

    Args:
        label_suffix: what the label maps' names have behind those of the images.
    """

    images: Path
    labels: Path
    label_suffix: str = ""


def pair_splits(root: Path) -> dict[str, FolderPair]:
    """Split -> folders, of a folder that holds images and label maps; empty where none is found.

    Found are IMAGES/SPLIT beside LABELS/SPLIT, SPLIT/IMAGES beside SPLIT/LABELS, SPLIT beside SPLITannot (_labels,
    _masks), IMAGES beside LABELS, SPLIT with both in it, and a folder with both in it; where there are no splits, all
    is "train". IMAGES and LABELS may have several names, in any case.
    """
    for pairs in (_by_name(root), _by_split_name(root), _in_one_folder(root)):
        found: dict[str, FolderPair] = {}
        for split, pair in pairs:
            if split not in found and (named := _with_suffix(*pair)) is not None:
                found[split] = named
        if found:
            return found
    return {}


def label_suffix(images: Path, labels: Path) -> str | None:
    """What the label maps' names in a folder have behind those of the images: "" where they are the same; None where
    none belongs to an image."""
    stems = {name.rpartition(".")[0] for name in image_files(images)}
    label_stems = [name.rpartition(".")[0] for name in files_with(labels, LABEL_SUFFIXES)]
    if images != labels and not stems.isdisjoint(label_stems):
        return ""
    named = ((end, stem.removesuffix(end)) for end in LABEL_ENDINGS for stem in label_stems if stem.endswith(end))
    return next((end for end, stem in named if stem in stems), None)


def named_pair(root: Path, split: str, images: str, labels: str, suffix: str | None = None) -> FolderPair:
    """The folders of a split under names of one's own: NAME/SPLIT, SPLIT/NAME, or NAME.

    Raises:
        FileNotFoundError: there is none of these.
    """
    image_folder, label_folder = _placed(root, split, images), _placed(root, split, labels)
    if suffix is None:
        suffix = label_suffix(image_folder, label_folder) or ""
    return FolderPair(image_folder, label_folder, suffix)


def check_only_labels(root: Path, pair: FolderPair) -> None:
    """Whether the label maps that were found for some images are the only ones under a usual name: others may be of
    instances, or of an earlier version.

    Raises:
        ValueError: there are several; the message has the options that choose.
    """
    parts = pair.labels.relative_to(root).parts if pair.labels.is_relative_to(root) else ()
    place = next((i for i, part in enumerate(parts) if part.lower() in _LABEL_NAMES), None)
    if place is None:
        return
    named = [path.name for path in _named(root.joinpath(*parts[:place]), _LABEL_NAMES)]
    folders = {name: root.joinpath(*parts[:place], name, *parts[place + 1 :]) for name in named}
    if len(folders) < 2:
        return  # without a look at the files
    found = [name for name, path in folders.items() if path.is_dir() and label_suffix(pair.images, path) is not None]
    if len(found) > 1:
        images = next((p for p in pair.images.relative_to(root).parts if p.lower() in _IMAGE_NAMES), pair.images.name)
        several = " and ".join(str(folders[name]) for name in found)
        options = shlex.join([f"images={images}", f"labels={parts[place]}"])
        raise ValueError(
            f"{root} has label maps in several folders, {several}; say which with --data-options {options}"
        )


def free_splits(root: Path) -> list[str]:
    """What splits are called in a folder of any layout: the folders in it, or in those, that are named after one."""
    levels = (subfolders(root), [inner for folder in subfolders(root) for inner in subfolders(folder)])
    found = ([path.name for path in level if split_of_name(path.name)] for level in levels)
    return list(dict.fromkeys(next(filter(None, found), ["train"])))


def _by_name(root: Path) -> Iterator[tuple[str, tuple[Path, Path]]]:
    images, labels = _named(root, _IMAGE_NAMES), _named(root, _LABEL_NAMES)
    pairs = [(i, j) for i in images for j in labels]
    split_pairs = [(path.name, (path, j / path.name)) for i, j in pairs for path in subfolders(i)]
    if any(pair[1].is_dir() for _, pair in split_pairs):
        yield from split_pairs
        return
    inner = [
        (path.name, (i, j))
        for path in subfolders(root)
        for i in _named(path, _IMAGE_NAMES)
        for j in _named(path, _LABEL_NAMES)
    ]
    yield from inner or [("train", pair) for pair in pairs]


def _by_split_name(root: Path) -> Iterator[tuple[str, tuple[Path, Path]]]:
    for path in subfolders(root):
        for suffix in _SPLIT_SUFFIXES:
            yield path.name, (path, path.with_name(path.name + suffix))


def _in_one_folder(root: Path) -> Iterator[tuple[str, tuple[Path, Path]]]:
    named = [path for path in subfolders(root) if split_of_name(path.name)]
    yield from ((path.name, (path, path)) for path in named)
    if not named:
        yield "train", (root, root)


def _with_suffix(images: Path, labels: Path) -> FolderPair | None:
    if not images.is_dir() or not labels.is_dir() or not has_files_with(labels, LABEL_SUFFIXES):
        return None
    suffix = label_suffix(images, labels)
    return None if suffix is None else FolderPair(images, labels, suffix)


def _named(root: Path, names: tuple[str, ...]) -> list[Path]:
    """The folders in a folder that have one of these names, in the order of the names."""
    found = [path for path in subfolders(root) if path.name.lower() in names]
    return sorted(found, key=lambda path: names.index(path.name.lower()))


def _placed(root: Path, split: str, name: str) -> Path:
    candidates = (root / name / split, root / split / name, root / name)
    found = next((path for path in candidates if path.is_dir()), None)
    if found is None:
        raise FileNotFoundError(f"no such folder: {candidates[0]}, {candidates[1]} or {candidates[2]}")
    return found
