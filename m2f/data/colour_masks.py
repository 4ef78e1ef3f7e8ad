"""Folders of images with a picture for each in which colours stand for classes: CamVid, CVAT's segmentation masks."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from m2f.data.colour_table import UNKNOWN_NAMES, read_colour_table
from m2f.data.semantic_folder import SemanticFolder


class ColourMasks(SemanticFolder):
    """A `SemanticFolder` whose label pictures show each class in a colour of a table.

    Args:
        image_folder, label_folder, split, label_suffix: as for `SemanticFolder`.
        colours: the table, see `read_colour_table`.
        ignore: names of classes whose pixels are unknown; "void", "unlabelled" and the like by default.

    Raises:
        FileNotFoundError, ValueError: as `SemanticFolder` and `read_colour_table`; for an item also a colour that the
            table lacks, with the number of its pixels.
    """

    format = "colour-masks"

    def __init__(
        self,
        image_folder: str | Path,
        label_folder: str | Path,
        colours: str | Path,
        ignore: Sequence[str] = UNKNOWN_NAMES,
        split: str | None = None,
        label_suffix: str = "",
    ):
        self._colours = read_colour_table(Path(colours), [ignore] if isinstance(ignore, str) else ignore)
        super().__init__(
            image_folder, label_folder, self._colours.names, ignore_index=None, split=split, label_suffix=label_suffix
        )

    def _classes(self, path: Path) -> np.ndarray:
        return self._colours.classes(path, str(path))
