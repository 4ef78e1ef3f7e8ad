"""Formats that are recognised and not read, each with the way in. A line of the table is all that one needs; a format
that gets a reader is found before the table is asked, and may leave it."""

import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from m2f.data.dataset_paths import LABEL_FOLDERS, subfolders
from m2f.data.label_maps import LABEL_SUFFIXES
from m2f.image_processing.image_opening import IMAGE_SUFFIXES


class KnownFormat(NamedTuple):
    """What a format is called, the endings of its files, the patterns that they all have near their beginning, and the
    way in."""

    name: str
    suffixes: tuple[str, ...]
    signs: tuple[bytes, ...]
    way: str


def _datum(format: str) -> str:
    command = f"datum convert -if {format} -i FOLDER -f coco_instances -o OUT -- --save-media"
    return f'convert it with `{command}` (pip install "datumaro[cli]")'


_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar", ".bz2", ".xz")
# The first line that fits a file counts.
_FILES = (
    KnownFormat("an archive", _ARCHIVES, (), "unpack it and give the folder"),
    KnownFormat("TFRecord files", (".tfrecord", ".tfrecords"), (), "export the data as COCO in place of it"),
    KnownFormat(
        "COCO's results (predictions)",
        (".json",),
        (rb"^\s*\[", rb'"image_id"\s*:', rb'"category_id"\s*:'),
        "give the json of the annotations",
    ),
    KnownFormat(
        "Label Studio's json",
        (".json",),
        (rb'"(annotations|completions)"\s*:', rb'"from_name"\s*:'),
        "give the json itself with --format label-studio",
    ),
    KnownFormat(
        "Labelbox's older json",
        (".json", ".ndjson"),
        (rb'"(Labeled Data|DataRow ID)"\s*:',),
        "export it anew from Labelbox; rows with data_row are read",
    ),
    KnownFormat(
        "LabelMe's json",
        (".json",),
        (rb'"shapes"\s*:', rb'"(imagePath|imageHeight|shape_type)"\s*:'),
        "give the folder of its jsons with --format labelme",
    ),
    KnownFormat(
        "VGG Image Annotator's json",
        (".json",),
        (rb'"(_via_img_metadata|shape_attributes|regions)"\s*:',),
        "give the json itself with --format via",
    ),
    KnownFormat("VGG Image Annotator's csv", (".csv",), (rb"region_shape_attributes",), "export annotations as json"),
    KnownFormat(
        "Datumaro's json", (".json",), (rb'"(items|media_type)"\s*:', rb'"categories"\s*:'), _datum("datumaro")
    ),
    KnownFormat(
        "Supervisely's json",
        (".json",),
        (rb'"objects"\s*:', rb'"size"\s*:'),
        "export as COCO, or use supervisely.convert",
    ),
    KnownFormat(
        "Supervisely's json",
        (".json",),
        (rb'"classes"\s*:', rb'"shape"\s*:'),
        "export as COCO, or use supervisely.convert",
    ),
    KnownFormat(
        "Segment Anything's json (SA-1B)",
        (".json",),
        (rb'^\s*{\s*"image"\s*:\s*{',),
        _datum("segment_anything") + "; its masks have no classes",
    ),
    KnownFormat(
        "Label Studio's JSON-MIN",
        (".json",),
        (rb'"(polygon|brush|rectangle|ellipse)labels"\s*:',),
        "export as JSON in place of it",
    ),
    KnownFormat(
        "COCO's json",
        (".json",),
        (rb'"(segmentation|segments_info)"\s*:', rb'"(images|annotations|categories)"\s*:'),
        "give the json itself, or the folder that has its images",
    ),
    KnownFormat(
        "COCO's captions, key points or boxes",
        (".json",),
        (rb'"images"\s*:', rb'"annotations"\s*:'),
        'a json of annotations with "segmentation" is needed',
    ),
    KnownFormat(
        "CVAT's xml of a video",
        (".xml",),
        (rb"<annotations>\s*<(version|meta)>",),
        'export as "CVAT for images" or "COCO 1.0"',
    ),
    KnownFormat(
        "the xml of LabelMe's web tool",
        (".xml",),
        (rb"<annotation\b", rb"<(sourceImage|imagesize)>"),
        _datum("label_me"),
    ),
    KnownFormat(
        "Pascal VOC's xml",
        (".xml",),
        (rb"<annotation\b", rb"<(filename|object|size)>"),
        "its boxes are no masks; give JPEGImages with SegmentationClass, by " + _datum("voc"),
    ),
    KnownFormat("Open Images' csv", (".csv",), (rb"ImageID", rb"LabelName"), _datum("open_images")),
    KnownFormat(
        "a csv of run lengths (Kaggle)",
        (".csv",),
        (rb"(?i)(EncodedPixels|rle|segmentation|annotation)\s*(,|$)",),
        "give the csv itself with --format kaggle-rle; its columns are called ImageId and EncodedPixels",
    ),
)
_FOLDERS = (
    ("KITTI", ("training/image_2", "training/semantic"), "give image_2 and semantic as images/train and masks/train"),
    ("KITTI", ("training/image_2", "training/instance"), _datum("kitti_segmentation")),
)
_HEAD = 1 << 18  # bytes; LabelMe has the picture itself before the last keys, but the shapes first
_DEPTH, _FILES_LOOKED_AT = 3, 3  # folders deep, files of each ending in a folder
_LABELS_LOOKED_AT = 20


