"""Output sizes of the resize step.

The shortest-edge rule is that of the original's test mapper (detectron2's ResizeShortestEdge): the aspect ratio is
kept and both edges are rounded half up.
"""

from collections.abc import Mapping


def shortest_edge_size(image_size: tuple[int, int], shortest: int, longest: int | None = None) -> tuple[int, int]:
    """(height, width) with the shorter edge `shortest`, made smaller where the longer edge would exceed `longest`.

    detectron2 rounds int(x + 0.5) at the end only; transformers truncates (800 x 1066 instead of 800 x 1067). An edge
    never becomes 0, where detectron2 would fail: an image of 1 x 10000 keeps one row.
    """
    height, width = image_size
    scale = shortest / min(height, width)
    if height < width:
        new_height, new_width = float(shortest), scale * width
    else:
        new_height, new_width = scale * height, float(shortest)
    if longest is not None and max(new_height, new_width) > longest:
        scale = longest / max(new_height, new_width)
        new_height, new_width = new_height * scale, new_width * scale
    return _round_half_up(new_height), _round_half_up(new_width)


def resized_size(image_size: tuple[int, int], size: Mapping[str, int]) -> tuple[int, int]:
    """(height, width) of an image of `image_size` after the resize step described by `size`.

    `size` is one of {"shortest_edge"[, "longest_edge"]}, {"longest_edge"}, {"max_height", "max_width"} (all keep the
    aspect ratio) and {"height", "width"} (does not).

    Raises:
        ValueError: `size` has other keys, or a value below 1.
    """
    keys = set(size)
    if any(int(value) < 1 for value in size.values()):
        raise ValueError(f"size must be at least 1 pixel, got {dict(size)}")
    height, width = image_size
    if keys == {"height", "width"}:
        return int(size["height"]), int(size["width"])
    if keys in ({"shortest_edge"}, {"shortest_edge", "longest_edge"}):
        return shortest_edge_size(image_size, size["shortest_edge"], size.get("longest_edge"))
    if keys == {"longest_edge"}:
        scale = size["longest_edge"] / max(height, width)
        return _round_half_up(height * scale), _round_half_up(width * scale)
    if keys == {"max_height", "max_width"}:
        scale = min(size["max_height"] / height, size["max_width"] / width)
        return _round_half_up(height * scale), _round_half_up(width * scale)
    raise ValueError(
        f"size has the keys {sorted(keys)}; expected shortest_edge (and longest_edge), longest_edge, height and "
        "width, or max_height and max_width"
    )


def round_up(value: int, divisor: int) -> int:
    """The smallest multiple of `divisor` that is not below `value`."""
    return -(-value // divisor) * divisor


def _round_half_up(value: float) -> int:
    return max(1, int(value + 0.5))
