"""YOLO's polygons as Ultralytics defines them (https://docs.ultralytics.com/datasets/segment/)."""

import json
from collections.abc import Sequence
from pathlib import Path

from m2f.data.yolo_layout import yolo_label_path
from m2f.output.safe_text import xml_text
from m2f.output_formats.coco_format import SPLIT
from m2f.output_formats.format_writer import FormatWriter
from m2f.output_formats.mask_outlines import Part, whole_polygon
from m2f.output_formats.saved_image import SavedImage

_DIGITS = 7  # of a share: thousandths of a pixel in an image of 10,000


class YoloPolygons(FormatWriter):
    """`data.yaml`, `images/train` and `labels/train` with a line for each object: its class, and x and y of the points
    as shares of width and height. A line is one polygon, so that parts are joined as holes are."""

    image_folder = f"images/{SPLIT}"
    parts_are = "joined by a line without width, as the format has one polygon for each"

    def add(self, image: SavedImage):
        place = yolo_label_path(Path(self.image_folder, image.file_name), Path())
        lines = [
            yolo_line(self.number_of[entry.label_id], self.outliner.parts(entry), image.size)
            for entry in image.objects
        ]
        self.write_text(str(place), "".join(f"{line}\n" for line in lines))

    def finish(self):
        # json's texts are yaml's, but for characters beyond 16 bits, which it would write as two.
        names = [json.dumps(xml_text(name), ensure_ascii=False) for name in self.id2label.values()]
        lines = [f"train: {self.image_folder}", "# val: of other images, which Ultralytics wants", "names:"]
        lines += [f"  {number}: {name}" for number, name in enumerate(names)]
        self.write_text("data.yaml", "\n".join(lines) + "\n")


def yolo_line(number: int, parts: Sequence[Part], size: tuple[int, int]) -> str:
    """Of an object.

    Args:
        number: its class, from 0.
        size: (height, width) of the image.
    """
    shares = (whole_polygon(parts) / [size[1], size[0]]).ravel()
    return " ".join([str(number), *(f"{share:.{_DIGITS}g}" for share in shares)])
