"""The checkpoints of the Hub that are cached on this machine, for a message about one that is not found."""

import json
from collections.abc import Collection
from difflib import get_close_matches
from typing import NamedTuple

from m2f.checkpoints.bundled_checkpoint import bundled_names

_MOST_SHOWN = 8
_UNITS = ("bytes", "kB", "MB", "GB", "TB")


class CachedCheckpoint(NamedTuple):
    """name: on the Hub. size: of its files on this machine, in bytes."""

    name: str
    size: int


def cached_checkpoints(kinds: Collection[str]) -> list[CachedCheckpoint]:
    """Those of some model types in the Hub's cache, by name.

    Args:
        kinds: values of "model_type" in config.json.
    """
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except (CacheNotFound, OSError, ValueError):  # ValueError: a file in the folder's place
        return []
    found = []
    for repository in repositories:
        configs = [
            file.file_path
            for revision in repository.revisions
            for file in revision.files
            if file.file_name == "config.json"
        ]
        if repository.repo_type == "model" and any(_model_type(path) in kinds for path in configs):
            found.append(CachedCheckpoint(repository.repo_id, repository.size_on_disk))
    return sorted(found)


def not_found_advice(name: str, kinds: Collection[str]) -> str:
    """What there is in place of a checkpoint that is not found: names that are like its own, what is cached with its
    sizes, and what is bundled."""
    cached = cached_checkpoints(kinds)
    names = [entry.name for entry in cached] + bundled_names()
    parts = []
    # Compared without the owner too, which is what one forgets.
    ends = {full.rpartition("/")[2].lower(): full for full in names} | {full.lower(): full for full in names}
    near = [ends[match] for match in get_close_matches(name.lower(), ends, 3, 0.6)]
    near += [ends[match] for match in get_close_matches(name.rpartition("/")[2].lower(), ends, 3, 0.6)]
    if near:
        parts.append(f"did you mean {' or '.join(dict.fromkeys(near))}?")
    listed = [f"{entry.name} ({_size(entry.size)})" for entry in cached[:_MOST_SHOWN]]
    more = [f"{len(cached) - _MOST_SHOWN} more"] if len(cached) > _MOST_SHOWN else []
    parts.append(f"cached on this machine: {', '.join(listed + more) or 'none'}")
    parts.append(f"bundled: {', '.join(bundled_names())}")
    return "; ".join(parts)


def _model_type(path) -> str | None:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return fields.get("model_type") if isinstance(fields, dict) else None


def _size(count: float) -> str:
    for unit in _UNITS:
        if count < 1000 or unit == _UNITS[-1]:
            return f"{count:.0f} {unit}"
        count /= 1000
    raise AssertionError
