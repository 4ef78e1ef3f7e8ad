"""Multi-scale deformable attention on CUDA tensors: prepares the arguments of csrc/ms_deform_attn_cuda.cu."""

import ctypes
import functools
import math

import torch
from torch import Tensor

from m2f.modeling_m2f.kernels.cuda_driver import compile_ahead, launch
from m2f.modeling_m2f.kernels.kernel_sources import read_source

SOURCE = "ms_deform_attn_cuda.cu"
ENTRY = "m2f_ms_deform_attn"  # its kernel
# Name in the source, and channels that a lane loads at once in (forward, backward).
# Forward: 16 bytes. Backward: 4, so that the float32 sums of neighbouring lanes are neighbours in memory.
DTYPES = {torch.float32: ("float32", 4, 4), torch.float16: ("float16", 8, 4), torch.bfloat16: ("bfloat16", 8, 4)}
# M2F_KERNEL of the source.
FORWARD, BACKWARD, DETERMINISTIC, FINISH = "forward", "backward<FloatSum>", "backward<FixedSum>", "finish"
THREADS = 256  # of a block, as in the source
MAX_GRID_Y = 65535
FIXED_POINT_BITS = 61  # of a sum, below the sign and one bit to spare for rounding
# Cells of an image, and queries times heads: the source counts them in 32 bits, with room for corners outside the map.
MAX_CELLS, MAX_ROWS = 2**30, 2**31 - 1

Shapes = list[tuple[int, int]]


@functools.cache
def problem_type(levels: int) -> type[ctypes.Structure]:
    """`Problem` of the source for L = `levels`."""
    pointers = "value reference offsets logits out grad_out grad_value grad_offsets grad_logits grad_locations bound"
    numbers = "batch cells heads queries reference_batch fraction_bits"
    per_level = "height width first_cell"
    fields: list[tuple[str, type]] = [(name, ctypes.c_void_p) for name in [*pointers.split(), "not_finite"]]
    fields += [(name, ctypes.c_int) for name in numbers.split()]
    fields += [(name, ctypes.c_int * levels) for name in per_level.split()]
    return type("Problem", (ctypes.Structure,), {"_fields_": fields})


def limit_reason(cells: int, queries: int, heads: int, head_dim: int) -> str | None:
    """Why inputs of these sizes are too large for the kernel, or None."""
    rows, channels = queries * heads, heads * head_dim
    if cells <= MAX_CELLS and rows <= MAX_ROWS and channels <= MAX_ROWS:
        return None
    return (
        f"The CUDA kernel takes up to {MAX_CELLS} cells, {MAX_ROWS} queries times heads and as many channels; "
        f"got {cells}, {rows} and {channels}. Split the input."
    )


def _defines(kernel: str, dtype: torch.dtype, head_dim: int, levels: int, points: int, vector: int) -> tuple:
    return (
        ("M2F_KERNEL", kernel),
        ("M2F_T", DTYPES[dtype][0]),
        ("M2F_HEAD_DIM", str(head_dim)),
        ("M2F_LEVELS", str(levels)),
        ("M2F_POINTS", str(points)),
        ("M2F_VECTOR", str(vector)),
    )


def compile_kernels(dtype: torch.dtype, head_dim: int, levels: int, points: int, device: torch.device) -> None:
    """Compiles all kernels for aligned inputs of these sizes at once; otherwise each is at its first run.

    Raises:
        NvrtcError: one does not compile.
    """
    _, most_forward, most_backward = DTYPES[dtype]
    most = {FORWARD: most_forward, BACKWARD: most_backward, DETERMINISTIC: most_backward, FINISH: most_backward}
    variants = [
        _defines(kernel, dtype, head_dim, levels, points, math.gcd(limit, head_dim)) for kernel, limit in most.items()
    ]
    compile_ahead(read_source(SOURCE), variants, device)


def vector_size(limit: int, *tensors: Tensor) -> int:
    """Channels that one access may cover: the largest power of two up to `limit` that divides D and every address."""
    size = limit
    while any(t.shape[-1] % size or t.data_ptr() % (size * t.element_size()) for t in tensors):
        size //= 2
    return size


