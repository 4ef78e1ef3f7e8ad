"""The json files of COCO's formats in a dataset's folder."""

import re
from pathlib import Path

from m2f.data.dataset_paths import split_of_name

ROBOFLOW_FILE = "_annotations.coco.json"
_ANNOTATIONS = "annotations"
# The key that comes first in a json tells what its annotations are.
_FORMAT_OF_KEY = {b"segments_info": "coco-panoptic", b"segmentation": "coco-instance"}
_KEY = re.compile(rb'"(segments_info|segmentation|annotations|categories)"\s*:')
_SECTIONS = {b"annotations", b"categories"}
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
            text = text[-_OVERLAP:] + block  # a key may lie across two blocks
            for match in _KEY.finditer(text):
                if match[1] in _FORMAT_OF_KEY:
                    return _FORMAT_OF_KEY[match[1]]
                sections.add(match[1])
    # A json without any annotation has both sections; captions have no categories.
    return "coco-instance" if sections == _SECTIONS else None


def coco_files(root: Path) -> dict[str, dict[str, list[Path]]]:
    """Format -> split -> files, of the json files of COCO's formats in a folder or in its "annotations".

    A split is called as the file says (train for instances_train2017.json), else as the file without its suffix;
    Roboflow's, which are one to a folder, as their folder.
    """
    found: dict[str, dict[str, list[Path]]] = {}
    for path in sorted(root.glob(f"*/{ROBOFLOW_FILE}")):
        found.setdefault("roboflow-coco", {})[path.parent.name] = [path]
    for path in sorted([*root.glob("*.json"), *(root / _ANNOTATIONS).glob("*.json")]):
        if not path.is_file() or path.name.startswith(_OTHER_PREFIXES):
            continue
        kind = coco_format(path)
        if kind is not None:
            found.setdefault(kind, {}).setdefault(coco_split(path), []).append(path)
    return found


def coco_split(path: Path) -> str:
    """What the split of a json is called."""
    return path.parent.name if path.name == ROBOFLOW_FILE else split_of_name(path.stem) or path.stem
