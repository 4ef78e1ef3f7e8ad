"""Files that annotations name as another machine, system or tool knew them: with backslashes, as an absolute path or
an address, in another case, or with accents written in another way."""

import os
import unicodedata
from collections import Counter
from pathlib import Path
from urllib.parse import unquote

from m2f.data.dataset_paths import LABEL_FOLDERS, inside, name_key, name_parts, split_of_folder
from m2f.data.uploaded_names import key_of_original, key_of_upload

_UNUSUAL = ("\\", ":", "..", "?")  # in names that may be no paths in the folder as they stand
_SHOWN = 3


class NamedFiles:
    """Files below a folder, by the names that annotations give them.

    A name means the file of this path. Where there is none, it means the one whose path has the most folders in
    common with it from the end on, with none but its own name at the least; capitals and the two ways to write an
    accent are alike. Where none has its name, it counts as that of an upload, see `uploaded_names`. It never means a
    file outside the folder, one in the folder of another split or (for images) of label maps, one of several that fit
    as well, or one that another name means.

    Args:
        folder: links in it are not followed by the search.
        are_labels: whether the files are label maps.
    """

    def __init__(self, folder: Path, are_labels: bool = False):
        self.folder = folder
        self._are_labels = are_labels
        self._owner: dict[str, str] = {}  # path in the folder -> the name that means it
        self._mapped: set[str] = set()  # those of them that are not what the name says
        self._index: dict[str, list[str]] | None = None
        self._originals: dict[str, list[str]] | None = None
        self._same_name: Counter[str] | None = None

    def add(self, name: str, written_in: str) -> str:
        """The path in the folder, with "/", of a file that may be missing.

        Raises:
            ValueError: the name leads out of the folder, and no file in it is meant; or several may be.
        """
        path = self._plain(name)
        if path is None:
            found = self.matches(name)
            if len(found) > 1:
                raise ValueError(f"{written_in} names the file {name!r}, {self._which(found)}")
            if not found:  # a file that is missing is reported where it is needed
                inside(self.folder, name, written_in)
            path = found[0] if found else "/".join(name_parts(name)) or name
            self._mapped.update(found)
        if path in self._mapped and self._owner.get(path, name) != name:
            raise ValueError(
                f"{written_in} names the file {name!r}, but {path!r} in {self.folder} is already that of "
                f"{self._owner[path]!r}; give the images names of their own"
            )
        self._owner[path] = name
        return path

    def find(self, name: str) -> tuple[Path, str]:
        """Of a name that `add` gave: the file that it means, else where it should be; and why no other was taken, ""
        where there is none."""
        plain = self.folder / name
        found = [] if os.path.isfile(plain) else self._others(name)
        if len(found) > 1:
            return plain, self._which(found)
        return (self.folder / found[0] if found else plain), ""

    def path(self, name: str) -> Path:
        """The first of what `find` gives."""
        return self.find(name)[0]

    def _plain(self, name: str) -> str | None:
        """The path in the folder that a name is as it stands; None where it is none."""
        if not name.startswith("/") and not any(sign in name for sign in _UNUSUAL):
            return name
        try:
            path = inside(self.folder, name, "").relative_to(os.path.abspath(self.folder)).as_posix()
        except ValueError:
            return None
        is_path = os.path.isabs(name) or name_parts(name) == name_parts(path)
        return path if os.path.isfile(self.folder / path) or is_path and "\\" not in name else None

    def _others(self, name: str) -> list[str]:
        """What a missing name may mean that no other name means."""
        if self._same_name is None:
            self._same_name = Counter(name_key(owned.rpartition("/")[2]) for owned in self._owner)
        parts = name_parts(name)
        is_only = bool(parts) and self._same_name[name_key(parts[-1])] == 1
        found = [path for path in self.matches(name) if path not in self._owner]
        return [path for path in found if is_only or _common(parts, path.split("/")) > 1]

    def matches(self, name: str) -> list[str]:
        """The paths in the folder that fit a name best."""
        parts = name_parts(name)
        plain = [unquote(part) for part in parts]
        found = self._candidates(parts) or self._candidates(plain) or self._uploads(plain)
        best = max((fit for fit, _ in found), default=None)
        return [path for fit, path in found if fit == best]

    def _candidates(self, parts: list[str]) -> list[tuple[tuple[int, bool], str]]:
        """(folders in common and whether the name is the same, path)."""
        return self._fits(parts, self._by_key().get(name_key(parts[-1]), []) if parts else [])

    def _uploads(self, parts: list[str]) -> list[tuple[tuple[int, bool], str]]:
        """The same of files that were uploaded under this name."""
        key = key_of_upload(parts[-1]) if parts else None
        if key is None:
            return []
        if self._originals is None:
            self._originals = {}
            for path in (path for paths in self._by_key().values() for path in paths):
                self._originals.setdefault(key_of_original(path.rpartition("/")[2]), []).append(path)
        return self._fits(parts, self._originals.get(key, []))

    def _fits(self, parts: list[str], paths: list[str]) -> list[tuple[tuple[int, bool], str]]:
        found = []
        for path in paths:
            own = path.split("/")
            if self._may_mean(parts[:-1], own[:-1]):
                same = unicodedata.normalize("NFC", parts[-1]) == unicodedata.normalize("NFC", own[-1])
                found.append(((_common(parts, own), same), path))
        return found

    def _may_mean(self, wanted: list[str], own: list[str]) -> bool:
        splits = [{split_of_folder(part) for part in parts} - {None} for parts in (wanted, own)]
        labels = {part.lower() for part in own} & LABEL_FOLDERS - {part.lower() for part in wanted}
        return (not all(splits) or bool(splits[0] & splits[1])) and (self._are_labels or not labels)

    def _by_key(self) -> dict[str, list[str]]:
        """Key of a name -> paths of its files in the folder; listed once, when a name first needs it."""
        if self._index is None:
            self._index = {}
            for root, folders, names in os.walk(self.folder):
                folders.sort()
                place = Path(root).relative_to(self.folder)
                for name in sorted(names):
                    if not name.startswith("."):
                        self._index.setdefault(name_key(name), []).append((place / name).as_posix())
        return self._index

    def _which(self, found: list[str]) -> str:
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        return f"which may be any of {', '.join(map(repr, found[:_SHOWN]))}{more} in {self.folder}"


def _common(one: list[str], other: list[str]) -> int:
    """How many parts are alike, from the end on."""
    count = 0
    for a, b in zip(reversed(one), reversed(other), strict=False):
        if name_key(a) != name_key(b):
            break
        count += 1
    return count
