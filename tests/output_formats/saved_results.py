"""The folder of a prediction whose masks are known: rings, parts, overlaps, and names that are more than names."""

import os
from pathlib import Path

import numpy as np
from PIL import Image

from m2f.inference.detection import Box, Detection
from m2f.inference.image_sources import ImageSource
from m2f.inference.prediction_folder import Entry, PredictionFolder
from m2f.inference.segmentation_result import SegmentationResult

SIZE = (48, 60)
NAMES = {0: "cell", 3: 'a "<b>&\x1b[1m\uffff'}  # labels may have gaps
SCORES = (0.9, 0.775, 0.65)
EVIL = "sub/=1+1 <b>'\"&#?%41\udcff\n.png"


def discs() -> list[np.ndarray]:
    """A ring, two discs that are one object, and a disc over the ring."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]

    def disc(row, column, radius):
        return np.hypot(y - row, x - column) <= radius

    return [
        disc(16, 16, 14) & ~disc(16, 16, 6),
        disc(36, 8, 6) | disc(38, 45, 8),
        disc(16, 28, 9),
    ]


def result(image: Image.Image, masks: list[np.ndarray], name: str = "") -> SegmentationResult:
    detections = []
    for number, mask in enumerate(masks):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = Box(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
        detections.append(Detection(3 * (number % 2), SCORES[number], box, mask[box.slices]))
    return SegmentationResult.from_detections(image, detections, NAMES, name)


def written_results(path: Path) -> tuple[PredictionFolder, list[Entry]]:
    """Images: an evil name with three objects, one with none, one with one, and a broken one."""
    folder = PredictionFolder(path / "out", {})
    folder.begin()
    names = [EVIL, "empty.png", "one.png", "broken.png"]
    sources = [ImageSource(os.path.join(path, "images", name), name) for name in names]
    entries = folder.entries(sources)
    for entry, masks in zip(entries, (discs(), [], discs()[:1]), strict=False):
        os.makedirs(os.path.dirname(entry.source.location), exist_ok=True)
        pixels = np.full((*SIZE, 3), 40 * (len(masks) + 1), np.uint8)
        image = Image.fromarray(pixels)
        with open(entry.source.location, "wb") as file:
            image.save(file, "PNG")
        folder.write(entry, result(image, masks))
    folder.write_failure(entries[3], "broken")
    return folder, entries