def _pairs(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Contiguous, in `dtype`, and aligned so that a pair (x, y) can be read at once."""
    tensor = tensor.to(dtype).contiguous()
    return tensor.clone() if tensor.data_ptr() % (2 * tensor.element_size()) else tensor


class Call:
    """One set of inputs, checked and made contiguous, from which kernels are launched.

    Raises:
        ValueError: dtype or sizes are beyond what the kernel covers.
    """

    def __init__(self, value: Tensor, shapes: Shapes, reference: Tensor, offsets: Tensor, logits: Tensor):
        if value.dtype not in DTYPES:
            raise ValueError(f"The CUDA kernel has no {value.dtype}; it has {', '.join(map(str, DTYPES))}.")
        self.value = value.contiguous()
        self.reference = _pairs(reference, torch.float32)
        self.offsets = _pairs(offsets, value.dtype)
        self.logits = logits.to(value.dtype).contiguous()
        self.shapes = shapes
        self.batch, self.cells, self.heads, self.head_dim = value.shape
        self.queries, self.levels, self.points = offsets.shape[1], offsets.shape[3], offsets.shape[4]
        if reason := limit_reason(self.cells, self.queries, self.heads, self.head_dim):
            raise ValueError(reason)

    def problem(self, **fields: Tensor | int | None) -> ctypes.Structure:
        """The kernel's argument; `fields` beside those of the inputs."""
        inputs = {"value": self.value, "reference": self.reference, "offsets": self.offsets, "logits": self.logits}
        pointers = {k: v.data_ptr() if isinstance(v, Tensor) else v for k, v in (inputs | fields).items()}
        sizes = {name: getattr(self, name) for name in ("batch", "cells", "heads", "queries")}
        problem = problem_type(self.levels)(**pointers, **sizes, reference_batch=self.reference.shape[0])
        cell = 0
        for level, (height, width) in enumerate(self.shapes):
            problem.height[level], problem.width[level], problem.first_cell[level] = height, width, cell
            cell += height * width
        return problem

    def run(self, kernel: str, vector: int, problem: ctypes.Structure, grid: tuple[int, int] | None = None) -> None:
        """Launches `kernel`, an expression of the source; by default with a group of lanes a query's head."""
        defines = _defines(kernel, self.value.dtype, self.head_dim, self.levels, self.points, vector)
        if grid is None:
            group = min(32, 1 << (self.head_dim // vector - 1).bit_length())
            grid = (-(-self.queries * self.heads * group // THREADS), min(self.batch, MAX_GRID_Y))
        launch(read_source(SOURCE), ENTRY, defines, grid, THREADS, [problem], self.value.device)


def forward(
    value: Tensor, spatial_shapes: Shapes, reference_points: Tensor, sampling_offsets: Tensor, attention_logits: Tensor
) -> Tensor:
    """Attended values (B, Q, M * D); formula and shapes in `ms_deform_attn_reference`.

    float32, float16 or bfloat16, with float32 locations, weights and sums. Reference points are read as float32,
    offsets and logits in the dtype of `value`. A sample at a NaN or infinite location contributes nothing.

    Raises:
        ValueError: the dtype or a size is beyond what the kernel covers.
        NvrtcError: the kernel does not compile or does not start.
    """
    call = Call(value, spatial_shapes, reference_points, sampling_offsets, attention_logits)
    out = value.new_empty(call.batch, call.queries, call.heads * call.head_dim)
    if not (out.numel() and value.numel() and attention_logits.numel()):
        return out.zero_()  # nothing to write, or sums of nothing
    vector = vector_size(DTYPES[value.dtype][1], call.value)
    call.run(FORWARD, vector, call.problem(out=out))
    return out


def backward(
    grad_out: Tensor,
    value: Tensor,
    spatial_shapes: Shapes,
    reference_points: Tensor,
    sampling_offsets: Tensor,
    attention_logits: Tensor,
    needs: tuple[bool, bool, bool, bool],
    deterministic: bool | None = None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of value, reference points, offsets and logits, in their inputs' dtypes; None where `needs` has False.

    The value's gradient is summed in float32 by atomic additions, whose order is not fixed: it differs between runs
    by float32 rounding. With `deterministic` (default: what `torch.use_deterministic_algorithms` was told) it is
    summed in fixed point, bit for bit the same in every run; that takes 8 instead of 4 bytes an element while it runs
    and more time, is off by at most 2^-46 of max |grad_out| a term at Q = 21504 (twice that for each doubling of Q),
    and is NaN as a whole where grad_out or a weight is not finite. All other gradients are deterministic in either
    case.

    Raises:
        ValueError, NvrtcError: as in `forward`.
    """
    call = Call(value, spatial_shapes, reference_points, sampling_offsets, attention_logits)
    grad_out = grad_out.to(value.dtype).contiguous()
    if not (grad_out.numel() and value.numel() and attention_logits.numel() and any(needs)):
        inputs = (value, reference_points, sampling_offsets, attention_logits)
        zeros = [t.new_zeros(t.shape) if need else None for t, need in zip(inputs, needs, strict=True)]
        return zeros[0], zeros[1], zeros[2], zeros[3]
    rows = grad_out.view(call.batch, call.queries, call.heads, call.head_dim)
    vector = vector_size(DTYPES[value.dtype][2], call.value, rows)
    grad_offsets = torch.empty_like(call.offsets) if needs[2] else None
    grad_logits = torch.empty_like(call.logits) if needs[3] else None
    # Per sample and in cells; the sum over heads and points is left to torch, whose order is fixed.
    grad_locations = torch.empty_like(call.offsets, dtype=torch.float32) if needs[1] else None
    outputs = {"grad_out": grad_out, "grad_offsets": grad_offsets, "grad_logits": grad_logits}
    outputs["grad_locations"] = grad_locations
    if deterministic is None:
        deterministic = torch.are_deterministic_algorithms_enabled()
    grad_value: Tensor | None
    if needs[0] and deterministic:
        grad_value = _backward_deterministic(call, vector, grad_out, outputs)
    else:
        grad_value = torch.zeros_like(call.value, dtype=torch.float32) if needs[0] else None
        call.run(BACKWARD, vector, call.problem(grad_value=grad_value, **outputs))
    return (
        None if grad_value is None else grad_value.to(value.dtype),
        None if grad_locations is None else _reference_grad(grad_locations, spatial_shapes, reference_points),
        None if grad_offsets is None else grad_offsets.to(sampling_offsets.dtype),
        None if grad_logits is None else grad_logits.to(attention_logits.dtype),
    )


def _backward_deterministic(call: Call, vector: int, grad_out: Tensor, outputs: dict[str, Tensor | None]) -> Tensor:
    total = torch.zeros_like(call.value, dtype=torch.int64)
    smallest, largest = torch.aminmax(grad_out)
    bound = torch.maximum(-smallest, largest).float()  # stays on the device: nothing waits for it
    not_finite = torch.zeros((), dtype=torch.int32, device=grad_out.device)
    # A cell gets at most max |grad_out| from each query.
    bits = FIXED_POINT_BITS - (call.queries - 1).bit_length()
    shared: dict[str, Tensor | int] = {
        "grad_value": total,
        "bound": bound,
        "not_finite": not_finite,
        "fraction_bits": bits,
    }
    call.run(DETERMINISTIC, vector, call.problem(**shared, **outputs))
    grad_value = torch.empty_like(call.value)
    blocks = min(-(-grad_value.numel() // THREADS), 2**16)
    call.run(FINISH, vector, call.problem(**shared, out=grad_value), grid=(blocks, 1))
    return grad_value


def _reference_grad(grad_locations: Tensor, spatial_shapes: Shapes, reference_points: Tensor) -> Tensor:
    """(1 or B, Q, L, 2) from gradients by location in cells (B, Q, M, L, P, 2)."""
    grad = grad_locations.sum((2, 4))
    for level, (height, width) in enumerate(spatial_shapes):
        grad[:, :, level, 0] *= width
        grad[:, :, level, 1] *= height
    return grad.sum_to_size(reference_points.shape).to(reference_points.dtype)
