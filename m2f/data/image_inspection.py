"""What may be wrong with one image and its labels, and the numbers that a summary needs of it."""

import hashlib
import warnings
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from m2f.data.segment_map import Sample, SegmentMap
from m2f.data.segment_runs import segment_runs
from m2f.data.segmentation_dataset import SegmentationDataset
from m2f.image_processing.band_files import read_bands
from m2f.image_processing.channel_counts import USUAL_CHANNELS
from m2f.image_processing.image_opening import decoded, file_content, open_image

# Kind of finding -> how bad it is, and a title for a list of them; the worst first. An error stops training or makes
# it learn something wrong, a warning is probably not meant, a note is worth a look.
KINDS = {
    "unopened split": ("error", "datasets or splits that cannot be opened"),
    "empty split": ("error", "splits without an image"),
    "class table": ("error", "class tables that cannot be trained with"),
    "no training split": ("error", "datasets without a split to train on"),
    "nothing to learn": ("error", "training splits without a labelled segment"),
    "missing image": ("error", "image files that do not exist"),
    "broken image": ("error", "image files that cannot be decoded"),
    "bad labels": ("error", "images whose labels are missing, broken or do not fit them, and rows that are broken"),
    "dead worker": ("error", "images that kill the process that reads them"),
    "unknown class": ("error", "segments of a class that is not in the class table"),
    "only crowd regions": ("error", "splits of which every annotation is a crowd region"),
    "class of crowd regions": ("error", "classes of which every annotation is a crowd region"),
    "crowd region": ("warning", "splits with annotations that are crowd regions and take no part"),
    "mixed masks": ("warning", "splits whose masks may not all have the same values"),
    "left out": ("warning", "annotations and polygons that are left out"),
    "several pages": ("warning", "images of several pages or frames, of which the first is read"),
    "class name": ("warning", "classes that share their name, or all but its capitals and spaces"),
    "shared image": ("warning", "images that are in several splits (same pixels): validation would look too good"),
    "repeated image": ("warning", "images that are in a split more than once (same pixels)"),
    "repeated segment": ("warning", "segments that are annotated twice (same pixels)"),
    "empty segment": ("warning", "segments without a pixel"),
    "ignored image": ("warning", "images whose every pixel is ignored"),
    "unused class": ("warning", "classes without a segment in the training split"),
    "unlabelled split": ("warning", "splits without a labelled segment, on which nothing can be measured"),
    "decoder warning": ("note", "images that their decoder warns of"),
    "guessed white": ("note", "images of more than 8 bits in which the value of white is guessed (--white-level)"),
    "covered segment": ("note", "segments that lie wholly under others, and that a panoptic map would lose"),
    "tiny segment": ("note", "tiny segments"),
    "empty image": ("note", "images without a segment"),
    "unmeasured class": ("note", "classes without a segment in another split than the training split"),
}
SEVERITIES = ("error", "warning", "note")

# What readers raise for data that is not as it should be.
READING_ERRORS = (OSError, ValueError)


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth a look.

    Args:
        kind: a key of `KINDS`.
        split: where it is.
        name: the image, as the reader names it; "" where the finding is about the whole split.
        segment: number of the segment among those of its image, from 0.
        annotation: the id of that segment in the dataset's files, where the reader tells it.
        box: (left, top, right, bottom) of the segment in pixels, right and bottom exclusive.
    """

    kind: str
    split: str
    name: str
    message: str
    segment: int | None = None
    annotation: int | str | None = None
    box: tuple[int, int, int, int] | None = None

    @property
    def severity(self) -> str:
        """One of `SEVERITIES`."""
        return KINDS[self.kind][0]


@dataclass(frozen=True)
class ImageRecord:
    """What a check keeps of one image.

    Args:
        index: position in the reader of its split.
        size: (H, W); None where the image or its labels could not be read, and the rest is empty then.
        classes: class -> (segments with a pixel, their pixels together).
        ignored: pixels.
        image_hash: of the decoded pixels, so that copies in other files and formats count as the same image.
        label_hash: of the segments.
    """

    split: str
    index: int
    name: str
    size: tuple[int, int] | None = None
    classes: dict[int, tuple[int, int]] = field(default_factory=dict)
    ignored: int = 0
    image_hash: bytes = b""
    label_hash: bytes = b""
    findings: tuple[Finding, ...] = ()

    @property
    def segments(self) -> int:
        """How many segments with a pixel."""
        return sum(count for count, _ in self.classes.values())


def inspect_image(
    reader: SegmentationDataset, split: str, index: int, names: dict[int, str] | None, tiny_pixels: int
) -> ImageRecord:
    """Reads an image with its labels and looks for what is wrong; what cannot be read becomes a finding.

    Args:
        reader: one with `annotation_ids(index)`, the ids of an image's segments in the files, has them in findings.
        names: of the classes; None where they are unknown.
        tiny_pixels: segments with fewer pixels are noted.
    """
    name = reader.name_of(index)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            sample = reader[index]
        except READING_ERRORS as error:
            kind = _what_is_broken(reader.image_path(index), getattr(reader, "num_channels", USUAL_CHANNELS))
            return ImageRecord(split, index, name, findings=(Finding(kind, split, name, one_line(error)),))
    found: list[tuple[str, str, int | None]] = [("decoder warning", text, None) for text in _decoder_warnings(caught)]
    found += [("guessed white", sample.guess, None)] if sample.guess else []
    pages = f"the first of {sample.pages} pages or frames is read"
    found += [("several pages", pages, None)] if sample.pages > 1 else []
    misfit = _misfit(sample)
    if misfit:
        return ImageRecord(split, index, name, findings=(Finding("bad labels", split, name, misfit),))
    areas = sample.segments.areas()
    found += _label_findings(sample, areas, names, tiny_pixels)
    boxes = _boxes(sample.segments, [number for _, _, number in found if number is not None])
    ids = _annotation_ids(reader, index, len(areas))
    return ImageRecord(
        split,
        index,
        name,
        size=sample.segments.size,
        classes=_class_counts(sample.segments.class_ids, areas),
        ignored=int(sample.segments.ignored().sum()),
        image_hash=_hash(np.asarray(sample.image)),
        label_hash=_hash(sample.segments.ids, sample.segments.class_ids),
        findings=tuple(
            Finding(kind, split, name, text)
            if number is None
            else Finding(kind, split, name, text, number, ids.get(number), boxes.get(number))
            for kind, text, number in found
        ),
    )


def one_line(error: BaseException | str) -> str:
    """The message without line breaks; the error's name where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def _annotation_ids(reader: SegmentationDataset, index: int, count: int) -> dict[int, int | str]:
    """Segment -> its id in the files, for readers of formats that have such ids."""
    if not hasattr(reader, "annotation_ids"):
        return {}
    return dict(zip(range(count), reader.annotation_ids(index), strict=True))


