"""Types and ranges of a processor's settings, which may come from a file that anybody wrote."""

import math
import reprlib
from collections.abc import Mapping, Sequence, Set
from numbers import Integral, Real
from typing import Any

import torch
from transformers.image_utils import SizeDict

from m2f.image_processing.channel_counts import MOST_CHANNELS

# An image of that height and width takes 3 GiB as the model's input; larger ones are cut into tiles.
MOST_PIXELS_OF_AN_EDGE = 16_384
_SWITCHES = (
    "do_resize",
    "do_rescale",
    "do_normalize",
    "do_pad",
    "do_convert_rgb",
    "do_reduce_labels",
    "do_center_crop",
    "default_to_square",
    "disable_grouping",
    "reduce_labels",
    "pad_and_return_pixel_mask",
)
# Both ends included. That of labels is the number that a map can hold.
_WHOLE_NUMBERS = {
    "num_labels": (0, 2**31 - 1),
    "ignore_index": (-(2**31), 2**31 - 1),
    "size_divisor": (0, MOST_PIXELS_OF_AN_EDGE),
    "size_divisibility": (0, MOST_PIXELS_OF_AN_EDGE),
    "max_size": (1, 2**31 - 1),
    "image_seq_length": (0, 2**31 - 1),
    "resample": (0, 5),
    "num_channels": (1, MOST_CHANNELS),
}
_SIZES = ("size", "pad_size", "crop_size")
# Of a side that only limits another, a file may say any; 10^9 is usual for "none".
_LIMITING = {"longest_edge": "shortest_edge"}
_EDGES = ("shortest_edge", "longest_edge", "height", "width", "max_height", "max_width")


def check_setting_types(settings: Mapping[str, Any]):
    """Raise ValueError, with name, value and limit, where a setting is of another type than its step works with, or a
    size is none or takes more memory than an image may. None is another function's business."""
    given = {name: value for name, value in settings.items() if value is not None}
    for name in _SWITCHES:
        if not isinstance(given.get(name, False), bool):
            raise ValueError(f"{name} must be true or false, got {reprlib.repr(given[name])}")
    for name, limits in _WHOLE_NUMBERS.items():
        if name in given:
            _check_whole_number(name, given[name], *limits)
    if not is_finite(threshold := given.get("panoptic_threshold", 0)):
        raise ValueError(f"panoptic_threshold must be a number, got {reprlib.repr(threshold)}")
    for name in _SIZES:
        if name in given:
            _check_size(name, given[name])
    if "thing_label_ids" in given:
        _check_label_ids(given["thing_label_ids"])
    if "device" in given:
        _check_device(given["device"])


def _check_whole_number(name: str, value: Any, low: int, high: int):
    is_whole = is_finite(value) and value == int(value)
    if not is_whole or not low <= value <= high:
        raise ValueError(f"{name} must be a whole number of {low} to {high}, got {reprlib.repr(value)}")


def _check_size(name: str, size: Any):
    if isinstance(size, Mapping | SizeDict):
        edges = {key: value for key, value in dict(size).items() if value is not None}
        edges = {key: value for key, value in edges.items() if _LIMITING.get(key) not in edges or not _is_edge(value)}
        wrong = [key for key in edges if key not in _EDGES]
        if wrong:
            known = ", ".join(_EDGES)
            raise ValueError(f"{name} has the keys {reprlib.repr(wrong)}; it may have {known}")
    else:
        values = list(size) if isinstance(size, Sequence) and not isinstance(size, str) else [size]
        if len(values) not in (1, 2):
            raise ValueError(f"{name} must be one edge, or height and width, got {reprlib.repr(size)}")
        edges = dict(enumerate(values))
    if not all(_is_edge(value) and value <= MOST_PIXELS_OF_AN_EDGE for value in edges.values()):
        raise ValueError(
            f"{name} must have edges of at least 1 and at most {MOST_PIXELS_OF_AN_EDGE} pixels (larger images are for "
            f"tiles), got {reprlib.repr(dict(size) if isinstance(size, SizeDict) else size)}"
        )


def _check_label_ids(ids: Any):
    is_list = isinstance(ids, Sequence | Set) and not isinstance(ids, str) or hasattr(ids, "tolist")
    if not is_list or not all(isinstance(i, Integral) and not isinstance(i, bool) for i in ids):
        raise ValueError(f"thing_label_ids must be a list of label ids, or none, got {reprlib.repr(ids)}")


def _check_device(device: Any):
    try:
        torch.device(device)
    except (RuntimeError, TypeError, OverflowError) as error:
        raise ValueError(f"device must be one of torch's such as cpu or cuda, got {reprlib.repr(device)}") from error


def _is_edge(value: Any) -> bool:
    return is_finite(value) and value >= 1 and value == int(value)


def is_finite(value: Any) -> bool:
    """Whether it is a number, also as a float: whole numbers have no limit."""
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False
