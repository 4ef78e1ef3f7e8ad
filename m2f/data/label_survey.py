"""What the label maps of a dataset tell together: whether their values are classes at all. One map alone cannot tell,
as an image may well have a single class."""

import json
import shlex
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Literal

import numpy as np

from m2f.data.label_maps import ClassTable, names_by_number
from m2f.image_processing.label_values import IGNORE_INDEX

# A table of classes by number that is so much larger than what occurs is none: colours, or ids of instances.
_CLASSES_PER_VALUE, _SPARE_CLASSES = 4, 32
# Instances are counted from 1 in each map; classes leave gaps.
_MANY_INSTANCES, _MANY_IN_ONE_MAP = 10, 32
_SAMPLED = 20  # images
_SHOWN = 6


def chosen_index(ignore_index: int | None | Literal["auto"]) -> tuple[int | None, int | None]:
    """The value that is ignored, and the same where it is the user's choice, else None: "auto" is 255, which many
    maps of two values have for their object."""
    if isinstance(ignore_index, str):
        if ignore_index != "auto":
            raise ValueError(f"ignore_index must be a number, None (null) or 'auto', got {ignore_index!r}")
        return IGNORE_INDEX, None
    return ignore_index, ignore_index


def check_two_values(
    value_lists: Iterable[Sequence[int]],
    table: ClassTable,
    names: Sequence[str] | None,
    where: str,
    has_background: bool = False,
    chosen: int | None = None,
) -> None:
    """Refuses maps of two values of which one is ignored, such as 0 and 255: the object would be, or all around it.

    Looks at no more maps than it takes to find two classes.

    Args:
        value_lists: the values in each map.
        names: of the classes, where they are known.
        where: what messages call the maps.
        has_background: 0 is what lies around objects, and not ignored.
        chosen: the value that the user wants to be ignored; maps in which it alone is are as they are meant.

    Raises:
        ValueError: the message has the options that read both values.
    """
    if not table.ignores_some():
        return  # without a look: pictures of colours are no maps of numbers, and all would be read in vain
    kept, ignored = set[int](), set[int]()
    for values in value_lists:
        for value in values:
            is_ignored = table.is_ignored(value) and not (has_background and value == 0)
            (ignored if is_ignored else kept).add(value)
        if len(kept) > 1:
            return
    both = sorted(kept | ignored)
    is_known = bool(names) and both[:1] != [0]  # somebody knows that the other one is a class
    if ignored <= {chosen} or len(both) != 2 or is_known:
        return
    pair = dict(zip(map(str, both), names if names and len(names) == 2 else ("background", "object"), strict=True))
    options = [f"id2label={json.dumps(pair)}", "ignore_index=null", *["reduce_labels=false"] * table.reduce_labels]
    shown = f"{sorted(ignored)[0]} is" if kept else "both are"
    raise ValueError(
        f"{where} hold only {both[0]} and {both[1]}, and {shown} ignored; to have both as classes give --data-options "
        f"{shlex.join(options)}"
    )


def numbered_classes(
    value_lists: Iterable[Sequence[int]], table: ClassTable, where: str, remedy: str, chosen: int | None = None
) -> dict[int, str]:
    """Classes that are called by their number, up to the highest in any map.

    Args:
        value_lists: the values in each map.
        where: what messages call the maps.
        remedy: how ids of instances are read.
        chosen: as for `check_two_values`.

    Raises:
        ValueError: the values are rather ids of instances, or colours, or the same masks are of 0 and 1 in some maps
            and of 0 and 255 in others.
    """
    value_lists = list(value_lists)
    if chosen != IGNORE_INDEX and table.is_ignored(IGNORE_INDEX):
        _check_one_scale(value_lists, where)
    maps = [[value for value in values if not table.is_ignored(value)] for values in value_lists]
    values = sorted(set().union(*maps))
    highest = max((table.class_of(value) for value in values), default=-1)
    if highest > _CLASSES_PER_VALUE * len(values) + _SPARE_CLASSES:
        shown = ", ".join(map(str, values[:_SHOWN])) + (f", ... {values[-1]}" if len(values) > _SHOWN else "")
        problem = f"the values {shown}, for which there would be {highest + 1} classes"
    elif _count_instances(maps):
        problem = f"the values 1 to n without a gap in each map, with n up to {values[-1]}, as if counting instances"
    else:
        return names_by_number(highest)
    raise ValueError(
        f"{where} hold {problem}; if they are ids of instances give {remedy}, and if they are classes name them with "
        "id2label.json or --data-options id2label=..."
    )


def check_channels(images: Iterable[np.ndarray], has_names: bool, where: str) -> None:
    """Refuses colours in place of classes and numbers of instances: few different values, and large ones.

    Args:
        images: (H, W, 3) uint8 each: class, number of the instance, 0. The first with a pixel that is not 0 count.
        has_names: whether the classes are known, and were named by somebody who knows that there are such; then only
            instances without a class are looked at.
        where: what messages call the images.

    Raises:
        ValueError: the values are rather colours.
    """
    coloured = (image.reshape(-1, 3).astype(np.int64) for image in images if image.any())
    colours = np.concatenate(
        [np.unique(pixels, axis=0) for pixels in islice(coloured, _SAMPLED)] or [np.zeros((0, 3), np.int64)]
    )
    classes = set() if has_names else set(colours[:, 0].tolist()) - {0, IGNORE_INDEX}
    numbers = set(colours[(colours[:, 0] == 0) | (not has_names), 1].tolist()) - {0}
    for what, values in (("classes", classes), ("numbers of instances", numbers)):
        if max(values, default=0) > _CLASSES_PER_VALUE * len(values) + _SPARE_CLASSES:
            shown = ", ".join(str(int(value)) for value in sorted(values)[:_SHOWN])
            raise ValueError(
                f"{where} have channels, the class and a count of instances, but hold the {what} {shown}, as colours "
                "do; write a label map with one number per pixel, or name the classes with --data-options "
                "id2label=... if these are classes"
            )


def _check_one_scale(value_lists: Sequence[Sequence[int]], where: str) -> None:
    """Refuses masks of 0 and 1 beside masks of 0 and 255, whose objects would be ignored: where a map has no more than
    these values, and none has both 1 and 255."""
    found = {tuple(sorted(values)) for values in value_lists}
    small, large = found & {(0, 1), (1,)}, found & {(0, IGNORE_INDEX)}
    if small and large and found <= {(0,), (0, 1), (1,), (0, IGNORE_INDEX), (IGNORE_INDEX,)}:
        raise ValueError(
            f"{where} hold 0 and 1 in some maps and 0 and 255 in others, and 255 is ignored; write the same value for "
            "the same class, or give --data-options ignore_index=255 if 255 means that nothing is known"
        )


def _count_instances(maps: list[list[int]]) -> bool:
    """Whether each map has the values 1 to n, with another n in some, and many in one."""
    counted = [[value for value in values if value] for values in maps]
    counted = [values for values in counted if values]
    if not all(values == list(range(1, len(values) + 1)) for values in counted):
        return False
    counts = {len(values) for values in counted}
    return max(counts, default=0) >= (_MANY_INSTANCES if len(counts) > 1 else _MANY_IN_ONE_MAP)
