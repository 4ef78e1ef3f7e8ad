"""CVAT's own format for images, 1.1 (https://docs.cvat.ai/docs/dataset_management/formats/format-cvat/): masks, which
are exact, or polygons."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from m2f.output.safe_text import xml_text
from m2f.output.write_errors import naming
from m2f.output_formats.format_writer import FormatWriter
from m2f.output_formats.mask_outlines import Part, part_polygons
from m2f.output_formats.saved_image import Outliner, SavedImage, SavedObject


class CvatMasks(FormatWriter):
    """`annotations.xml`, to be uploaded to a task of the same images."""

    def __init__(self, folder: Path, id2label: Mapping[int, str], outliner: Outliner):
        super().__init__(folder, id2label, outliner)
        self._images, self._path = 0, folder / "annotations.xml"
        with naming(self._path):
            self._file = self._path.open("w", encoding="utf-8", newline="\n")
            self._write(cvat_head(self.id2label.values()))

    def add(self, image: SavedImage):
        shapes = (self.shapes(entry, number) for number, entry in enumerate(image.objects, start=1))
        lines = "".join(f"    {shape}\n" for found in shapes for shape in found)
        (height, width), name = image.size, _attribute(image.file_name)
        head = f'<image id="{self._images}" name={name} width="{width}" height="{height}">'
        self._write(f"  {head}\n{lines}  </image>\n")
        self._images += 1

    def finish(self):
        self._write("</annotations>\n")
        with naming(self._path):
            self._file.close()

    def close(self):
        self._file.close()

    def shapes(self, entry: SavedObject, number: int) -> Iterator[str]:
        yield cvat_mask(entry)

    def _write(self, text: str):
        with naming(self._path):
            self._file.write(text)


class CvatPolygons(CvatMasks):
    """The same with polygons; parts of an object have one `group_id`."""

    parts_are = "each part a polygon, with one group_id"

    def shapes(self, entry: SavedObject, number: int) -> Iterator[str]:
        yield from cvat_polygons(entry, self.outliner.parts(entry), number)


def cvat_head(labels: Iterable[str]) -> str:
    """The beginning of the file, which lists the labels."""
    listed = "".join(f"<label><name>{escape(xml_text(label))}</name></label>" for label in labels)
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n'
        f"  <meta><task><labels>{listed}</labels></task></meta>\n"
    )


def cvat_mask(entry: SavedObject) -> str:
    """The element of a mask: run lengths, outside and inside in turn, along the rows of its box."""
    left, top, right, bottom = entry.box
    runs = ", ".join(map(str, box_runs(entry.crop)))
    return (
        f'<mask label={_attribute(entry.label)} source="auto" occluded="0" rle="{runs}" left="{left}" top="{top}" '
        f'width="{right - left}" height="{bottom - top}" z_order="0"/>'
    )


def cvat_polygons(entry: SavedObject, parts: Sequence[Part], number: int) -> Iterator[str]:
    """The elements of an object's parts.

    Args:
        number: of the object in its image, by which its parts are known.
    """
    group = f' group_id="{number}"' if len(parts) > 1 else ""
    for polygon in part_polygons(parts):
        points = ";".join(f"{x:.2f},{y:.2f}" for x, y in polygon)
        yield (
            f'<polygon label={_attribute(entry.label)} source="auto" occluded="0" points="{points}" z_order="0"'
            f"{group}/>"
        )


def box_runs(crop: np.ndarray) -> list[int]:
    """Lengths of the runs outside and inside, in turn, row by row."""
    pixels = crop.ravel()
    borders = np.flatnonzero(np.diff(pixels, prepend=False))
    return np.diff(borders, prepend=0, append=pixels.size).tolist()


def _attribute(text: str) -> str:
    return quoteattr(xml_text(text))
