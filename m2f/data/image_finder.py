"""The image files of a folder by the names that annotation tools write: paths of other machines, URLs, bare stems."""

import os
from pathlib import Path

from m2f.data.dataset_paths import image_files, name_parts
from m2f.data.named_files import NamedFiles
from m2f.data.uploaded_names import key_of_original, key_of_upload


class ImageFinder:
    """Finds images in a folder and its folders; a name never leads out of it.

    A name counts as a path below the folder first; then as `NamedFiles` takes it; then, with `by_stem`, its last part
    as that of a file without its suffix.

    Args:
        folder: of the images.
        by_stem: names may lack their suffix.

    Raises:
        FileNotFoundError: no such folder.
    """

    def __init__(self, folder: str | Path, by_stem: bool = False):
        self.folder = Path(folder)
        if not os.path.isdir(folder):
            raise FileNotFoundError(f"no such folder: {folder}")
        self._files, self._paths = NamedFiles(self.folder), set(image_files(self.folder))
        self._stems: dict[str, list[str]] = {}
        self._uploaded_stems: dict[str, list[str]] = {}
        for path in sorted(self._paths) if by_stem else ():
            stem = path.rpartition("/")[2].rpartition(".")[0]
            self._stems.setdefault(stem, []).append(path)
            self._uploaded_stems.setdefault(key_of_original(stem), []).append(path)

    def find(self, *names: str) -> str:
        """The path, relative to the folder, of the first of some names for one image that is there; the first name's
        last part where none is, so that it is missed under that.

        Raises:
            ValueError: several files are called so.
        """
        for name in names:
            if (path := name.replace("\\", "/").removeprefix("./")) in self._paths:
                return path
        for name in names:
            base = (name_parts(name) or [""])[-1]
            found = [path for path in self._files.matches(name) if path in self._paths] or self._stems.get(base, [])
            found = found or self._uploaded_stems.get(key_of_upload(base) or "", [])
            if len(found) > 1:
                raise ValueError(
                    f"{self.folder} has {len(found)} files called {base!r}, {found[0]} and {found[1]}; give the "
                    "folder of the images (--image-folder)"
                )
            if found:
                return found[0]
        return (name_parts(names[0]) or ["unnamed"])[-1]
