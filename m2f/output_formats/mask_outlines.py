"""Masks as polygons. Contours go along the edges of pixels, so that without a tolerance a polygon has the mask's
pixels and no others."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

DEFAULT_TOLERANCE = 0.7  # pixels
_STEPS = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]])  # (x, y): right, down, left, up


class Part(NamedTuple):
    """Pixels of a mask that hang together by their edges.

    outer: (N, 2) float64 x and y of the contour, clockwise on the screen, in pixels; pixel (0, 0) is from 0 to 1.
    holes: contours of the holes in it, the other way round.
    """

    outer: np.ndarray
    holes: list[np.ndarray]


def mask_parts(mask: np.ndarray, tolerance: float = 0.0, left: int = 0, top: int = 0) -> list[Part]:
    """The parts of a mask, from top to bottom.

    Args:
        mask: (H, W) bool.
        tolerance: pixels that corners may be away from the line that leaves them out (Douglas and Peucker 1973); 0:
            every corner is a point. A contour of which less than a triangle would be left stays as it is.
        left, top: where the mask lies in its image.

    Raises:
        ValueError: a tolerance below 0.
    """
    from scipy.ndimage import label

    check_tolerance(tolerance)
    contours = _contours(np.asarray(mask, bool))
    numbers = label(mask)[0] if len(contours) > 1 else np.ones(np.shape(mask), int)
    parts: dict[int, Part] = {}
    for (row, column), corners in contours:
        points = _simplified(corners, tolerance) + [left, top]
        # The first contour of a part is its outer one, which has the uppermost edge.
        part = parts.setdefault(int(numbers[row, column]), Part(points, []))
        if part.outer is not points:
            part.holes.append(points)
    return list(parts.values())


def check_tolerance(tolerance: float):
    """Raise ValueError where a tolerance is below 0 or no number."""
    if not 0 <= tolerance < math.inf:
        raise ValueError(f"polygons cannot have a tolerance of {tolerance} pixels; give 0 or more")


def part_polygons(parts: Sequence[Part]) -> list[np.ndarray]:
    """A polygon (N, 2) of each part. A line that goes there and back joins a hole to the contour; it has no area, so
    that what fills the polygon, by the one rule or the other, leaves the hole out."""
    return [_joined([part.outer, *part.holes]) for part in parts]


def whole_polygon(parts: Sequence[Part]) -> np.ndarray:
    """One polygon (N, 2) of all parts, joined as holes are, for formats that have one for each object."""
    return _joined([ring for part in parts for ring in (part.outer, *part.holes)])


def _contours(mask: np.ndarray) -> list[tuple[tuple[int, int], np.ndarray]]:
    """(row, column) of the pixel below a contour's first edge, and its corners (N, 2) int (x, y), with the mask on the
    right; sorted by that pixel."""
    padded = np.pad(mask, 1)
    # The four pixels around each corner of pixels.
    upper_left, upper_right = padded[:-1, :-1], padded[:-1, 1:]
    lower_left, lower_right = padded[1:, :-1], padded[1:, 1:]
    edges = np.stack(  # in the directions of _STEPS
        [
            lower_right & ~upper_right,
            lower_left & ~lower_right,
            upper_left & ~lower_left,
            upper_right & ~upper_left,
        ]
    )
    direction, y, x = np.nonzero(edges)
    following, is_corner = _next_edges(edges, direction, y, x)
    seen = bytearray(len(following))
    contours = []
    for start in range(int(edges[0].sum())):  # edges to the right are the first, and every contour has one
        ring, edge = [], start
        while not seen[edge]:
            seen[edge] = 1
            ring.append(edge)
            edge = following[edge]
        corners = [edge for edge in ring if is_corner[edge]]
        if corners:
            points = np.stack([x[corners], y[corners]], 1)
            contours.append(((int(y[start]), int(x[start])), points))
    return contours


def _next_edges(edges: np.ndarray, direction: np.ndarray, y: np.ndarray, x: np.ndarray) -> tuple[list, np.ndarray]:
    """The number of the edge that follows each, and whether one begins with a turn."""
    end_y, end_x = y + _STEPS[direction, 1], x + _STEPS[direction, 0]
    right, left = (direction + 1) % 4, (direction + 3) % 4
    straight = np.where(edges[direction, end_y, end_x], direction, left)
    # Where pixels touch by a corner alone, a turn to the right stays with the own one.
    taken = np.where(edges[right, end_y, end_x], right, straight)
    number = np.zeros(edges.shape, np.int64)
    number[direction, y, x] = np.arange(len(direction))
    following = number[taken, end_y, end_x]
    is_corner = np.zeros(len(direction), bool)
    is_corner[following] = taken != direction
    return following.tolist(), is_corner


def _simplified(corners: np.ndarray, tolerance: float) -> np.ndarray:
    """A closed line with fewer of its corners."""
    if tolerance == 0:
        return corners.astype(np.float64)
    # Two points that are far from each other divide the line.
    first = int(np.argmax(((corners - corners.mean(0)) ** 2).sum(1)))
    points = np.roll(corners, -first, axis=0)
    opposite = int(np.argmax(((points - points[0]) ** 2).sum(1)))
    closed = [*points.tolist(), points[0].tolist()]
    kept = {0, opposite}
    pieces = [(0, opposite), (opposite, len(points))]
    while pieces:
        start, end = pieces.pop()
        distance, middle = _farthest(closed, start, end)
        if distance > tolerance:
            kept.add(middle)
            pieces += [(start, middle), (middle, end)]
    return (points if len(kept) < 3 else points[sorted(kept)]).astype(np.float64)


def _farthest(points: list[list[int]], start: int, end: int) -> tuple[float, int]:
    """(distance, number) of the point between two that is farthest from the line between these. In plain Python: most
    objects have a few dozen points, for which NumPy takes thirty times as long."""
    (x, y), (end_x, end_y) = points[start], points[end]
    along_x, along_y = end_x - x, end_y - y
    length = along_x * along_x + along_y * along_y or 1
    farthest, number = 0.0, start
    for other in range(start + 1, end):
        offset_x, offset_y = points[other][0] - x, points[other][1] - y
        share = min(max((offset_x * along_x + offset_y * along_y) / length, 0.0), 1.0)
        distance = (offset_x - share * along_x) ** 2 + (offset_y - share * along_y) ** 2
        if distance > farthest:
            farthest, number = distance, other
    return math.sqrt(farthest), number


def _joined(rings: Sequence[np.ndarray]) -> np.ndarray:
    """One closed line through all rings, by the shortest ways between points of them."""
    from scipy.spatial import KDTree

    line = rings[0]
    for ring in rings[1:]:
        distances, nearest = KDTree(line).query(ring)
        begin = int(np.argmin(distances))
        at = int(nearest[begin])
        there = np.roll(ring, -begin, axis=0)
        line = np.concatenate([line[: at + 1], there, there[:1], line[at:]])
    return line
