"""Cityscapes as it is downloaded: leftImg8bit/SPLIT/CITY/*.png and gtFine/SPLIT/CITY/*.png."""

from pathlib import Path

import numpy as np

from m2f.data.cityscapes_labels import CLASSES, LABELS, THINGS
from m2f.data.dataset_paths import files_with
from m2f.data.image_reading import ImageFile
from m2f.data.label_maps import read_label_map, segments_of_values, values_in
from m2f.data.segment_map import Sample, SegmentMap
from m2f.image_processing.channel_counts import USUAL_CHANNELS
from m2f.image_processing.label_values import IGNORED, NOTHING
from m2f.image_processing.white_level import WhiteLevel

IMAGES, LABELS_FOLDER = "leftImg8bit", "gtFine"
TASKS = ("panoptic", "instance", "semantic")
_IMAGE_END = "_leftImg8bit.png"
# In the instance files an object has the value 1000 * label id + its number; every other pixel has its label's id.
_INSTANCE_BASE = 1000
_LABEL_OF = {label.id: label for label in LABELS}


class Cityscapes:
    """A `SegmentationDataset` of Cityscapes' fine annotations.

    Panoptic and instance labels come from the `_instanceIds` files, semantic ones from `_labelIds`. Labels that the
    evaluation ignores are `IGNORED` for every task, and so are groups of things that are not told apart.

    Args:
        root: folder of leftImg8bit and gtFine.
        split: "train", "val" or "test" (whose labels are dummies).
        task: "panoptic" and "semantic" have the 19 classes, numbered by train id; "instance" has the 8 things, and
            stuff is background.
        ignore_unknown: False makes background of what would be `IGNORED`, as the original does in training
            (departure).

    Raises:
        FileNotFoundError: no such folder; for an item: no label file.
        ValueError: another task, or no image; for an item: a file that cannot be decoded, a value that stands for no
            label, or different sizes.
    """

    format = "cityscapes"
    white_level: WhiteLevel = None
    num_channels: int = USUAL_CHANNELS

    def __init__(self, root: str | Path, split: str = "train", task: str = "panoptic", ignore_unknown: bool = True):
        if task not in TASKS:
            raise ValueError(f"task must be one of {', '.join(TASKS)}, got {task!r}")
        self.root, self.split, self.task = Path(root), split, task
        self._classes = THINGS if task == "instance" else CLASSES
        self.id2label = {i: label.name for i, label in enumerate(self._classes)}
        things = [i for i, label in enumerate(self._classes) if label.has_instances]
        self.thing_label_ids = {"panoptic": things, "instance": None, "semantic": []}[task]
        self._unknown = IGNORED if ignore_unknown else NOTHING
        folder = self.root / IMAGES / split
        if not folder.is_dir():
            raise FileNotFoundError(f"no such folder: {folder}")
        self._names = [name for name in files_with(folder, (".png",)) if name.endswith(_IMAGE_END)]
        if not self._names:
            raise ValueError(f"{folder} and its folders have no file *{_IMAGE_END}")

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Sample:
        image = ImageFile(self.image_path(index), str(self.image_path(index)), self.white_level, self.num_channels)
        kind = "labelIds" if self.task == "semantic" else "instanceIds"
        stem = self._names[index].removesuffix(_IMAGE_END)
        path = self.root / LABELS_FOLDER / self.split / f"{stem}_{LABELS_FOLDER}_{kind}.png"
        values = read_label_map(path, str(path))
        image.check_size(values.shape, str(path))
        return image.sample(self._segments(values, str(path)), self._names[index])

    def name_of(self, index: int) -> str:
        return self._names[index]

    def image_path(self, index: int) -> Path:
        return self.root / IMAGES / self.split / self._names[index]

    def _segments(self, values: np.ndarray, name: str) -> SegmentMap:
        """Compact labels of the values of a label file; a segment has a value of its own in all of them."""
        return segments_of_values(values, {value: self._meaning(value, name) for value in values_in(values)})

    def _meaning(self, value: int, name: str) -> int:
        """The class of a value, `IGNORED` or `NOTHING`."""
        is_object = value >= _INSTANCE_BASE
        label = _LABEL_OF.get(value // _INSTANCE_BASE if is_object else value)
        tells_apart = label is not None and label.has_instances and self.task != "semantic"
        if label is None or (is_object and not tells_apart):
            raise ValueError(f"{name} holds the value {value}, which stands for no label of Cityscapes")
        is_group = tells_apart and not is_object
        if label.ignored or is_group:
            return self._unknown
        return self._classes.index(label) if label in self._classes else NOTHING
