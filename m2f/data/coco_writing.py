"""Writes any dataset as one of COCO.

FOLDER/instances_train.json     instances, each an RLE; of panoptic and semantic labels instead:
FOLDER/panoptic_train.json      segments and
FOLDER/panoptic_train/          the PNG files of their ids
FOLDER/train/                   images; "file_name" in the json is relative to FOLDER
FOLDER/m2f_dataset.json         what was written, by which a folder is known again
"""

import json
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TextIO

import numpy as np
from PIL import Image

from m2f.data.coco_entries import background, instance_entries, panoptic_entries
from m2f.data.dataset_paths import split_of_name
from m2f.data.linked_images import link_image
from m2f.data.segment_map import Sample
from m2f.data.segmentation_dataset import SegmentationDataset, thing_labels
from m2f.image_processing.band_image import BandImage
from m2f.output.write_errors import naming

RECORD = "m2f_dataset.json"
_PROGRAM = "m2f check --write coco"


@dataclass
class WrittenSplit:
    """What was written of a split.

    Args:
        name: of the files that belong to it.
        images: how many.
        segments: how many; crowd regions are not counted.
        empty: segments without a pixel, which are left out.
        background: images with pixels of the background, which a panoptic json cannot tell from ignored ones.
        crowds: images with ignored pixels, which an instance json has as a crowd region.
    """

    name: str
    images: int = 0
    segments: int = 0
    empty: int = 0
    background: int = 0
    crowds: int = 0
    entries: list[dict[str, Any]] = field(default_factory=list, repr=False)


def check_target(folder: Path, overwrite: bool, data: Any = None):
    """Whether a dataset may be written into a folder.

    Args:
        overwrite: whether a dataset that was written there earlier may be removed.
        data: where the data come from, if from a path.

    Raises:
        FileExistsError: the folder has files that may not be removed.
        ValueError: the folder is that of the data, or holds it.
    """
    there = os.path.realpath(folder)
    if isinstance(data, str | Path) and os.path.exists(data) and Path(os.path.realpath(data)).is_relative_to(there):
        raise ValueError(f"{folder} has the data that are read; choose another folder to write into")
    if not os.path.lexists(folder) or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not _is_ours(folder):
        raise FileExistsError(f"{folder} exists and is not an empty folder; choose another one")
    if not overwrite:
        raise FileExistsError(
            f"{folder} has a dataset that was written earlier; choose another folder, or --overwrite"
        )


