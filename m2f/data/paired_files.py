"""Images and label maps that belong together by their names."""

from collections.abc import Callable
from pathlib import Path

from m2f.data.dataset_paths import files_with, image_files
from m2f.data.label_maps import LABEL_SUFFIXES


def paired_files(image_folder: Path, label_folder: Path, label_suffix: str = "") -> list[tuple[str, str]]:
    """Names of images and of their label maps, relative to their folders. Where one of a pair is missing, it has the
    name that it is missed under.

    Args:
        label_suffix: what the label maps' names have behind those of their images, such as "_mask". Both may then be
            in one folder.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no pair at all, or two files for one image.
    """
    images, maps = _by_stem(image_folder, image_files), label_maps(label_folder, label_suffix)
    if image_folder == label_folder:
        images = {stem: name for stem, name in images.items() if name not in maps.values()}
    if not images.keys() & maps.keys():
        raise ValueError(
            f"no image in {image_folder} ({len(images)} files) has a label map of its name in "
            f"{label_folder} ({len(maps)} PNG and TIFF files)"
        )
    return [
        (images.get(stem, f"{stem}.jpg"), maps.get(stem, f"{stem}{label_suffix}.png"))
        for stem in sorted(images.keys() | maps.keys())
    ]


def label_maps(folder: Path, suffix: str) -> dict[str, str]:
    """Name of the image without its suffix -> name of the label map, of all in a folder and its folders."""
    found = _by_stem(folder, _label_files)
    return {stem.removesuffix(suffix): name for stem, name in found.items() if stem.endswith(suffix)}


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
