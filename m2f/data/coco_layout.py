"""The json files of COCO's formats in a dataset's folder."""

import re
from collections.abc import Iterator
from pathlib import Path

from m2f.data.dataset_paths import split_of_folder, split_of_name, subfolders

ROBOFLOW_FILE = "_annotations.coco.json"
_ANNOTATIONS = "annotations"
# The key that comes first in a json tells what its annotations are.
_FORMAT_OF_KEY = {b"segments_info": "coco-panoptic", b"segmentation": "coco-instance"}
_KEY = re.compile(rb'"(segments_info|segmentation|images|annotations|categories)"\s*:')
_SECTIONS = {b"images", b"annotations", b"categories"}
# A list is of predictions; the json of one image, which has its "image" first, is of Segment Anything.
_NO_DATASET = re.compile(rb'(\xef\xbb\xbf)?\s*(\[|{\s*"image"\s*:\s*{)')
_FEW = 20  # json files of a split in its folder; other tools write one for each image
_BLOCK, _OVERLAP = 1 << 20, 64
# These files of COCO have no instances, or a part of them again; the others are of `datasets`.
_OTHER_PREFIXES = ("person_keypoints_", "captions_", "image_info_", "dataset_info.", "dataset_dict.", "state.")


def coco_format(path: Path) -> str | None:
    """The format of a json file; None: none of COCO's. Read up to the first annotation, not parsed: COCO's own files
    have up to 500 MB."""
    if path.name == ROBOFLOW_FILE:
        return "roboflow-coco"
    text, sections = b"", set()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            if not text and _NO_DATASET.match(block):
                return None
            # A key may lie across two blocks. Without zeros, text of 16 bits (PowerShell's) is as any other.
            text = text[-_OVERLAP:] + block.replace(b"\0", b"")
            for match in _KEY.finditer(text):
                if match[1] in _FORMAT_OF_KEY:
                    return _FORMAT_OF_KEY[match[1]]
                sections.add(match[1])
    # A json without any annotation has all sections; captions have no categories.
    return "coco-instance" if sections == _SECTIONS else None


def coco_files(root: Path) -> dict[str, dict[str, list[Path]]]:
    """Format -> split -> files, of the json files of COCO's formats in a folder, in its "annotations", and in folders
    named after a split, or in the "annotations" of those.

    A split is called as the file says (train for instances_train2017.json), else as the folder named after it, else as
    the file without its suffix; Roboflow's, which are one to a folder, as their folder.
    """
    found: dict[str, dict[str, list[Path]]] = {}
    for path in sorted(root.glob(f"*/{ROBOFLOW_FILE}")):
        found.setdefault("roboflow-coco", {})[path.parent.name] = [path]
    for path in [*_json_files(root), *_files_of_splits(root)]:
        kind = coco_format(path)
        if kind is not None:
            found.setdefault(kind, {}).setdefault(coco_split(path), []).append(path)
    return found


def coco_split(path: Path) -> str:
    """What the split of a json is called."""
    if path.name == ROBOFLOW_FILE:
        return path.parent.name
    folder = path.parent.parent if path.parent.name.lower() == _ANNOTATIONS else path.parent
    return split_of_name(path.stem) or (folder.name if split_of_folder(folder.name) else path.stem)


def _files_of_splits(root: Path) -> Iterator[Path]:
    for folder in subfolders(root):
        files = _json_files(folder) if split_of_folder(folder.name) else []
        if len(files) <= _FEW:
            yield from (path for path in files if path.name != ROBOFLOW_FILE)


def _json_files(folder: Path) -> list[Path]:
    """Those in a folder and in its "annotations", in capitals or not."""
    places = [folder, *(path for path in subfolders(folder) if path.name.lower() == _ANNOTATIONS)]
    files = sorted(path for place in places for path in place.iterdir() if path.suffix.lower() == ".json")
    return [path for path in files if path.is_file() and not path.name.startswith((*_OTHER_PREFIXES, "."))]
