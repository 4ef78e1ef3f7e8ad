"""Datumaro's own format (https://open-edge-platform.github.io/datumaro, "Datumaro format"): masks, which are exact."""

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from m2f.output_formats.format_writer import FormatWriter, ListWriter
from m2f.output_formats.saved_image import Outliner, SavedImage

_SUBSET = "train"
_IMAGE = 2  # the number of the kind of media


class DatumaroMasks(FormatWriter):
    """`annotations/train.json` and `images/train`."""

    image_folder = f"images/{_SUBSET}"

    def __init__(self, folder: Path, id2label: Mapping[int, str], outliner: Outliner):
        super().__init__(folder, id2label, outliner)
        self._annotations = 0
        names = [{"name": name, "parent": "", "attributes": []} for name in self.id2label.values()]
        categories = {"label": {"labels": names, "label_groups": [], "attributes": []}}
        head = {"dm_format_version": "1.0", "media_type": _IMAGE, "infos": {}, "categories": categories}
        self._list = ListWriter(folder / "annotations" / f"{_SUBSET}.json", f'{json.dumps(head)[:-1]}, "items": [')

    def add(self, image: SavedImage):
        annotations = []
        for number, entry in enumerate(image.objects, start=1):
            annotation: dict[str, Any] = {
                "id": self._annotations,
                "type": "mask",
                "attributes": {"score": entry.score},
            }
            annotation |= {"group": number, "label_id": self.number_of[entry.label_id], "z_order": 0}
            annotations.append({**annotation, "rle": entry.run_lengths(image.size)})
            self._annotations += 1
        media = {"path": image.file_name, "size": list(image.size)}
        identity = str(PurePosixPath(image.file_name).with_suffix(""))
        self._list.add({"id": identity, "annotations": annotations, "image": media})

    def finish(self):
        self._list.finish("\n]}\n")

    def close(self):
        self._list.close()
