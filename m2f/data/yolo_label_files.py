"""The text files of a YOLO dataset whose images are elsewhere, as Label Studio and CVAT export it without images."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import unquote

from m2f.data.dataset_paths import files_with, name_parts
from m2f.data.image_finder import ImageFinder
from m2f.data.named_files import NamedFiles
from m2f.data.yolo_layout import ends_of_place, find_path, is_classes_file, yolo_label_path


def label_files_of_folder(root: Path, place: str) -> list[Path]:
    """The text files of labels for a folder of images which need not be there.

    Args:
        root: the dataset's folder.
        place: of the images, as the yaml has it.
    """
    for parts in ends_of_place(place):
        folder = find_path(root, list(yolo_label_path(Path(*parts, "x"), Path()).parent.parts))
        if folder is not None and folder.is_dir():
            return [folder / name for name in files_with(folder, (".txt",)) if not is_classes_file(Path(name))]
    return []


def label_files_of_images(root: Path, images: Iterable[str]) -> list[Path]:
    """The text files of labels for listed images, of which some may have none."""
    files = NamedFiles(root, are_labels=True)
    found = []
    for parts in filter(None, map(name_parts, images)):
        matches = files.matches(yolo_label_path(Path(*parts), Path()).as_posix())
        found += [root / path for path in matches[:1]]
    return found


def images_of_labels(files: Sequence[Path], folder: str | Path) -> dict[str, Path]:
    """Image, relative to a folder, of each text file; a text file whose image is missing keeps its own name.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: several images are called as a text file is, or several text files as an image.
    """
    finder = ImageFinder(folder, by_stem=True)
    images: dict[str, Path] = {}
    for path in files:
        other = images.setdefault(finder.find(path.stem, unquote(path.stem)), path)
        if other != path:
            raise ValueError(f"{other} and {path} are for images of one name, which {folder} has once")
    return images
