"""The target masks of one image, read at points; no mask is ever expanded, resized or converted as a whole."""

import torch
from torch import Tensor

from m2f.modeling_m2f.kernels.point_losses import StoredMasks
from m2f.modeling_m2f.point_sampling import bilinear_corners


class MaskTargets:
    """N masks and their classes; the subclasses know how the masks are stored.

    Args:
        classes: (N,) int64 in [0, K).
        size: (H', W') of the stored masks, which fill the top left corner of the canvas; beyond them is background.
        canvas: (H, W) inside the network.
        valid_size: (h, w) of the image's real pixels if what lies beyond them must not count, else None.
        ignored: (H', W') bool, True where a pixel must not count, or None.
    """

    def __init__(
        self,
        classes: Tensor,
        size: tuple[int, ...],
        canvas: tuple[int, ...],
        valid_size: tuple[int, ...] | None = None,
        ignored: Tensor | None = None,
    ):
        self.classes = classes
        self.size = tuple(size)
        self.canvas = tuple(canvas)
        self.valid_size = None if valid_size is None or tuple(valid_size) == self.canvas else tuple(valid_size)
        self.ignored = ignored

    def __len__(self) -> int:
        return len(self.classes)

    @torch.no_grad()
    def at_shared_points(self, points: Tensor) -> Tensor:
        """Bilinear values of every mask at the same points (R, 2): (N, R) float32."""
        values = points.new_zeros(len(self), len(points))
        for index, weight in bilinear_corners(points, self.size, self.canvas):
            self._add_shared(values, index, weight)
        return values

    @torch.no_grad()
    def at_own_points(self, masks: Tensor, points: Tensor) -> Tensor:
        """Bilinear values of mask `masks[i]` at `points[i]`: (n,) int64 and (n, R, 2) -> (n, R) float32."""
        values = points.new_zeros(points.shape[:-1])
        for index, weight in bilinear_corners(points, self.size, self.canvas):
            values += weight * self._cells(masks, index)
        return values

    @torch.no_grad()
    def weights(self, points: Tensor) -> Tensor | None:
        """1 where the pixel under a point counts, 0 in the padding and in ignored pixels: (..., 2) -> (...) float32.

        None where everything counts. (The original lets padding and unlabelled pixels count as background.)
        """
        if self.valid_size is None and self.ignored is None:
            return None
        # Rounding may lift a coordinate just below 1 to the canvas's end.
        column = (points[..., 0] * self.canvas[1]).long().clamp(max=self.canvas[1] - 1)
        row = (points[..., 1] * self.canvas[0]).long().clamp(max=self.canvas[0] - 1)
        counts = torch.ones_like(row, dtype=torch.bool)
        if self.valid_size is not None:
            counts &= (row < self.valid_size[0]) & (column < self.valid_size[1])
        if self.ignored is not None:
            height, width = self.size
            inside = (row < height) & (column < width)
            index = row.clamp(max=height - 1) * width + column.clamp(max=width - 1)
            counts &= ~(self.ignored.flatten()[index] & inside)
        return counts.float()

    def stored(self, masks: Tensor) -> StoredMasks:
        """Where the masks `masks` (n,) int64 are found, for the kernel that reads them by itself."""
        pixels, first = self._pixels(masks)
        ignored = None if self.ignored is None else self.ignored.contiguous()
        valid_size = self.valid_size or self.canvas
        return StoredMasks(pixels, first, masks.contiguous(), self.size, self.canvas, valid_size, ignored)

    def _pixels(self, masks: Tensor) -> tuple[Tensor, Tensor]:
        """All stored pixels, flat, and the index of the first of each of the masks `masks` (n,)."""
        raise NotImplementedError

    def _add_shared(self, values: Tensor, index: Tensor, weight: Tensor):
        """Add `weight` times the value of the pixels at `index` (R,) of every mask to `values` (N, R)."""
        raise NotImplementedError

    def _cells(self, masks: Tensor, index: Tensor) -> Tensor:
        """Values of the pixels at `index` (n, R), those of row i in mask `masks[i]`."""
        raise NotImplementedError


class IndexMapTargets(MaskTargets):
    """Masks as layers of segment indices.

    Args:
        ids: (G, H', W') int32: index of the mask that the pixel belongs to, or a negative number.
        layers: (N,) int64: the layer that each mask lies on.
        used: the layers that hold a mask.
        rest: see `MaskTargets`.
    """

    def __init__(self, ids: Tensor, layers: Tensor, used: list[int], classes: Tensor, **rest):
        super().__init__(classes, size=ids.shape[1:], **rest)
        self.ids = ids.flatten(1)
        self.layers = layers
        self.used = used

    def _add_shared(self, values: Tensor, index: Tensor, weight: Tensor):
        for layer in self.used:
            ids = self.ids[layer, index].long()
            # A point has one pixel and a pixel one mask on a layer: every addition meets an element of its own.
            values.scatter_add_(0, ids.clamp(min=0)[None], (weight * (ids >= 0))[None])

    def _cells(self, masks: Tensor, index: Tensor) -> Tensor:
        pixels, first = self._pixels(masks)
        return _pick(pixels, index + first[:, None]) == masks[:, None]

    def _pixels(self, masks: Tensor) -> tuple[Tensor, Tensor]:
        return self.ids.flatten(), self.layers[masks] * self.ids.shape[1]


class StackTargets(MaskTargets):
    """Masks one by one.

    Args:
        masks: (M, H', W') bool, uint8 or floating, in [0, 1].
        rows: (N,) int64: the masks of the stack that count.
        rest: see `MaskTargets`.
    """

    def __init__(self, masks: Tensor, rows: Tensor, classes: Tensor, **rest):
        super().__init__(classes, size=masks.shape[1:], **rest)
        self.masks = masks.flatten()
        self.rows = rows

    def _add_shared(self, values: Tensor, index: Tensor, weight: Tensor):
        every = torch.arange(len(self), device=index.device)
        values += weight * self._cells(every, index.expand(len(self), -1))

    def _cells(self, masks: Tensor, index: Tensor) -> Tensor:
        pixels, first = self._pixels(masks)
        return _pick(pixels, index + first[:, None]).float()

    def _pixels(self, masks: Tensor) -> tuple[Tensor, Tensor]:
        return self.masks, self.rows[masks] * (self.size[0] * self.size[1])


def _pick(values: Tensor, index: Tensor) -> Tensor:
    """`values[index]` of a vector, four times as fast on a CPU."""
    return values.index_select(0, index.flatten()).view_as(index)
