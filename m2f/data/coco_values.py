"""What tools write in place of COCO's values, where only one meaning is possible.

Integers as floats (pandas), ids as texts, a polygon without the list around it and the same category several times
(VGG Image Annotator), and an address in place of the file's name (LVIS)."""

from collections.abc import Mapping
from typing import Any

_INTEGERS = {
    "images": ("id", "height", "width"),
    "categories": ("id", "isthing"),
    "annotations": ("id", "image_id", "category_id", "iscrowd"),
    "segments_info": ("id", "category_id", "iscrowd"),
}
_EXACT = 1 << 53  # above, floats leave integers out


def settle_values(content: dict[str, Any]):
    """Replaces such values in the sections of a COCO json by COCO's; what is neither stays as it is."""
    sections = {name: _dicts(content, name) for name in ("images", "categories", "annotations")}
    for name, entries in sections.items():
        _settle_integers(entries, _INTEGERS[name])
    for entry in sections["annotations"]:
        _settle_integers(_dicts(entry, "segments_info"), _INTEGERS["segments_info"])
    for entry in sections["categories"]:
        if (
            isinstance(entry.get("id"), str)
            and entry["id"].isascii()
            and entry["id"].isdigit()
            and len(entry["id"]) < 16
        ):
            entry["id"] = int(entry["id"])
    for entry in sections["images"]:
        if "file_name" not in entry and "coco_url" in entry:
            entry["file_name"] = entry["coco_url"]
    _settle_references(sections["annotations"], "image_id", sections["images"])
    _settle_references(sections["annotations"], "category_id", sections["categories"])
    if isinstance(content.get("categories"), list):
        content["categories"] = _without_copies(content["categories"])


def settled_polygons(segmentation: Any) -> Any:
    """A segmentation; of a polygon without the list around it, with that list."""
    is_bare = isinstance(segmentation, list) and segmentation and type(segmentation[0]) in (int, float)
    return [segmentation] if is_bare else segmentation


def _dicts(content: Mapping[str, Any], name: str) -> list[dict]:
    entries = content.get(name)
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def _settle_integers(entries: list[dict], keys: tuple[str, ...]):
    for entry in entries:
        for key in keys:
            value = entry.get(key)
            if type(value) is float and value.is_integer() and abs(value) <= _EXACT:
                entry[key] = int(value)


def _settle_references(annotations: list[dict], key: str, entries: list[dict]):
    """Ids that annotations write as text and the entries as numbers, or the other way round."""
    ids = [entry["id"] for entry in entries if type(entry.get("id")) in (int, str)]
    known, by_text = set(ids), {str(number): number for number in ids}
    for entry in annotations:
        value = entry.get(key)
        if type(value) in (int, str) and value not in known:
            entry[key] = by_text.get(str(value), value)


def _without_copies(categories: list) -> list:
    """The categories but for later ones of the same id, name and kind."""
    kept, seen = [], set()
    for entry in categories:
        facts = [entry.get(key) for key in ("id", "name", "isthing")] if isinstance(entry, dict) else [entry]
        is_plain = all(fact is None or type(fact) in (int, str) for fact in facts)
        if not is_plain or tuple(facts) not in seen:
            kept.append(entry)
        if is_plain:
            seen.add(tuple(facts))
    return kept
