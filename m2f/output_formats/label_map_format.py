"""Label maps: a PNG for each image with the class of each pixel, as ADE20K and many others have them."""

import numpy as np
from PIL import Image

from m2f.data.class_names import NAMES_FILE
from m2f.output.write_errors import naming
from m2f.output_formats.coco_format import SPLIT
from m2f.output_formats.format_writer import FormatWriter
from m2f.output_formats.saved_image import SavedImage

_NOTHING_8_BITS, _NOTHING_16_BITS = 255, 65535


class SemanticMaps(FormatWriter):
    """`images/train`, `annotations/train` and `id2label.json`. A pixel has one class, that of the best object; one
    without any has 255, or 65535 where there are so many classes, which stands for an unknown class."""

    image_folder = f"images/{SPLIT}"

    def add(self, image: SavedImage):
        highest = max(self.id2label, default=0)
        nothing = _NOTHING_8_BITS if highest < _NOTHING_8_BITS else _NOTHING_16_BITS
        classes = np.array([nothing, *(entry.label_id for entry in image.objects)])
        pixels = classes[image.number_map()].astype(np.uint8 if nothing == _NOTHING_8_BITS else np.uint16)
        path = (self.folder / "annotations" / SPLIT / image.file_name).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        with naming(path):
            Image.fromarray(pixels).save(path, "PNG")

    def finish(self):
        self.write_json(NAMES_FILE, {str(label): name for label, name in self.id2label.items()})
