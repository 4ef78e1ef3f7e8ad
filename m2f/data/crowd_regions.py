"""Crowd regions (COCO's `iscrowd` 1): groups of objects for COCO, a mark of every mask for some annotation tools."""

from collections import Counter
from collections.abc import Iterable, Mapping

CROWD_CHOICES = ("ignore", "object")
ONLY_CROWDS = "only crowd regions"  # kind of a finding
CROWD_HINT = "annotation tools write this for masks; --data-options crowd=object takes them as objects"


def takes_as_objects(crowd: str) -> bool:
    """Whether crowd regions are objects as all others.

    Raises:
        ValueError: `crowd` is none of `CROWD_CHOICES`.
    """
    if crowd not in CROWD_CHOICES:
        raise ValueError(f"crowd must be one of {', '.join(CROWD_CHOICES)}, got {crowd!r}")
    return crowd == "object"


def crowd_remarks(annotations: Iterable[tuple[int, bool]], names: Mapping[int, str]) -> list[tuple[str, str]]:
    """(kind of finding, message) for the crowd regions of a split, none where it has none.

    Args:
        annotations: class of each, and whether it is a crowd region that takes no part.
        names: of the classes.
    """
    counts = Counter(annotations)
    crowds = Counter({label: count for (label, is_crowd), count in counts.items() if is_crowd})
    crowd, total = crowds.total(), counts.total()
    if not crowd:
        return []
    text = f"{crowd} of {total} annotations are crowd regions and take no part; {CROWD_HINT}"
    if crowd == total:
        return [(ONLY_CROWDS, text)]
    hidden = [label for label in sorted(crowds) if not counts[label, False]]
    kind = "class of crowd regions"
    return [
        ("crowd region", text),
        *((kind, f"class {i} {names.get(i)!r} has no other annotation than {crowds[i]} of these") for i in hidden),
    ]
