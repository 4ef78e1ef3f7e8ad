"""Label maps: image files with one number per pixel, and what the numbers mean."""

import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from m2f.data.segment_map import SegmentMap
from m2f.image_processing.image_opening import decoded, file_content, open_image, page_count
from m2f.image_processing.label_values import IGNORE_INDEX, IGNORED, NOTHING

# The formats that keep numbers; JPEG and WebP change them. TIFF has no checksum, and damage to it may go unnoticed.
_LABEL_FORMATS = ("PNG", "TIFF")
LABEL_SUFFIXES = (".png", ".tif", ".tiff")
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Pillow spreads the values of grey PNG files with 2 and 4 bits over 0..255.
_SPREAD = {2: 85, 4: 17}
_LIMIT = 1 << 16  # label values are below
_UNKNOWN = -3
_SHOWN = 10


def read_label_map(source: Path | bytes, name: str, limit: int = _LIMIT) -> np.ndarray:
    """(H, W) int32 labels in [0, limit) of a PNG or TIFF with one channel: grey of up to 32 bits, or palette indices;
    or with channels of 8 bits that are the same everywhere.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is damaged, has several pages, channels that differ, or values outside the range.
    """
    image, bits = _open(source, name)
    decoded(image.load, name)
    grey = np.asarray(image) if image.mode in ("1", "L", "P", "I", "I;16", "I;16B") else _equal_channels(image, bits)
    if grey is None:
        raise ValueError(
            f"{name} has the channels {image.mode}; a label map has one number per pixel: grey of 8 or 16 bits, or a "
            "palette"
        )
    labels = grey.astype(np.int32)
    if image.mode == "L" and bits in _SPREAD:
        labels //= _SPREAD[bits]
    if labels.min() < 0 or labels.max() >= limit:
        raise ValueError(f"{name} holds labels from {labels.min()} to {labels.max()}; 0 to {limit - 1} is needed")
    return labels


def read_channels(source: Path | bytes, name: str) -> np.ndarray:
    """(H, W, 3) uint8 channels of a colour PNG that stores numbers in them.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is damaged, grey, or has 16 bits per channel.
    """
    image, bits = _open(source, name)
    if image.mode not in ("RGB", "RGBA", "P") or bits == 16:
        raise ValueError(f"{name} has the channels {image.mode} of {bits} bits; numbers in RGB of 8 bits are needed")
    return decoded(lambda: np.asarray(image.convert("RGB")), name)


def has_channels(source: Path | bytes, name: str) -> bool:
    """Whether a label image stores numbers in colour channels."""
    return _open(source, name)[0].mode in ("RGB", "RGBA")


def _equal_channels(image: Image.Image, bits: int) -> np.ndarray | None:
    """(H, W) uint8, what all channels of an opaque image hold; None where they differ."""
    if image.mode not in ("LA", "RGB", "RGBA") or bits == 16:
        return None
    channels = np.asarray(image)
    colours, alpha = (channels, None) if image.mode == "RGB" else (channels[..., :-1], channels[..., -1])
    is_grey = (colours == colours[..., :1]).all() and (alpha is None or (alpha == 255).all())
    return colours[..., 0] if is_grey else None


class ClassTable:
    """What the values of label maps mean: a class in [0, K), unknown, or nothing.

    Args:
        label_ids: the values that are classes, in the order of the classes; None: each value is its class.
        ignore_index: value of the pixels whose class is unknown, as it stands in the files; None: there is none.
        reduce_labels: 0 means no class and the others are reduced by 1, as ADE20K needs it. With `label_ids` these
            are the reduced values.
        unknown: what becomes of unknown pixels, `IGNORED` or `NOTHING`.
        zero: what becomes of 0 with `reduce_labels`.
    """

    def __init__(
        self,
        label_ids: Sequence[int] | None,
        ignore_index: int | None = IGNORE_INDEX,
        reduce_labels: bool = False,
        unknown: int = IGNORED,
        zero: int = IGNORED,
    ):
        self.reduce_labels = reduce_labels
        values = range(_LIMIT - 1) if label_ids is None else label_ids
        self._class_of = np.full(_LIMIT, _UNKNOWN, np.int32)
        self._class_of[np.asarray(values, np.int64) + reduce_labels] = np.arange(len(values))
        if reduce_labels:
            self._class_of[0] = zero
        if ignore_index is not None:
            if not 0 <= ignore_index < _LIMIT:
                raise ValueError(f"ignore_index must be in [0, {_LIMIT - 1}] or None, got {ignore_index}")
            if label_ids is not None and ignore_index - reduce_labels in label_ids:
                remedy = "give another value, or None (--data-options ignore_index=null)"
                raise ValueError(f"ignore_index {ignore_index} is a class; {remedy}")
            self._class_of[ignore_index] = unknown
        self._described = f"labels {_shown(values)} (reduce_labels={reduce_labels}, ignore_index={ignore_index})"

    def class_of(self, value: int) -> int:
        """The class of a value; negative where it is none."""
        return int(self._class_of[value])

    def is_ignored(self, value: int) -> bool:
        """Whether the value is known, and no class."""
        return self.class_of(value) < 0 and self.class_of(value) != _UNKNOWN

    def ignores_some(self) -> bool:
        """Whether `is_ignored` holds of any value."""
        return bool(((self._class_of < 0) & (self._class_of != _UNKNOWN)).any())

    def classes(self, labels: np.ndarray, name: str) -> np.ndarray:
        """(H, W) int32 classes of the label map `name`, `IGNORED` or `NOTHING`.

        Raises:
            ValueError: a value that is no class.
        """
        classes = self._class_of[labels]
        if (classes == _UNKNOWN).any():
            wrong = np.unique(labels[classes == _UNKNOWN]).tolist()
            raise ValueError(f"{name} holds the labels {_shown(wrong)}; the classes are the {self._described}")
        return classes