def known_formats(path: Path) -> list[str]:
    """What a file or folder seems to be, each with an example and the way in; [] where nothing is recognised."""
    ways = [f"{name} ({' and '.join(places)}): {way}" for name, places, way in _FOLDERS if _has_all(path, places)]
    seen = {name for name, places, _ in _FOLDERS if _has_all(path, places)}
    for file in _some_files(path):
        known = _of_file(file)
        if known is not None and known.name not in seen:
            seen.add(known.name)
            ways.append(f"{known.name} ({_place(file, path)!r}): {known.way}")
    return ways + _unread_labels(path)


def _place(file: Path, path: Path) -> str:
    return file.relative_to(path).as_posix() if path.is_dir() else file.name


def _unread_labels(path: Path) -> list[str]:
    """What to do with pictures of labels in a format that is not read, in a folder that is called after labels."""
    for folder in (inner for outer in (path, *subfolders(path)) for inner in subfolders(outer)):
        kinds = {entry.suffix.lower() for entry in islice(folder.iterdir(), _LABELS_LOOKED_AT)} & {*IMAGE_SUFFIXES}
        if folder.name.lower() in LABEL_FOLDERS and kinds and kinds.isdisjoint(LABEL_SUFFIXES):
            place, kind = folder.relative_to(path).as_posix(), sorted(kinds)[0]
            way = "write them as PNG or TIFF with one number per pixel (JPEG changes the numbers)"
            return [f"{kind} files in {place!r}, which may be label maps: {way}"]
    return []


def _of_file(file: Path) -> KnownFormat | None:
    suffix = file.suffix.lower()
    fitting = [known for known in _FILES if suffix in known.suffixes]
    if not fitting:
        return None
    try:
        with open(file, "rb") as stream:
            head = stream.read(_HEAD).removeprefix(b"\xef\xbb\xbf")
    except OSError:
        return None
    head = head.partition(b"\n")[0].strip() if suffix == ".csv" else head
    return next((known for known in fitting if all(re.search(sign, head) for sign in known.signs)), None)


def _some_files(path: Path) -> Iterator[Path]:
    """The file, or a few of each ending from a folder and its folders."""
    if path.is_file():
        yield path
        return
    for root, folders, names in os.walk(path):
        depth = len(Path(root).relative_to(path).parts)
        folders[:] = sorted(folders) if depth + 1 < _DEPTH else []
        counts: dict[str, int] = {}
        for name in sorted(names):
            suffix = Path(name).suffix.lower()
            counts[suffix] = counts.get(suffix, 0) + 1
            if counts[suffix] <= _FILES_LOOKED_AT and not name.startswith("."):
                yield Path(root) / name


def _has_all(path: Path, places: tuple[str, ...]) -> bool:
    return all((path / place).is_dir() for place in places)