def _what_is_broken(path: Path | None, num_channels: int) -> str:
    """The kind of finding for an item that cannot be read, from a look at its image alone."""
    if path is None:
        return "bad labels"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = file_content(path, path.name)
            if read_bands(content, path.name, num_channels) is None:
                decoded(open_image(content, path.name).load, path.name)
    except FileNotFoundError:
        return "missing image"
    except ValueError:
        return "broken image"
    return "bad labels"


def _decoder_warnings(caught: list[warnings.WarningMessage]) -> list[str]:
    # Warnings about code are not about the image.
    about_code = (DeprecationWarning, PendingDeprecationWarning, FutureWarning, ResourceWarning)
    return list(dict.fromkeys(one_line(w.message) for w in caught if not issubclass(w.category, about_code)))


def _misfit(sample: Sample) -> str | None:
    """Why the labels cannot belong to the image."""
    (height, width), image = sample.segments.size, sample.image
    if (width, height) != image.size:
        return f"the labels are {height} x {width} (height x width), the image {image.height} x {image.width}"
    highest, count = int(sample.segments.ids.max(initial=-1)), len(sample.segments.class_ids)
    if highest >= count:
        return f"the label map has a segment {highest}, but there are classes for {count} segments only"
    return None


def _class_counts(class_ids: np.ndarray, areas: np.ndarray) -> dict[int, tuple[int, int]]:
    counts: dict[int, tuple[int, int]] = {}
    for label, area in zip(class_ids.tolist(), areas.tolist(), strict=True):
        if area:
            segments, pixels = counts.get(label, (0, 0))
            counts[label] = (segments + 1, pixels + area)
    return counts


def _label_findings(
    sample: Sample, areas: np.ndarray, names: dict[int, str] | None, tiny_pixels: int
) -> Iterator[tuple[str, str, int | None]]:
    """(kind, message, number of the segment or None)."""
    ignored, class_ids = sample.segments.ignored(), sample.segments.class_ids.tolist()
    shown = [(names or {}).get(label, f"class {label}") for label in class_ids]
    for number, area in enumerate(areas.tolist()):
        if names is not None and class_ids[number] not in names:
            known = f"the {len(names)} classes {min(names, default=None)} to {max(names, default=None)}"
            yield "unknown class", f"class {class_ids[number]} is none of {known}", number
        if area == 0:
            where = " outside the ignored region" if ignored.any() else ""
            yield "empty segment", f"{shown[number]!r} has no pixel{where}", number
        elif area < tiny_pixels:
            yield "tiny segment", f"{shown[number]!r} has {area} pixel{'s' * (area > 1)}", number
    yield from _overlap_findings(sample.segments, areas, shown)
    if ignored.all():
        yield "ignored image", "no pixel has a label that counts", None
    elif not areas.any():
        yield "empty image", "no segment", None


def _overlap_findings(segments: SegmentMap, areas: np.ndarray, names: list[str]) -> Iterator[tuple[str, str, int]]:
    if len(segments.ids) == 1:
        return
    hidden = np.flatnonzero((areas > 0) & (_pixels_alone(segments) == 0)).tolist()
    if not hidden:
        return
    shapes = segment_runs(segments, _among(hidden, len(areas))).shapes()
    same: dict[bytes, list[int]] = defaultdict(list)
    for number in hidden:
        same[shapes[number]].append(number)
    for number in hidden:
        first, *others = same[shapes[number]]
        if not others:
            yield "covered segment", f"{names[number]!r}, {areas[number]} pixels", number
        elif first != number:
            yield "repeated segment", f"{names[number]!r} has the pixels of segment {first}, {names[first]!r}", number


def _pixels_alone(segments: SegmentMap) -> np.ndarray:
    """(N,) pixels of each segment where no other lies."""
    depth = np.zeros(segments.size, np.int32)
    for layer in segments.ids:
        depth += layer >= 0
    return segment_runs(segments).pixels_in(depth == 1, len(segments.class_ids))


def _boxes(segments: SegmentMap, numbers: list[int]) -> dict[int, tuple[int, int, int, int]]:
    """(left, top, right, bottom) of each of these segments that has a pixel."""
    return segment_runs(segments, _among(numbers, len(segments.class_ids))).boxes() if numbers else {}


def _among(numbers: list[int], count: int) -> np.ndarray:
    """(count,) bool, True at the numbers."""
    among = np.zeros(count, bool)
    among[numbers] = True
    return among


def _hash(*arrays: np.ndarray) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        digest.update(repr(array.shape).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.digest()