def values_in(labels: np.ndarray) -> list[int]:
    """The distinct values of a label map, ascending. np.unique, which sorts, takes 10 times as long."""
    return np.flatnonzero(np.bincount(labels.ravel())).tolist()


def segments_of_classes(classes: np.ndarray) -> SegmentMap:
    """One segment for each class that is there, in ascending order.

    Args:
        classes: (H, W) int32 in [0, 65535], `NOTHING` or `IGNORED`.
    """
    present = np.array(values_in(classes + 2))  # + 2, so that IGNORED is 0 and NOTHING 1
    class_ids = present[present >= 2] - 2
    numbers = np.full(max(2, int(present[-1]) + 1), NOTHING, np.int32)
    numbers[0] = IGNORED
    numbers[class_ids + 2] = np.arange(len(class_ids), dtype=np.int32)
    return SegmentMap(numbers[classes + 2][None], class_ids.astype(np.int64))


def segments_of_values(values: np.ndarray, meanings: Mapping[int, int]) -> SegmentMap:
    """One segment for each value that stands for a class, in ascending order of the values.

    Args:
        values: (H, W) int32 in [0, 65535].
        meanings: class, `NOTHING` or `IGNORED` of each value that is there.
    """
    numbers = np.full(max(meanings) + 1, NOTHING, np.int32)
    class_ids: list[int] = []
    for value, meaning in sorted(meanings.items()):
        numbers[value] = meaning if meaning < 0 else len(class_ids)
        class_ids += [meaning] * (meaning >= 0)
    return SegmentMap(numbers[values][None], np.array(class_ids, np.int64))


def segments_of_ids(
    ids: np.ndarray, segment_ids: Sequence[int], class_ids: Sequence[int], outside: Mapping[int, int], name: str
) -> SegmentMap:
    """One segment for each id of a map.

    Args:
        ids: (H, W) integers.
        segment_ids: distinct, N of them. Segments are numbered in this order.
        class_ids: the class of each.
        outside: the other ids -> `IGNORED` or `NOTHING`.
        name: what messages call the map.

    Raises:
        ValueError: the map holds an id that is given nowhere, or lacks one that is given, other than 0.
    """
    numbers = np.array([*range(len(segment_ids)), *outside.values()], np.int32)
    known = np.array([*segment_ids, *outside], np.int64)
    order = np.argsort(known)
    place = np.searchsorted(known[order], ids).clip(max=len(known) - 1)
    wrong = known[order][place] != ids
    if wrong.any():
        raise ValueError(f"{name} holds the ids {_shown(np.unique(ids[wrong]).tolist())}, which its annotation lacks")
    found = np.bincount(place.ravel(), minlength=len(known)) > 0
    missing = [number for number in known[order][~found].tolist() if number != 0]
    if missing:
        raise ValueError(f"{name} lacks the ids {_shown(missing)}, which its annotation has")
    return SegmentMap(numbers[order][place][None], np.array(class_ids, np.int64))


def names_by_number(highest: int) -> dict[int, str]:
    """Classes 0 to `highest` that are called by their number, for data without names."""
    return {i: str(i) for i in range(highest + 1)}


def _open(source: Path | bytes, name: str):
    """The PIL image and its bits per channel (0: not a PNG)."""
    content = file_content(source, name)
    bits = _check_png(content, name) if content.startswith(_PNG_SIGNATURE) else 0
    image = open_image(content, name, _LABEL_FORMATS)
    if (pages := page_count(image)) > 1:
        raise ValueError(f"{name} has {pages} pages or frames; labels have one: write each page into its own file")
    return image, bits


def _check_png(content: bytes, name: str) -> int:
    """Bits per channel of a PNG whose checksums are right. Pillow does not look at those of the pixels, and would give
    wrong labels for a file with a flipped bit."""
    position, kind, bits = len(_PNG_SIGNATURE), b"", 0
    while kind != b"IEND":
        start = content[position : position + 8]
        length, kind = struct.unpack(">I4s", start) if len(start) == 8 else (0, b"")
        chunk = content[position + 4 : position + 8 + length]
        checksum = content[position + 8 + length : position + 12 + length]
        if len(checksum) < 4 or zlib.crc32(chunk).to_bytes(4, "big") != checksum:
            raise ValueError(f"cannot decode {name}: the PNG is cut off or damaged at byte {position}")
        if kind == b"IHDR" and length == 13:
            bits = chunk[12]
        position += 12 + length
    return bits


def _shown(values: Sequence[int]) -> str:
    return ", ".join(map(str, values[:_SHOWN])) + (f", ... {values[-1]}" if len(values) > _SHOWN else "")
