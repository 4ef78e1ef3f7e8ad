"""The result of checking a dataset: a summary of each split, and what was found."""

import statistics
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from m2f.data.image_inspection import SEVERITIES, Finding, ImageRecord
from m2f.data.segmentation_dataset import SegmentationDataset


@dataclass(frozen=True)
class SplitSummary:
    """What was read of one split.

    Args:
        readable: images that could be read with their labels; all other numbers are about those.
        segments: those with a pixel.
        segments_per_image: fewest, median, most.
        sizes: smallest and largest (H, W), by area.
        ignored: share of the pixels, in [0, 1].
        class_segments, class_images, class_pixels: class -> how many segments, images with one, and pixels.
    """

    format: str
    task: str
    images: int
    readable: int
    segments: int
    segments_per_image: tuple[int, float, int]
    sizes: tuple[tuple[int, int], tuple[int, int]]
    ignored: float
    class_segments: dict[int, int]
    class_images: dict[int, int]
    class_pixels: dict[int, int]


def summarize(reader: SegmentationDataset, records: list[ImageRecord]) -> SplitSummary:
    """The summary of a split from the records of its images."""
    readable = [record for record in records if record.size is not None]
    segments = sorted(record.segments for record in readable) or [0]
    read_sizes = [record.size for record in records if record.size is not None]
    sizes = sorted(read_sizes, key=lambda size: size[0] * size[1]) or [(0, 0)]
    per_class: dict[int, list[int]] = defaultdict(lambda: [0, 0, 0])
    for record in readable:
        for label, (count, area) in record.classes.items():
            per_class[label] = [a + b for a, b in zip(per_class[label], (count, 1, area), strict=True)]
    counts, images, pixels = ({label: row[i] for label, row in sorted(per_class.items())} for i in range(3))
    return SplitSummary(
        reader.format,
        reader.task,
        len(records),
        len(readable),
        sum(segments),
        (segments[0], statistics.median(segments), segments[-1]),
        (sizes[0], sizes[-1]),
        sum(record.ignored for record in readable) / max(1, sum(height * width for height, width in sizes)),
        counts,
        images,
        pixels,
    )


@dataclass(frozen=True)
class CheckReport:
    """The result of a check.

    Args:
        id2label: class names; of the training split, where splits differ (which is an error).
        splits: a summary of each split that could be opened.
        findings: in the order of `KINDS`, the worst first; then by split and image.
        records: what was kept of each image.
        readers: the opened splits.
        seconds: that reading took.
    """

    id2label: dict[int, str]
    splits: dict[str, SplitSummary]
    findings: list[Finding]
    records: list[ImageRecord] = field(repr=False)
    readers: Mapping[str, SegmentationDataset] = field(repr=False)
    seconds: float

    def count(self, severity: str) -> int:
        """Findings of a severity: "error", "warning" or "note"."""
        return sum(finding.severity == severity for finding in self.findings)

    def may_train(self, strict: bool = False) -> bool:
        """Without errors; where `strict`, without warnings too."""
        return not self.count("error") and not (strict and self.count("warning"))

    def by_kind(self) -> dict[str, list[Finding]]:
        """Kind -> its findings, for the kinds that have one."""
        grouped: dict[str, list[Finding]] = defaultdict(list)
        for finding in self.findings:
            grouped[finding.kind].append(finding)
        return dict(grouped)

    def to_dict(self) -> dict[str, Any]:
        """Everything but records and readers, as json takes it."""
        fields = ("severity", "kind", "split", "name", "segment", "annotation", "message", "box")
        return {
            "may_train": self.may_train(),
            "counts": {severity: self.count(severity) for severity in SEVERITIES},
            "seconds": round(self.seconds, 2),
            "id2label": self.id2label,
            "splits": {name: vars(summary) for name, summary in self.splits.items()},
            "findings": [
                {
                    "severity": finding.severity,
                    "kind": finding.kind,
                    **{name: getattr(finding, name) for name in fields},
                }
                for finding in self.findings
            ],
        }
