"""One way to open a dataset of any format: finds out which it is, and which splits it has."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from m2f.data.cityscapes import IMAGES, LABELS_FOLDER, Cityscapes
from m2f.data.class_names import find_class_names
from m2f.data.coco_instances import CocoInstances
from m2f.data.coco_layout import ROBOFLOW_FILE, coco_files, coco_format, coco_split
from m2f.data.coco_panoptic import CocoPanoptic
from m2f.data.dataset_paths import choose_split, subfolders, unsplit_hint
from m2f.data.dataset_rows import DatasetRows
from m2f.data.folder_pairs import pair_splits
from m2f.data.huggingface_datasets import is_hub_name, is_rows, load_rows, row_splits, rows_folder
from m2f.data.instance_maps import InstanceMaps
from m2f.data.known_formats import known_formats
from m2f.data.segmentation_dataset import SegmentationDataset
from m2f.data.semantic_folder import SemanticFolder, semantic_splits
from m2f.data.tool_formats import (
    TOOL_FORMATS,
    TOOL_OPENERS,
    chosen_pair,
    named_splits,
    only_file,
    tool_splits,
    tool_splits_of_file,
)
from m2f.data.yolo_layout import classes_files, is_classes_file
from m2f.data.yolo_segmentation import YoloSegmentation, read_yolo_yaml, yolo_splits
from m2f.image_processing.channel_counts import USUAL_CHANNELS
from m2f.image_processing.white_level import WhiteLevel, check_white_level

# Format -> what is looked for.
FORMATS = {
    "coco-instance": 'a json of COCO instances (annotations with "segmentation"), in it, in annotations/ or train/',
    "coco-panoptic": 'a json of COCO panoptic (annotations with "segments_info"), in it, in annotations/ or train/',
    "roboflow-coco": f"train/{ROBOFLOW_FILE} and the like",
    "semantic-folder": "images/SPLIT and annotations/SPLIT (or masks, labels) with PNG or TIFF label maps, or "
    "SPLIT/images and SPLIT/annotations",
    "instance-maps": "as semantic-folder, with a number for each object in PNG or TIFF maps; only where --format asks",
    "cityscapes": f"{IMAGES}/SPLIT and {LABELS_FOLDER}/SPLIT",
    "yolo-segmentation": "a yaml with names and train, val or test; or classes.txt, images/ and labels/",
    "datasets": "parquet files, a folder written by save_to_disk, or a name on the Hub",
    **TOOL_FORMATS,
}
# Formats whose files are named in several ways -> those that a folder is not, where it is one of the former.
_INSTEAD_OF = {"object-masks": "semantic-folder", "colour-masks": "semantic-folder", "voc": "semantic-folder"}
_YAML_SUFFIXES = (".yaml", ".yml")
_SHOWN = 12
# Format -> split -> where it is: the annotation files, a pair of folders, or None where its name tells.
_Places = dict[str, dict[str, Any]]


def open_dataset(
    path: Any,
    split: str = "train",
    format: str = "auto",
    image_folder: str | Path | None = None,
    white_level: WhiteLevel = None,
    num_channels: int = USUAL_CHANNELS,
    **options: Any,
) -> SegmentationDataset:
    """The reader of one split of a dataset.

    Args:
        path: a folder; an annotation file (json, yaml, parquet), which needs no `split` where it has one; a dataset's
            name on the Hub; or a `datasets.Dataset` or `DatasetDict`.
        split: one of `list_splits(path)`, or a name that means the same ("val" for "valid").
        format: one of `FORMATS`, needed where a folder can be read in several; "auto" finds it.
        image_folder: where the images are, if not where they are looked for; for YOLO, the dataset's folder, or
            that of the images of one that was exported without them.
        white_level: which value is white in images of more than 8 bits, see `m2f.image_processing.white_level`.
        num_channels: of the images, see `ImageFile`.
        **options: what else the reader takes, such as `task` of `Cityscapes` or `reduce_labels` of `SemanticFolder`.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: unknown or ambiguous; the message says what was looked for and what was found. Also what the
            reader raises.
        TypeError: an option that the reader does not have.
    """
    kind, places = _only_format(path, format)
    named = isinstance(path, Mapping) or (not is_rows(path) and not os.path.isfile(path))
    name = next(iter(places)) if len(places) == 1 and not named else _choose(split, list(places), path)
    white_level = check_white_level(white_level)
    reader = _OPENERS[kind](path, name, places, image_folder, options)
    reader.white_level, reader.num_channels = white_level, num_channels
    return reader


def list_splits(path: Any, format: str = "auto") -> list[str]:
    """The splits of a dataset, as it calls them.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: unknown or ambiguous.
    """
    return list(_only_format(path, format)[1])


def _only_format(path: Any, format: str) -> tuple[str, dict[str, Any]]:
    """The format, and the splits with their places."""
    if format not in ("auto", *FORMATS):
        raise ValueError(f"format must be auto or one of {', '.join(FORMATS)}, got {format!r}")
    found = _find(path)
    # Roboflow's json is one of COCO, and may be read as such to keep the category that groups others.
    if format == "coco-instance" and "roboflow-coco" in found:
        found = {format: found["roboflow-coco"]}
    # Maps of instances lie where maps of classes do, and nothing but their numbers tells them apart.
    if format == "instance-maps" and "semantic-folder" in found:
        found = {format: found["semantic-folder"]}
    if format != "auto":
        found = {format: found[format]} if format in found else _named(path, format)
    if len(found) == 1:
        return next(iter(found.items()))
    if found:
        several = "; ".join(f"{kind} ({', '.join(splits)})" for kind, splits in found.items())
        raise ValueError(f"{path} can be read in several formats: {several}; give format, or the path of one file")
    known = known_formats(Path(path)) if format == "auto" else []
    if known:
        raise ValueError(f"{path} is not read as it is. It holds {'; '.join(known)}")
    looked_for = "\n".join(f"- {kind}: {text}" for kind, text in FORMATS.items() if format in ("auto", kind))
    raise ValueError(f"{path} is no dataset of a known format. Looked for\n{looked_for}\nFound {_content(path)}")


def _choose(split: str, splits: list[str], path: Any) -> str:
    """As `choose_split`, and says what to do with a dataset that is all in one split."""
    try:
        return choose_split(split, splits, _name(path))
    except ValueError as error:
        hint = unsplit_hint(splits)
        raise ValueError(f"{error}{'; ' * bool(hint)}{hint}") from None


def _find(path: Any) -> _Places:
    """All formats that a path can be read in."""
    if not is_rows(path) and not isinstance(path, str | os.PathLike):
        raise ValueError(f"a dataset is a path, a datasets.Dataset or a DatasetDict, got {type(path).__name__}")
    if is_rows(path) or is_hub_name(str(path)):
        return {"datasets": dict.fromkeys(row_splits(path))}
    path = Path(path)
    if os.path.isfile(path):
        return _find_in_file(path)
    if not os.path.isdir(path):
        raise FileNotFoundError(f"no such file or folder: {path}")
    found: _Places = {
        **coco_files(path),
        **tool_splits(path),
        "cityscapes": _cityscapes_splits(path),
        "yolo-segmentation": _yolo_files(path),
        "datasets": dict.fromkeys(row_splits(path)),
    }
    # A panoptic json has its own label maps beside it.
    panoptic = {file.parent for files in found.get("coco-panoptic", {}).values() for file in files}
    semantic = _semantic_splits(path, any(found.values()))
    found["semantic-folder"] = {split: pair for split, pair in semantic.items() if pair[1] not in panoptic}
    for kind, other in _INSTEAD_OF.items():
        if found.get(kind):
            found[other] = {}
    return {kind: found[kind] for kind in FORMATS if found.get(kind)}


def _named(path: Any, format: str) -> _Places:
    """The format that is named, where its files are there but were not recognised."""
    is_name = isinstance(path, str | os.PathLike) and not is_hub_name(str(path))
    splits = named_splits(Path(path), format) if is_name else {}
    return {format: splits} if splits else {}


def _find_in_file(path: Path) -> _Places:
    suffix = path.suffix.lower()
    if suffix == ".json":
        kind = coco_format(path)
        return {kind: {coco_split(path): [path]}} if kind else tool_splits_of_file(path)
    if suffix in _YAML_SUFFIXES or is_classes_file(path):
        return {"yolo-segmentation": dict.fromkeys(yolo_splits(read_yolo_yaml(path)), [path])}
    return {"datasets": dict.fromkeys(row_splits(path))} if suffix == ".parquet" else tool_splits_of_file(path)


def _semantic_splits(root: Path, has_others: bool) -> dict[str, tuple]:
    """Those of the usual names, with the suffix of the label maps where they have one; else those of other names. The
    latter takes a look at all files, and so is done only where no other format was found."""
    usual = semantic_splits(root)
    paired = {} if has_others and not usual else pair_splits(root)
    return dict(paired) if not usual or usual.keys() == paired.keys() else dict(usual)


def _cityscapes_splits(root: Path) -> dict[str, None]:
    if not (root / IMAGES).is_dir() or not (root / LABELS_FOLDER).is_dir():
        return {}
    return dict.fromkeys(path.name for path in subfolders(root / IMAGES))


def _yolo_files(root: Path) -> dict[str, list[Path]]:
    """Split -> yaml files that have it. Files that are no YOLO data are left out, as other programs have yaml too."""
    found: dict[str, list[Path]] = {}
    for path in _yaml_files(root):
        try:
            splits = yolo_splits(read_yolo_yaml(path))
        except ValueError:
            continue
        for split in splits:
            found.setdefault(split, []).append(path)
    for path in classes_files(root) if not found else []:
        found = {split: [path] for split in yolo_splits(read_yolo_yaml(path))}
    return found


def _yaml_problems(root: Path) -> list[str]:
    """Why the yaml files of a folder are no YOLO data."""
    problems = []
    for path in _yaml_files(root):
        try:
            read_yolo_yaml(path)
        except ValueError as error:
            problems.append(str(error))
    return problems


def _yaml_files(root: Path) -> list[Path]:
    files = (path for path in root.iterdir() if path.suffix.lower() in _YAML_SUFFIXES and path.is_file())
    return sorted(path for path in files if not path.name.startswith("."))


def _name(path: Any) -> str:
    return "the dataset" if is_rows(path) else str(path)


def _content(path: Any) -> str:
    """What is there instead."""
    if not os.path.isdir(path):
        return f"the file {path}"
    names = sorted(entry.name + "/" * entry.is_dir() for entry in os.scandir(path))
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    problems = "".join(f"\n{text}" for text in _yaml_problems(Path(path)))
    return (", ".join(names[:_SHOWN]) or "nothing") + more + problems


def _open_coco_instance(path: Any, split: str, places: dict, image_folder: Any, options: dict) -> SegmentationDataset:
    return CocoInstances(only_file(places[split], split), image_folder, split=split, **options)


def _open_roboflow(path: Any, split: str, places: dict, image_folder: Any, options: dict) -> SegmentationDataset:
    file = only_file(places[split], split)
    return CocoInstances(file, image_folder or file.parent, drop_groups=True, split=split, **options)


def _open_coco_panoptic(path: Any, split: str, places: dict, image_folder: Any, options: dict) -> SegmentationDataset:
    return CocoPanoptic(only_file(places[split], split), image_folder, split=split, **options)


def _open_semantic(path: Any, split: str, places: dict, image_folder: Any, options: dict) -> SegmentationDataset:
    pair, options = chosen_pair(path, split, places, image_folder, options)
    if "id2label" not in options:
        names, from_one = find_class_names(Path(path))
        options = {"id2label": names, "reduce_labels": from_one, **options}
    folders = [place[1] for place in places.values() if place is not None] or [pair.labels]
    return SemanticFolder(*pair[:2], split=split, class_folders=folders, label_suffix=pair.label_suffix, **options)


def _open_instance_maps(path: Any, split: str, places: dict, image_folder: Any, options: dict) -> SegmentationDataset:
    pair, options = chosen_pair(path, split, places, image_folder, options)
    if options.get("classes") is not None and (Path(path) / options["classes"]).is_file():
        options = {**options, "classes": Path(path) / options["classes"]}
    return InstanceMaps(*pair[:2], split=split, label_suffix=pair.label_suffix, **options)


def _open_cityscapes(path: Any, split: str, places: dict, image_folder: Any, options: dict) -> SegmentationDataset:
    if image_folder is not None:
        raise ValueError(f"cityscapes has its images in {IMAGES}; image_folder must be None, got {image_folder}")
    return Cityscapes(path, split, **options)


def _open_yolo(path: Any, split: str, places: dict, image_folder: Any, options: dict) -> SegmentationDataset:
    file = only_file(places[split], split)
    try:
        return YoloSegmentation(file, split, root=image_folder, **options)
    except FileNotFoundError:
        if image_folder is None:
            raise
    return YoloSegmentation(file, split, images=image_folder, **options)


def _open_rows(path: Any, split: str, places: dict, image_folder: Any, options: dict) -> SegmentationDataset:
    if image_folder is not None:
        raise ValueError(f"rows have their images in them; image_folder must be None, got {image_folder}")
    rows = load_rows(path, split)
    local = not is_rows(path) and not is_hub_name(str(path))
    folder = rows_folder(Path(path)) if local else None
    if folder is not None and "id2label" not in options:
        options = {"id2label": find_class_names(folder)[0], **options}
    return DatasetRows(rows, split, folder=folder, origin=_name(path), **options)


_OPENERS: dict[str, Callable[..., SegmentationDataset]] = {
    "coco-instance": _open_coco_instance,
    "coco-panoptic": _open_coco_panoptic,
    "roboflow-coco": _open_roboflow,
    "semantic-folder": _open_semantic,
    "instance-maps": _open_instance_maps,
    "cityscapes": _open_cityscapes,
    "yolo-segmentation": _open_yolo,
    "datasets": _open_rows,
    **TOOL_OPENERS,
}
