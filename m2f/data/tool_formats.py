"""The formats of annotation tools and of competitions: how each is found in a folder, and opened."""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from m2f.data.class_names import find_class_names
from m2f.data.colour_masks import ColourMasks
from m2f.data.colour_table import TABLE_FILES, find_colour_table
from m2f.data.cvat_xml import CvatImages, cvat_splits
from m2f.data.dataset_paths import files_with, has_files_with, split_of_name, subfolders
from m2f.data.folder_pairs import FolderPair, check_only_labels, free_splits, named_pair, pair_splits
from m2f.data.kaggle_runs import KaggleRuns, is_kaggle_header
from m2f.data.label_maps import LABEL_SUFFIXES, has_channels
from m2f.data.label_studio_json import LabelStudio
from m2f.data.labelbox_rows import LabelboxRows
from m2f.data.labelme_json import LabelMe
from m2f.data.object_masks import NAMELESS, ObjectMasks, bowl_folders, bowl_images, has_named_masks, named_images
from m2f.data.segmentation_dataset import SegmentationDataset
from m2f.data.via_json import ViaRegions
from m2f.data.voc_segmentation import VocSegmentation, voc_root, voc_splits
from m2f.image_processing.image_opening import IMAGE_SUFFIXES

# Format -> what is looked for.
TOOL_FORMATS = {
    "colour-masks": f"folders of images and of colour pictures, and {', '.join(TABLE_FILES[:3])} or the like",
    "voc": "JPEGImages, SegmentationClass and ImageSets/Segmentation",
    "labelme": "a json of LabelMe (shapes, imagePath) for each image",
    "via": "a json of the VGG Image Annotator (a project or its annotations)",
    "label-studio": "a json of Label Studio's tasks (data, annotations)",
    "labelbox": "a json of Labelbox's rows (data_row, projects), one in each line or a list",
    "cvat": "an xml of CVAT for images",
    "kaggle-rle": "a csv with ImageId and EncodedPixels",
    "object-masks": "ID/images and ID/masks with a mask for each object, or masks called IMAGE_CLASS_NUMBER.png",
}
_JSON_SUFFIXES = (".json", ".ndjson", ".jsonl")
# Format of one file for all images -> its suffixes.
_SUFFIXES: dict[str, tuple[str, ...]] = {
    "via": (".json",),
    "label-studio": (".json",),
    "labelbox": _JSON_SUFFIXES,
    "cvat": (".xml",),
    "kaggle-rle": (".csv",),
}
_JSON_KEYS = {
    "labelme": (b"shapes", b"imagePath"),
    "via": (b"filename", b"regions"),
    "label-studio": (b"data", b"annotations|completions"),
    "labelbox": (b"data_row", b"projects"),
}
# Format -> what its json begins with.
_JSON_STARTS = {"label-studio": b"[", "labelbox": b"[{"}
_START, _END, _MOST_FILES = 1 << 20, 1 << 16, 20
_LABELME_FOLDERS = ("", "annotations", "labels", "json", "jsons", "ann")

Places = dict[str, Any]  # split -> where it is


def tool_splits(root: Path) -> dict[str, Places]:
    """Format -> split -> where it is, of all formats of this file that a folder can be read in."""
    found = {kind: _file_splits(root, kind) for kind in _SUFFIXES}
    voc = voc_root(root)
    return {
        "colour-masks": _colour_splits(root),
        "voc": {} if voc is None else dict.fromkeys(voc_splits(voc), voc),
        "labelme": _labelme_splits(root),
        "object-masks": _object_mask_splits(root),
        **found,
    }


def tool_splits_of_file(path: Path) -> dict[str, Places]:
    """The same of a file."""
    kind = _kind(path)
    return {} if kind in (None, "labelme") else {str(kind): _splits_in({path: "train"}, str(kind))}


def named_splits(path: Path, kind: str) -> Places:
    """The splits of a folder or file in a format that is named, though it was not recognised; empty where its files
    are not there at all."""
    if kind in _SUFFIXES:
        files = [path] if os.path.isfile(path) else [file for file in _files(path, _SUFFIXES[kind])]
        return _splits_in(dict(zip(files, _split_names(files, path), strict=True)), kind)
    if not os.path.isdir(path):
        return {}
    if kind in ("semantic-folder", "colour-masks", "instance-maps"):
        return {**dict.fromkeys(free_splits(path)), **pair_splits(path)}
    return {"train": path} if kind == "labelme" and files_with(path, (".json",)) else {}


