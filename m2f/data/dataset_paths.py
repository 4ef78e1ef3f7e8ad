"""Names of files and of splits, as datasets have them."""

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote

from m2f.image_processing.image_opening import ARRAY_SUFFIX, IMAGE_SUFFIXES

# What the parts of a dataset are called.
_SPLITS = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
# Folders, in small letters, whose images are labels.
LABEL_FOLDERS = frozenset(
    ("annotation", "annotations", "label", "labels", "mask", "masks", "segmentationclass", "segmentationobject")
)
# More files than these are not looked for, nor deeper: Segments.ai has images in segments/OWNER_DATASET/RELEASE.
_PROBES = 20
_SEARCH_DEPTH = 4
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://[^/\\]*")
_DRIVE = re.compile(r"[A-Za-z]:[/\\]")
_LOCAL_FILES = "/local-files/?d="  # in Label Studio's address of a file on its own machine
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


def name_parts(name: str) -> list[str]:
    """Folders and file of a name that another machine or system gave, without drive, host, query and steps upwards:
    ["x", "a.png"] of "C:\\x\\a.png", "../x/a.png" and "https://host/x/a.png?size=1"."""
    address = _ADDRESS.match(name)
    if _LOCAL_FILES in name:
        name = unquote(name.partition(_LOCAL_FILES)[2])
    elif address:
        name = unquote(re.split("[?#]", name[address.end() :])[0])
    elif _DRIVE.match(name):
        name = name[2:]
    return [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]


def name_key(name: str) -> str:
    """What names have in common that differ in capitals, or in how an accent is written (macOS: NFD)."""
    return unicodedata.normalize("NFC", name).casefold()


def find_folder(names: Sequence[str], annotation_file: Path, option: str, leave_out: Path | None = None) -> Path:
    """The folder that holds the files which a json names, of which some may be missing.

    Searched are the json's folder, and the one above if its name is "annotations", with their folders and the folders
    of those; in the end the one above a folder "train" and the like, but for its other splits. Where files of these
    names are in several, the folder counts that is named after the json's split. Where none has them, files count
    whose paths are the ends of the names, see `NamedFiles`.

    Args:
        names: relative to the folder, or as another machine knew them.
        option: what messages say to use instead.
        leave_out: a folder that has files of the same names, but others.

    Raises:
        FileNotFoundError: no folder has a file of these names.
        ValueError: several have as many, and none is named after the split.
    """
    step = max(1, len(names) // _PROBES)
    probes = names[::step][:_PROBES]
    for has in (_has_file, _has_image_of_parts if option == "image_folder" else _has_file_of_parts):
        for level in _starts(annotation_file.parent):
            for _ in range(_SEARCH_DEPTH):
                hits = {folder: sum(has(folder, name) for name in probes) for folder in level if folder != leave_out}
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


def unsplit_hint(splits: Sequence[str]) -> str:
    """What to do with a dataset that is all in one split whose name tells nothing, as many tools export it; "" for
    others."""
    if len(splits) != 1 or split_of_name(splits[0]) is not None:
        return ""
    return (
        f"--train-split {splits[0]!r} (or the path of the annotation file itself) trains on it, and "
        "--validation-fraction 0.1 keeps a tenth of it to evaluate on"
    )


def image_files(folder: Path) -> list[str]:
    """All images in a folder and its folders, relative to it, sorted. An array (.npy) beside an image of its name is
    something else about that image."""
    names = files_with(folder, IMAGE_SUFFIXES)
    pictures = {name.rpartition(".")[0] for name in names if not name.lower().endswith(ARRAY_SUFFIX)}
    return [n for n in names if not n.lower().endswith(ARRAY_SUFFIX) or n.rpartition(".")[0] not in pictures]


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


def split_of_folder(name: str) -> str | None:
    """The split that a folder holds which is called "train", "val2017" and the like, and nothing more: datasets may be
    in folders called "test_data"."""
    return _SPLIT_OF_WORD.get(name.lower().rstrip("0123456789"))


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


def _starts(folder: Path) -> list[list[Path]]:
    """Where a search begins, the second place after the first has nothing."""
    if folder.name.lower() == "annotations":
        return [[folder, folder.parent]]
    split = split_of_folder(folder.name)
    if split is None:
        return [[folder]]
    return [[folder], [path for path in subfolders(folder.parent) if split_of_name(path.name) in (None, split)]]


def _has_file(folder: Path, name: str) -> bool:
    path = os.path.abspath(folder / name)
    return os.path.isfile(path) and Path(path).is_relative_to(os.path.abspath(folder))


def _has_file_of_parts(folder: Path, name: str) -> bool:
    parts = name_parts(name)
    if not parts:
        return False
    if any(os.path.isfile(folder.joinpath(*parts[start:])) for start in range(len(parts))):
        return True
    try:
        return any(name_key(entry.name) == name_key(parts[-1]) for entry in os.scandir(folder) if entry.is_file())
    except OSError:
        return False


def _has_image_of_parts(folder: Path, name: str) -> bool:
    return folder.name.lower() not in LABEL_FOLDERS and _has_file_of_parts(folder, name)


def _split_of_path(folder: Path) -> str | None:
    return split_of_name(folder.name) or split_of_folder(folder.parent.name)


def _only(folders: list[Path], annotation_file: Path, option: str) -> Path:
    split = split_of_name(annotation_file.stem) or split_of_folder(annotation_file.parent.name)
    named = [folder for folder in folders if split is not None and _split_of_path(folder) == split]
    if len(folders) > 1 and len(named) != 1:
        found = " or ".join(map(str, folders))
        raise ValueError(f"{annotation_file}: its files may be those in {found}; give {option}")
    return (named or folders)[0]
