"""What tools write in place of COCO's values, where only one meaning is possible.

Integers as floats (pandas), ids as texts, a polygon without the list around it, the same category several times and
annotations without any category (VGG Image Annotator), an address in place of the file's name (LVIS), no segmentation
for a box (FiftyOne), "points" in place of a polygon (Segments.ai), polygons of [x, y], and run lengths in a list or as
floats."""

from collections.abc import Mapping
from typing import Any

_INTEGERS = {
    "images": ("id", "height", "width"),
    "categories": ("id", "isthing"),
    "annotations": ("id", "image_id", "category_id", "iscrowd"),
    "segments_info": ("id", "category_id", "iscrowd"),
}
_EXACT = 1 << 53  # above, floats leave integers out
_FEWEST_POINTS = 3  # of a polygon
NAMELESS = "object"  # the only category of a file that names none


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
    _settle_missing_categories(content, sections["annotations"], sections["categories"])
    _settle_references(sections["annotations"], "image_id", sections["images"])
    _settle_references(sections["annotations"], "category_id", sections["categories"])
    if isinstance(content.get("categories"), list):
        content["categories"] = _without_copies(content["categories"])


def settled_segmentation(entry: Mapping[str, Any]) -> Any:
    """The segmentation of an annotation: a polygon without the list around it gets that list, points [x, y] are
    joined, run lengths in a list stand alone, as integers. [] where there is none, as of a box."""
    segmentation = entry.get("segmentation")
    if segmentation is None:
        segmentation = entry["points"] if _is_points(entry.get("points")) else []
    if isinstance(segmentation, list) and len(segmentation) == 1 and isinstance(segmentation[0], dict):
        segmentation = segmentation[0]
    if isinstance(segmentation, dict):
        return {key: _settled_numbers(value) for key, value in segmentation.items()}
    if not isinstance(segmentation, list):
        return segmentation
    is_bare = _is_points(segmentation) or (segmentation and type(segmentation[0]) in (int, float))
    polygons = [segmentation] if is_bare else segmentation
    return [[number for point in part for number in point] if _is_points(part) else part for part in polygons]


def _is_points(value: Any) -> bool:
    """Whether this is a polygon as a list of [x, y]."""
    return (
        isinstance(value, list)
        and len(value) >= _FEWEST_POINTS
        and all(isinstance(point, list) and len(point) == 2 for point in value)
    )


def _settled_numbers(value: Any) -> Any:
    """A list of run lengths, or height and width, as integers where all are integral."""
    if not isinstance(value, list) or not any(type(number) is float for number in value):
        return value
    is_integral = all(type(number) is int or (type(number) is float and number.is_integer()) for number in value)
    return [int(number) for number in value] if is_integral else value


def _dicts(content: Mapping[str, Any], name: str) -> list[dict]:
    entries = content.get(name)
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def _settle_integers(entries: list[dict], keys: tuple[str, ...]):
    for entry in entries:
        for key in keys:
            value = entry.get(key)
            if type(value) is float and value.is_integer() and abs(value) <= _EXACT:
                entry[key] = int(value)


def _settle_missing_categories(content: dict[str, Any], annotations: list[dict], categories: list[dict]):
    """Where no annotation names a category, and there is one at the most, all are of that."""
    has_some = any(entry.keys() & {"category_id", "segments_info"} for entry in annotations)
    if has_some or not annotations or len(categories) > 1:
        return
    if not categories and content.get("categories") == []:
        content["categories"] = categories = [{"id": 1, "name": NAMELESS}]
    for entry in annotations if categories and "id" in categories[0] else ():
        entry["category_id"] = categories[0]["id"]


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