def _kind(path: Path) -> str | None:
    """The format of a file, from its first and last bytes alone."""
    suffix = path.suffix.lower()
    try:
        with open(path, "rb") as file:
            content = file.read(_START)
            if suffix in _JSON_SUFFIXES and len(content) == _START:
                file.seek(-_END, os.SEEK_END)
                content += file.read()
    except OSError:
        return None
    if suffix == ".csv":
        return "kaggle-rle" if is_kaggle_header(content.split(b"\n")[0].decode("utf-8", "replace")) else None
    if suffix == ".xml":
        return "cvat" if re.search(rb"<annotations[\s>]", content) and re.search(rb"<image\s", content) else None
    if suffix not in _JSON_SUFFIXES:
        return None
    return next((kind for kind, keys in _JSON_KEYS.items() if _is_json_of(kind, keys, content)), None)


def _is_json_of(kind: str, keys: tuple[bytes, ...], content: bytes) -> bool:
    """Whether the keys are there, in a list, as Label Studio's tasks are, or in a dict."""
    start = content.lstrip(b"\xef\xbb\xbf \r\n\t")[:1]
    if not start or start not in _JSON_STARTS.get(kind, b"{"):
        return False
    return all(re.search(rb'"(?:' + key + rb')"\s*:', content) for key in keys)


def _files(root: Path, suffixes: tuple[str, ...]) -> Iterator[Path]:
    """The files in a folder, in its "annotations" and in the folders of splits."""
    inner = [path for path in subfolders(root) if path.name == "annotations" or split_of_name(path.name)]
    for folder in (root, *inner):
        names = sorted(entry.name for entry in os.scandir(folder) if entry.name.lower().endswith(suffixes))
        yield from (folder / name for name in names if not name.startswith(".") and (folder / name).is_file())


def _file_splits(root: Path, kind: str) -> Places:
    files: list[Path] = []
    misses = 0
    for path in _files(root, _SUFFIXES[kind]):
        if misses == _MOST_FILES:
            break
        if _kind(path) == kind:
            files.append(path)
        else:
            misses += 1
    return _splits_in(dict(zip(files, _split_names(files, root), strict=True)), kind)


def _split_names(files: list[Path], root: Path) -> list[str]:
    """Of each file: the name of its folder, the split in its name, or "train" where it is the only file."""
    names = []
    for path in files:
        folder = path.parent.name if path.parent != root and path.parent.name != "annotations" else ""
        names.append(folder or split_of_name(path.stem) or ("train" if len(files) == 1 else path.stem))
    return names


def _splits_in(files: dict[Path, str], kind: str) -> Places:
    """Split -> files. CVAT's may hold several splits."""
    found: Places = {}
    for path, split in files.items():
        try:
            names = cvat_splits(path) if kind == "cvat" else []
        except ValueError:
            names = []  # the file's error, when it is opened
        for name in names or [split]:
            found.setdefault(name, []).append(path)
    return found


def _labelme_splits(root: Path) -> Places:
    named = {path.name: path for path in subfolders(root) if split_of_name(path.name) and _has_labelme(path)}
    return named or ({"train": root} if _has_labelme(root) else {})


def _has_labelme(folder: Path) -> bool:
    for inner in (folder / name for name in _LABELME_FOLDERS):
        names = sorted(entry.name for entry in os.scandir(inner)) if inner.is_dir() else []
        names = [name for name in names if name.lower().endswith(".json")][:_MOST_FILES]
        if any(_kind(inner / name) == "labelme" for name in names):
            return True
    return False


def _colour_splits(root: Path) -> Places:
    pairs = pair_splits(root) if find_colour_table(root) is not None and voc_root(root) is None else {}
    # One is enough: a palette beside pictures of colours shows colours too.
    return dict(pairs) if any(map(_is_coloured, pairs.values())) else {}


def _is_coloured(pair: FolderPair) -> bool:
    name = next(name for name in files_with(pair.labels, LABEL_SUFFIXES) if name[:-4].endswith(pair.label_suffix))
    try:
        return has_channels(pair.labels / name, name)
    except ValueError:
        return False


def _object_mask_splits(root: Path) -> Places:
    own = bowl_folders(root)
    if own and not any(split_of_name(path.name) for path in own):
        return {"train": own}
    found: Places = {path.name: folders for path in subfolders(root) if (folders := bowl_folders(path))}
    if found:
        return found
    named = {path.name: path for path in subfolders(root) if split_of_name(path.name)} or {"train": root}
    for split, folder in named.items():
        images = [path for path in subfolders(folder) if path.name != "annotations"]
        fitting = [path for path in images if has_named_masks(path, folder / "annotations")]
        if len(fitting) == 1:
            found[split] = (fitting[0], folder / "annotations")
    return found


def only_file(files: list[Path], split: str) -> Path:
    """The one file of a split.

    Raises:
        ValueError: there are several.
    """
    if len(files) > 1:
        raise ValueError(f"there are several files for {split!r}: {', '.join(map(str, files))}; give the path of one")
    return files[0]


