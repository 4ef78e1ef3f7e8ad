"""A 3x3 convolution by Winograd's minimal filtering (Lavin and Gray, CVPR 2016), F(4x4, 3x3), with
csrc/winograd_cpu.cpp on a CPU.

Of each tile x, 6 x 6 cells of the input that overlap their neighbours by two, 4 x 4 cells of the output are
    A^T ((G w G^T) * (B^T x B)) A,
where * multiplies element by element and sums over the channels: 36 matrix products, which have a quarter of the
multiplications of the convolution itself. With a tile y of the output's gradient, that of the weight is
    G^T (sum over the tiles of (A y A^T) * (B^T x B)) G,
as many products again. The matrices are those of Toom and Cook for the points 0, 1, -1, 1/2, -2 and
infinity, with which float32 loses least (for 1/2 in place of 2 see Barabasz et al., ACM TOMS 2020).
"""

import ctypes
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from m2f.modeling_m2f.kernels.c_arguments import integers, threads
from m2f.modeling_m2f.kernels.cpu_source import CpuSource

WINOGRAD = CpuSource("winograd_cpu.cpp", "3x3 convolution")
TILE = 4  # cells of the output along an edge
PRODUCTS = 36
_APART = 272  # numbers, a few lines of the cache
# Tiles of a block: enough rows for the products' full rate, few enough for the transformed block to stay in the cache.
_BLOCK_TILES = 640
_G = (
    (1, 0, 0),
    (1 / 3, 1 / 3, 1 / 3),
    (-1 / 3, 1 / 3, -1 / 3),
    (-16 / 15, -8 / 15, -4 / 15),
    (1 / 15, -2 / 15, 4 / 15),
    (0, 0, 1),
)


def convolve_tiles(
    x: Tensor,
    weight: Tensor,
    pack: Callable[[Tensor, int], Tensor],
    multiply: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """The convolution of x (B, C, H, W), surrounded by zeros, with weight (K, C, 3, 3): (B, K, H, W), channels last.

    Args:
        x, weight: float32, on the CPU, not empty.
        pack: makes of a matrix (K, C) and the number of rows of its products what `multiply` takes.
        multiply: (T, C) and such a matrix -> (T, K), contiguous.
    """
    batch, _, height, width = x.shape
    cells, bounds = channels_last(x), block_bounds(height, width)
    out, room = x.new_empty(batch, height, width, len(weight)), room_for_tiles(cells[0], bounds)
    weights = [pack(w, len(room[0])) for w in split_weight(weight)]
    for image, to in zip(cells, out, strict=True):
        for first, end in pairwise(bounds):
            tiles = split_tiles(image, first, end - first, room)
            products = [multiply(tile, w) for tile, w in zip(tiles, weights, strict=True)]
            join_tiles(products, to, first, end - first)
    return out.permute(0, 3, 1, 2)


def gradient_of_weight(x: Tensor, grad: Tensor) -> Tensor:
    """The gradient (K, C, 3, 3) of the convolution's weight.

    Args:
        x: (B, C, H, W). grad: of the result, (B, K, H, W). float32, on the CPU, not empty.
    """
    channels, bounds = x.shape[1], block_bounds(*x.shape[2:])
    cells, grads = channels_last(x), channels_last(grad)
    room, grad_room = room_for_tiles(cells[0], bounds), room_for_tiles(grads[0], bounds)
    sums = x.new_zeros(PRODUCTS, grad.shape[1], channels)
    for image, grad_image in zip(cells, grads, strict=True):
        for first, end in pairwise(bounds):
            tiles = split_tiles(image, first, end - first, room)
            grad_tiles = split_gradient(grad_image, first, end - first, grad_room)
            for total, tile, grad_tile in zip(sums, tiles, grad_tiles, strict=True):
                total.addmm_(grad_tile.t(), tile)
    return (sums.flatten(1).t() @ _weight_transform(sums)).view(*sums.shape[1:], 3, 3)


def channels_last(maps: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H, W, C), contiguous."""
    return maps.permute(0, 2, 3, 1).contiguous()


def block_bounds(height: int, width: int) -> list[int]:
    """The first row of tiles of each block of a map, and the end; even blocks, because a small one would be slow."""
    rows = columns(height)
    blocks = -(-rows * columns(width) // _BLOCK_TILES)
    return [rows * i // blocks for i in range(blocks + 1)]


def columns(length: int) -> int:
    """Tiles along an edge."""
    return -(-length // TILE)


def split_weight(weight: Tensor) -> Tensor:
    """G w G^T: (K, C, 3, 3) -> (36, K, C)."""
    return (_weight_transform(weight) @ weight.reshape(-1, 9).t()).view(PRODUCTS, *weight.shape[:2])


def _weight_transform(like: Tensor) -> Tensor:
    """G x G: (36, 9)."""
    g = torch.tensor(_G, dtype=like.dtype)
    return torch.einsum("ai,bj->abij", g, g).reshape(PRODUCTS, 9)


def room_for_tiles(image: Tensor, bounds: list[int]) -> list[Tensor]:
    """Where the tiles of an image (H, W, C) are written: 36 of (T, C), T those of the largest block. They do not lie
    at multiples of a page from each other, which would put them all into the same places of the cache."""
    rows = max(end - first for first, end in pairwise(bounds))
    tiles, channels = rows * columns(image.shape[1]), image.shape[2]
    room = image.new_empty(PRODUCTS, tiles * channels + _APART)
    return [row[: tiles * channels].view(tiles, channels) for row in room]


def split_tiles(image: Tensor, first: int, rows: int, room: list[Tensor]) -> list[Tensor]:
    """B^T x B of some rows of tiles of an image: 36 of (T, C).

    Args:
        image: (H, W, C) float32, contiguous, on the CPU; it is taken as surrounded by zeros.
        first: number of the first row of tiles, four rows of the image high each. rows: how many.
        room: from `room_for_tiles` for at least as many rows; the result lies in it.
    """
    return _split(WINOGRAD.library().m2f_winograd_split, image, first, rows, room)


def split_gradient(image: Tensor, first: int, rows: int, room: list[Tensor]) -> list[Tensor]:
    """A y A^T of some rows of tiles of the output's gradient (H, W, K): 36 of (T, K); see `split_tiles`."""
    return _split(WINOGRAD.library().m2f_winograd_split_gradient, image, first, rows, room)


def _split(kernel: Callable, image: Tensor, first: int, rows: int, room: list[Tensor]) -> list[Tensor]:
    tiles = rows * columns(image.shape[1])
    sizes = integers(*image.shape, first, rows)
    kernel(_pointer(image), _pointers(room), sizes, *threads(PRODUCTS * tiles * image.shape[2]))
    return [tile[:tiles] for tile in room]


def join_tiles(products: list[Tensor], image: Tensor, first: int, rows: int):
    """A^T m A of some rows of tiles, written into an image.

    Args:
        products: 36 of (T, K) float32, contiguous.
        image: (H, W, K) float32, contiguous. first, rows: as for `split_tiles`.
    """
    sizes = integers(*image.shape, first, rows)
    work = PRODUCTS * products[0].numel()
    WINOGRAD.library().m2f_winograd_join(_pointers(products), _pointer(image), sizes, *threads(work))


def _pointer(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def _pointers(tensors) -> ctypes.Array:
    return (ctypes.c_void_p * PRODUCTS)(*(tensor.data_ptr() for tensor in tensors))
