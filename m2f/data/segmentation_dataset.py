"""What every reader of a dataset has in common."""

from pathlib import Path
from typing import Protocol

from m2f.data.segment_map import Sample
from m2f.image_processing.white_level import WhiteLevel


class SampleSource(Protocol):
    """What training takes samples from: a reader, or an order of its items. See `SegmentationDataset`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def name_of(self, index: int) -> str:
        """What the item's `Sample` has as its name; nothing is read for it."""
        ...

    def image_path(self, index: int) -> Path | None:
        """The image's file, existing or not; None where it is not in a file of its own."""
        ...


class SegmentationDataset(SampleSource, Protocol):
    """A map-style dataset of `Sample`. The index is read at construction, an image and its labels with each item.

    An item raises ValueError, or FileNotFoundError where a file is missing; the message names the file and the
    annotation's id. Segments without a pixel are kept, so that they can be reported; the collator drops them.

    Attributes:
        id2label: name of each class in [0, K).
        thing_label_ids: the classes whose objects are counted; None where all are, [] where none is.
        task: "panoptic", "instance" or "semantic", what the labels are made for.
        format: one of `m2f.data.dataset_formats.FORMATS`.
        split: the dataset's own name for this part of it, such as "train" or "valid".
        white_level: which value is white in images of more than 8 bits, see `m2f.image_processing.white_level`. It may
            be set until the first item is read, and is to be that of the model's image processor.
        num_channels: of the images; as `white_level`.
    """

    @property
    def id2label(self) -> dict[int, str]: ...

    @property
    def thing_label_ids(self) -> list[int] | None: ...

    task: str
    format: str
    split: str
    white_level: WhiteLevel
    num_channels: int


def remarks_of(dataset: SegmentationDataset) -> list[tuple[str, str]]:
    """(kind of finding, message) for what a reader says of its whole split in `remarks`, which not all have."""
    return list(getattr(dataset, "remarks", ()))


def thing_labels(dataset: SegmentationDataset) -> list[int]:
    """The labels whose objects are told apart."""
    return sorted(dataset.id2label if dataset.thing_label_ids is None else dataset.thing_label_ids)