def write_coco(
    readers: Mapping[str, SegmentationDataset],
    folder: Path,
    indices: Mapping[str, Iterable[int]] | None = None,
    overwrite: bool = False,
    copy_images: bool = False,
) -> list[WrittenSplit]:
    """Writes the splits into a folder, which is there when all of it is written.

    Instances are exact: an RLE has the pixels of a mask, also of one that was drawn as a polygon. Images are hard
    links to those of the dataset, or copies where there can be no link; images in rows are written as PNG of 8 bits.

    Args:
        indices: the images to write of each split; all by default.
        overwrite: see `check_target`.
        copy_images: no links.

    Raises:
        FileExistsError: see `check_target`.
        OSError, ValueError: as the readers; two splits of one name, or segments that COCO panoptic cannot have.
    """
    check_target(folder, overwrite)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as workplace:
        place = Path(workplace) / "folder"
        place.mkdir()
        written = []
        try:
            for split, name in _split_names(readers).items():
                todo = list(range(len(readers[split])) if indices is None else indices[split])
                written.append(_Writer(readers[split], place, name, copy_images).write(todo))
            record = {"program": _PROGRAM, "splits": {split.name: split.images for split in written}}
            with naming(place / RECORD):
                (place / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            if str(place) not in str(error):
                raise
            raise OSError(str(error).replace(str(place), str(folder))) from error  # which the user knows
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(place, folder)
    return written


class _Writer:
    """Writes one split."""

    def __init__(self, reader: SegmentationDataset, folder: Path, name: str, copy_images: bool):
        self.reader, self.folder, self.name, self.copy_images = reader, folder, name, copy_images
        self._separator = ""
        self.is_instance = reader.task == "instance"
        self.stem = f"{'instances' if self.is_instance else 'panoptic'}_{name}"
        self.category_ids = list(getattr(reader, "category_ids", None) or [i + 1 for i in range(len(reader.id2label))])

    def write(self, indices: Sequence[int]) -> WrittenSplit:
        written = WrittenSplit(self.name)
        names = _file_names(self.reader, indices)
        path = self.folder / f"{self.stem}.json"
        with naming(path), open(path, "w", encoding="utf-8") as file:
            # The annotations come first and image by image, so that they are never in memory all at once.
            file.write('{"annotations": [')
            for index, file_name in zip(indices, names, strict=True):
                self._write_image(self.reader[index], index, f"{self.name}/{file_name}", file, written)
            rest = json.dumps({"images": written.entries, "categories": self._categories()})
            file.write(f"\n], {rest[1:]}\n")
        return written

    def _write_image(self, sample: Sample, index: int, file_name: str, file: TextIO, written: WrittenSplit):
        height, width = sample.segments.size
        image_id = self.reader.images[index].id if hasattr(self.reader, "images") else index + 1
        self._save_image(sample, index, self.folder / file_name)
        if self.is_instance:
            annotations = instance_entries(sample.segments, self.category_ids)
            crowds = sum(entry["iscrowd"] for entry in annotations)
            first = written.segments + written.crowds + 1
            annotations = [{"id": first + i, "image_id": image_id, **e} for i, e in enumerate(annotations)]
            count = len(annotations) - crowds
            written.crowds += crowds
        else:
            colours, infos = panoptic_entries(sample.segments, self.category_ids, sample.name)
            png = str(PurePosixPath(file_name).relative_to(self.name)) + ".png"
            _save_png(colours, self.folder / self.stem / png)
            annotations, count = [{"image_id": image_id, "file_name": png, "segments_info": infos}], len(infos)
            written.background += background(sample.segments) > 0
        for annotation in annotations:
            file.write(f"{self._separator}\n{json.dumps(annotation)}")
            self._separator = ","
        written.images += 1
        written.segments += count
        written.empty += len(sample.segments.class_ids) - count
        written.entries.append({"id": image_id, "file_name": file_name, "height": height, "width": width})

    def _categories(self) -> list[dict[str, Any]]:
        things = thing_labels(self.reader)
        return [
            {"id": category, "name": name} | ({} if self.is_instance else {"isthing": int(label in things)})
            for category, (label, name) in zip(self.category_ids, sorted(self.reader.id2label.items()), strict=True)
        ]

    def _save_image(self, sample: Sample, index: int, target: Path):
        source = self.reader.image_path(index)
        if source is None and isinstance(sample.image, BandImage):
            raise ValueError(
                f"{sample.name} has {sample.image.channels} channels and is in no file of its own; such images are "
                "written with 3 channels alone"
            )
        if source is None:
            _save_png(np.asarray(sample.image), target)
            return
        link_image(source, target, self.copy_images)


def _save_png(pixels: np.ndarray, path: Path):
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming(path):
        Image.fromarray(pixels).save(path, "PNG")


def _split_names(readers: Mapping[str, SegmentationDataset]) -> dict[str, str]:
    """Split -> its name in files, from which readers find the split."""
    names = {split: split_of_name(split) or plain_part(split) or "data" for split in readers}
    same = [split for split in readers if Counter(names.values())[names[split]] > 1]
    if same:
        found = ", ".join(map(repr, same))
        raise ValueError(f"the splits {found} would all be called {names[same[0]]!r}; name one with --split")
    return names


def _file_names(reader: SegmentationDataset, indices: Sequence[int]) -> list[str]:
    """A file for each image, relative to a folder that it never leaves; with its number where two would have one."""
    names = []
    for index in indices:
        parts = [plain_part(part) for part in reader.name_of(index).replace("\\", "/").split("/")]
        name = "/".join(part for part in parts if part) or f"image {index}"
        names.append(name if reader.image_path(index) is not None else f"{name}.png")
    # Some file systems take A.png and a.png for the same.
    if len({name.casefold() for name in names}) == len(names):
        return names
    return [f"{index}/{name}" for index, name in zip(indices, names, strict=True)]


def plain_part(name: str) -> str:
    """A part of a path without what has a meaning for a file system or a terminal."""
    return re.sub(r"[^\w .()+=@,-]", "_", name).strip(" .").replace("..", "_")


def _is_ours(folder: Path) -> bool:
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(record, dict) and record.get("program") == _PROGRAM
