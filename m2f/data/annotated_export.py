"""Exports of tools in which several people may have annotated an image."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from m2f.data.image_finder import ImageFinder
from m2f.data.shape_dataset import ShapeDataset, ShapeImage, labels_of

_CHOICES = ("only", "first", "last")


class AnnotatedExport(ShapeDataset):
    """What Label Studio's and Labelbox's exports share; their classes name the arguments."""

    @staticmethod
    def images_of(path: Path, choice: str) -> Iterator[ShapeImage]:
        """The images of a file, with the annotation of each that "only", "first" or "last" chooses."""
        raise NotImplementedError

    def __init__(
        self,
        annotation_file: str | Path,
        image_folder: str | Path | None = None,
        annotation: str = "only",
        id2label: Mapping[int, str] | Sequence[str] | None = None,
        label_files: Iterable[str | Path] = (),
        split: str = "train",
        drop_others: bool = False,
    ):
        if annotation not in _CHOICES:
            raise ValueError(f"annotation must be one of {', '.join(_CHOICES)}, got {annotation!r}")
        path, images_of = Path(annotation_file), type(self).images_of
        images = list(images_of(path, annotation))
        if id2label is None:
            others = (
                image for file in label_files if Path(file) != path for image in images_of(Path(file), annotation)
            )
            id2label = labels_of([*images, *others])
        super().__init__(images, id2label, ImageFinder(image_folder or path.parent), split, drop_others)
