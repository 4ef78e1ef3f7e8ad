"""The runs of pixels that segments are made of. An object has as many as its height, so that objects are compared in
time that grows with their outlines, and not with the image."""

from dataclasses import dataclass

import numpy as np

from m2f.data.segment_map import SegmentMap


@dataclass(frozen=True, eq=False)
class SegmentRuns:
    """R runs of pixels, by segment and then by position; each lies in one row.

    Args:
        segments: (R,) the segment that a run belongs to.
        starts, ends: (R,) int64 positions row * W + column of the first pixel and after the last.
        width: W, of the image.
    """

    segments: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    width: int

    def pixels_in(self, region: np.ndarray, count: int) -> np.ndarray:
        """(count,) pixels of each of the segments 0 to count-1 where the (H, W) bool `region` is True."""
        before = np.zeros(region.size + 1, np.int32)  # of the position, in the region
        np.cumsum(region.ravel(), out=before[1:], dtype=np.int32)
        pixels = before[self.ends] - before[self.starts]
        return np.bincount(self.segments, pixels, count).astype(np.int64)

    def borders(self) -> dict[int, np.ndarray]:
        """Segment -> (n, 2) int64 starts and ends of its runs."""
        borders = np.stack([self.starts, self.ends], 1)
        return {segment: borders[runs] for segment, runs in self._by_segment()}

    def shapes(self) -> dict[int, bytes]:
        """Segment -> what is the same for segments of the same pixels, and different for others."""
        return {segment: borders.tobytes() for segment, borders in self.borders().items()}

    def boxes(self) -> dict[int, tuple[int, int, int, int]]:
        """Segment -> (left, top, right, bottom) in pixels, right and bottom exclusive."""
        rows, lefts = np.divmod(self.starts, self.width)
        rights = lefts + self.ends - self.starts
        return {
            segment: (
                int(lefts[runs].min()),
                int(rows[runs.start]),
                int(rights[runs].max()),
                int(rows[runs.stop - 1]) + 1,
            )
            for segment, runs in self._by_segment()
        }

    def _by_segment(self) -> list[tuple[int, slice]]:
        firsts = np.flatnonzero(np.diff(self.segments, prepend=-1)).tolist()
        slices = map(slice, firsts, [*firsts[1:], len(self.segments)])
        return list(zip(self.segments[firsts].tolist(), slices, strict=True))


def segment_runs(segments: SegmentMap, wanted: np.ndarray | None = None) -> SegmentRuns:
    """The runs of the segments, or of those that are `wanted` (N,) bool."""
    layers = [_runs_of_layer(layer, wanted) for layer in segments.ids]
    owners, starts, ends = (np.concatenate(parts) for parts in zip(*layers, strict=True))
    order = np.argsort(owners, kind="stable")
    return SegmentRuns(owners[order], starts[order], ends[order], segments.size[1])


def _runs_of_layer(layer: np.ndarray, wanted: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Segments, starts and ends."""
    borders = np.ones(layer.shape, bool)
    np.not_equal(layer[:, 1:], layer[:, :-1], out=borders[:, 1:])
    starts = np.flatnonzero(borders)
    owners = layer.ravel()[starts]
    ends = np.append(starts[1:], layer.size)
    kept = owners >= 0
    if wanted is not None:
        kept[kept] = wanted[owners[kept]]
    return owners[kept], starts[kept], ends[kept]