def _image_folder(path: Any, image_folder: Any, split: str, file: Path) -> Path:
    """The one given; else the file's own folder or one beside it, where that is the only one named after the split;
    else the folder of the dataset."""
    if image_folder is not None:
        return Path(image_folder)
    root = Path(path) if os.path.isdir(path) else file.parent
    if file.parent != root and file.parent.name == split:
        return file.parent
    wanted = split_of_name(split)
    named = [inner for inner in subfolders(root) if wanted is not None and split_of_name(inner.name) == wanted]
    return named[0] if len(named) == 1 and has_files_with(named[0], IMAGE_SUFFIXES) else root


def _open_file(reader: Callable[..., SegmentationDataset]) -> Callable[..., SegmentationDataset]:
    def open_one(path: Any, split: str, places: Places, image_folder: Any, options: dict) -> SegmentationDataset:
        file = only_file(places[split], split)
        folder = _image_folder(path, image_folder, split, file)
        if reader in (ViaRegions, LabelStudio, LabelboxRows):
            options = {"label_files": [name for files in places.values() for name in files], **options}
        return reader(file, folder, split=split, **_with_names(path, options))

    return open_one


def _open_labelme(path: Any, split: str, places: Places, image_folder: Any, options: dict) -> SegmentationDataset:
    options = {"label_folders": list(places.values()), **_with_names(path, options)}
    return LabelMe(places[split], image_folder, split=split, **options)


def _open_voc(path: Any, split: str, places: Places, image_folder: Any, options: dict) -> SegmentationDataset:
    return VocSegmentation(places[split], split, image_folder=image_folder, **options)


def _open_colours(path: Any, split: str, places: Places, image_folder: Any, options: dict) -> SegmentationDataset:
    pair, options = chosen_pair(path, split, places, image_folder, options)
    colours = options.pop("colours", None) or find_colour_table(Path(path))
    if colours is None:
        names = ", ".join(TABLE_FILES)
        raise ValueError(f"{path} has no table of colours ({names}); give --data-options colours=FILE")
    return ColourMasks(*pair[:2], colours, split=split, label_suffix=pair.label_suffix, **options)


def chosen_pair(
    path: Any, split: str, places: Places, image_folder: Any, options: dict
) -> tuple[FolderPair, dict[str, Any]]:
    """The folders of a split, by the options `images`, `labels` and `label_suffix` where they are given, and the other
    options.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no folders were found, or several of label maps, and none are given.
    """
    options = dict(options)
    images, labels = options.pop("images", None), options.pop("labels", None)
    suffix = options.pop("label_suffix", None)
    if images is not None and labels is not None:
        pair = named_pair(Path(path), split, str(images), str(labels), suffix)
    elif places[split] is None or (images, labels) != (None, None):
        raise ValueError(
            f"{path}: say which folders have the images and the label maps, such as --data-options images=pictures "
            "labels=truth (each may have folders of splits in it, or be in those)"
        )
    else:
        pair = FolderPair(*places[split])
        check_only_labels(Path(path), pair)
        pair = pair if suffix is None else pair._replace(label_suffix=suffix)
    return pair if image_folder is None else pair._replace(images=Path(image_folder)), options


def _open_object_masks(path: Any, split: str, places: Places, image_folder: Any, options: dict) -> SegmentationDataset:
    def images_of(place: Any):
        if isinstance(place, list):
            return bowl_images(place)
        return named_images(Path(image_folder) if image_folder is not None else place[0], place[1])

    images = images_of(places[split])
    labels = {label for place in places.values() for image in images_of(place) for label, _ in image.masks}
    root = Path(image_folder) if image_folder is not None else Path(path)
    return ObjectMasks(images, root, labels=labels or {NAMELESS}, split=split, **_with_names(path, options))


def _with_names(path: Any, options: dict[str, Any]) -> dict[str, Any]:
    """The options with the names that the dataset's folder gives in a file of its own, where it has one."""
    names = find_class_names(Path(path))[0] if os.path.isdir(path) and "id2label" not in options else None
    return options if names is None else {"id2label": names, **options}


TOOL_OPENERS: dict[str, Callable[..., SegmentationDataset]] = {
    "colour-masks": _open_colours,
    "voc": _open_voc,
    "labelme": _open_labelme,
    "via": _open_file(ViaRegions),
    "label-studio": _open_file(LabelStudio),
    "labelbox": _open_file(LabelboxRows),
    "cvat": _open_file(CvatImages),
    "kaggle-rle": _open_file(KaggleRuns),
    "object-masks": _open_object_masks,
}
