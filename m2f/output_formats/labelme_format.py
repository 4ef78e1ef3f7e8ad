"""LabelMe's json, one beside each image (https://github.com/wkentaro/labelme)."""

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from m2f.output_formats.format_writer import FormatWriter
from m2f.output_formats.mask_outlines import Part, part_polygons
from m2f.output_formats.saved_image import SavedImage

_VERSION = "5.5.0"  # of the format


class LabelMePolygons(FormatWriter):
    """A json and an image of the same name. Parts of an object have one `group_id`."""

    image_folder = ""
    parts_are = "each part a polygon, with one group_id"

    def add(self, image: SavedImage):
        shapes: list[dict[str, Any]] = []
        for number, entry in enumerate(image.objects, start=1):
            shapes += labelme_shapes(entry.label, entry.score, self.outliner.parts(entry), number)
        name = PurePosixPath(image.file_name)
        self.write_json(str(name.with_suffix(".json")), labelme_content(name.name, image.size, shapes))


def labelme_content(image_name: str, size: tuple[int, int], shapes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of a file.

    Args:
        image_name: relative to it.
        size: (height, width) of the image.
    """
    return {
        "version": _VERSION,
        "flags": {},
        "shapes": list(shapes),
        "imagePath": image_name,
        "imageData": None,
        "imageHeight": size[0],
        "imageWidth": size[1],
    }


def labelme_shapes(label: str, score: float, parts: Sequence[Part], number: int) -> list[dict[str, Any]]:
    """The polygons of an object.

    Args:
        number: of the object in its image, by which its parts are known.
    """
    return [
        {
            "label": label,
            "points": polygon.tolist(),
            "group_id": number if len(parts) > 1 else None,
            "description": f"score {score:.3f}",
            "shape_type": "polygon",
            "flags": {},
            "mask": None,
        }
        for polygon in part_polygons(parts)
    ]
