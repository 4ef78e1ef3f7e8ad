"""Names of files and of splits, as datasets have them."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from m2f.image_processing.image_opening import IMAGE_SUFFIXES

# What the parts of a dataset are called.
_SPLITS = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
# More files than these are not looked for, nor deeper.
_PROBES = 20
_SEARCH_DEPTH = 3
_SPLIT_OF_WORD = {word: split for split, words in _SPLITS.items() for word in words}


def inside(folder: Path, name: str, written_in: str) -> Path:
    """The absolute path of a file that an annotation names, relative to `folder`.

    Links are not followed: a folder may link to where its images are.

    Raises:
        ValueError: the path leaves the folder.
    """
    path = Path(os.path.abspath(folder / name))
    if not path.is_relative_to(os.path.abspath(folder)):
        raise ValueError(f"{written_in} names the file {name!r}, which is outside {folder} and is not read")
    return path


def find_folder(names: Sequence[str], annotation_file: Path, option: str, leave_out: Path | None = None) -> Path:
    """The folder that holds the files which a json names, of which some may be missing.

    Searched are the json's folder, and the one above if its name is "annotations", with their folders and the folders
    of those. Where files of these names are in several, the folder counts that is named after the json's split.

    Args:
        names: relative to the folder.
        option: what messages say to use instead.
        leave_out: a folder that has files of the same names, but others.

    Raises:
        FileNotFoundError: no folder has a file of these names.
        ValueError: several have as many, and none is named after the split.
    """
    step = max(1, len(names) // _PROBES)
    probes = [name for name in names[::step][:_PROBES] if ".." not in name]
    level = [annotation_file.parent]
    if level[0].name == "annotations":
        level.append(level[0].parent)
    for _ in range(_SEARCH_DEPTH):
        searched = [folder for folder in level if folder != leave_out]
        hits = {folder: sum(os.path.isfile(folder / name) for name in probes) for folder in searched}
        best = [folder for folder, count in hits.items() if count and count == max(hits.values())]
        if best:
            return _only(best, annotation_file, option)
        level = [inner for folder in level for inner in subfolders(folder)]
    raise FileNotFoundError(
        f"{annotation_file}: no folder in {annotation_file.parent} has files of the names in it, such as "
        f"{', '.join(probes[:2]) or 'none'}; give {option}"
    )


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted; none in one that does not exist or may not be read."""
    try:
        return sorted(Path(entry.path) for entry in os.scandir(folder) if entry.is_dir())
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []


def image_files(folder: Path) -> list[str]:
    """All images in a folder and its folders, relative to it, sorted."""
    return files_with(folder, IMAGE_SUFFIXES)


def files_with(folder: Path, suffixes: Iterable[str]) -> list[str]:
    """All files with one of the (lower case) suffixes in a folder and its folders, relative to it, sorted. Hidden
    files are left out: macOS puts one beside each file in an archive."""
    return sorted(_files_with(folder, suffixes))


def has_files_with(folder: Path, suffixes: Iterable[str]) -> bool:
    """Whether there is one such file."""
    return next(_files_with(folder, suffixes), None) is not None


def split_of_name(name: str) -> str | None:
    """The split that a file or folder is named after: "train2017", "instances_val" and "valid" are "train", "val" and
    "val"; None where no word of the name is one."""
    words = re.findall(r"[a-z]+", name.lower())
    return next((_SPLIT_OF_WORD[word] for word in words if word in _SPLIT_OF_WORD), None)


def choose_split(split: str, available: Sequence[str], where: str) -> str:
    """The split among `available` that is meant: the one of this name, else the one that means the same ("valid" for
    "val").

    Raises:
        ValueError: none, or several that mean the same.
    """
    if split in available:
        return split
    wanted = split_of_name(split)
    same = [name for name in available if wanted is not None and split_of_name(name) == wanted]
    if len(same) != 1:
        raise ValueError(f"{where} has no split {split!r}; it has {', '.join(map(repr, available)) or 'none'}")
    return same[0]


def _files_with(folder: Path, suffixes: Iterable[str]) -> Iterator[str]:
    for path in folder.rglob("*"):
        if path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file():
            yield path.relative_to(folder).as_posix()


def _only(folders: list[Path], annotation_file: Path, option: str) -> Path:
    split = split_of_name(annotation_file.stem)
    named = [folder for folder in folders if split is not None and split_of_name(folder.name) == split]
    if len(folders) > 1 and len(named) != 1:
        found = " or ".join(map(str, folders))
        raise ValueError(f"{annotation_file}: its files may be those in {found}; give {option}")
    return (named or folders)[0]
