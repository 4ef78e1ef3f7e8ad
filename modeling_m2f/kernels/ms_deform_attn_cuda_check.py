"""The CUDA kernels' first run on a device: a small case, compared with plain PyTorch before their results are used.

A GPU, a driver or an NVRTC that nobody has tried must not give wrong numbers in silence. The case has the sizes of
Mask2Former's own attention, so that what it compiles is what a model needs next.
"""

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from m2f.modeling_m2f.kernels.cuda_driver import unavailable_reason
from m2f.modeling_m2f.kernels.ms_deform_attn_cuda import DTYPES, backward, compile_kernels, forward
from m2f.modeling_m2f.kernels.ms_deform_attn_reference import ms_deform_attn_reference

SHAPES = [(3, 2), (5, 7), (8, 6)]
BATCH, QUERIES, HEADS, HEAD_DIM, POINTS = 2, 9, 2, 32, 4
# Of the largest number of a result: some five times the rounding of inputs near it, far below any wrong index.
TOLERANCES = {torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 3e-2}
RESULTS = ("output", "gradient of value", "of reference points", "of offsets", "of logits")

_failures: dict[tuple[torch.device, torch.dtype], str | None] = {}


def cuda_unavailable_reason(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why the kernels are not used for `dtype` on `device`, or None where they are.

    The first call for each runs them and waits for the device; the answer is kept. While a CUDA graph is captured
    nothing may wait, so that a first call there gives a reason, which is not kept.
    """
    if dtype not in DTYPES:
        return f"the CUDA kernel has no {dtype}"
    key = (device, dtype)
    if key not in _failures:
        reason = unavailable_reason(device)
        if reason is None and _is_capturing(device):
            return (
                f"a CUDA graph is being captured and the kernel has not been checked on {device} with {dtype} yet; "
                "call it once before capturing"
            )
        _failures[key] = reason or _in_new_thread(device, dtype)
    return _failures[key]


def _is_capturing(device: torch.device) -> bool:
    with torch.cuda.device(device):
        return torch.cuda.is_current_stream_capturing()


def _in_new_thread(device: torch.device, dtype: torch.dtype) -> str | None:
    # The caller's thread may be in inference mode, autocast, a tracer's modes or a checkpoint that counts the tensors
    # saved for backward. All of these belong to a thread, and a new one has none.
    stream = torch.cuda.current_stream(device)

    def run() -> str | None:
        with torch.cuda.stream(stream):
            return first_run_failure(device, dtype)

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(run).result()


def first_run_failure(device: torch.device, dtype: torch.dtype) -> str | None:
    """What is wrong with the kernels' results for a fixed case on `device`, or None."""
    arguments, grad_out = _case(dtype)
    expected = _expected(arguments, grad_out)
    try:
        for deterministic, actual in _actual(arguments, grad_out, device):
            for name, one, other in zip(RESULTS, actual, expected, strict=True):
                error = (one.cpu().double() - other).abs().max() / other.abs().max()
                if not error <= TOLERANCES[dtype]:  # NaN too
                    return (
                        f"the CUDA kernel's first run on {device} with {dtype} gave wrong numbers: {name}"
                        f"{' (deterministic)' if deterministic else ''} is off by {error:.1e} of its largest number, "
                        f"{TOLERANCES[dtype]:.0e} is allowed. Please report it with the GPU's name and the versions "
                        "of driver and PyTorch"
                    )
    except torch.OutOfMemoryError:
        raise  # says nothing about the kernel, and nothing else would fit either
    except RuntimeError as error:  # NvrtcError; and PyTorch's words for a fault on the device, known when it is read
        return f"the CUDA kernel's first run on {device} with {dtype} failed: {error}"
    return None


def _case(dtype: torch.dtype) -> tuple[tuple, Tensor]:
    """Inputs on the CPU and a gradient of the output. Some locations lie outside the map, and none within a tenth of a
    cell of a knot, where the derivative jumps."""
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator).to(dtype)

    levels = len(SHAPES)
    size = torch.tensor([[width, height] for height, width in SHAPES])
    places = torch.rand(2, BATCH, QUERIES, levels, 2, generator=generator)
    cells = (places[0] * size).floor() + 0.6 + 0.8 * places[1]  # a cell's centre, where a knot is, is at 0.5
    offsets = (1.5 * torch.randn(BATCH, QUERIES, HEADS, levels, POINTS, 2, generator=generator)).round()
    arguments = (
        normal(BATCH, sum(height * width for height, width in SHAPES), HEADS, HEAD_DIM),
        SHAPES,
        cells / size,
        offsets.to(dtype),
        normal(BATCH, QUERIES, HEADS, levels * POINTS),
    )
    return arguments, normal(BATCH, QUERIES, HEADS * HEAD_DIM)


def _expected(arguments: tuple, grad_out: Tensor) -> list[Tensor]:
    """Results in float64 on the CPU: exact, and under `torch.use_deterministic_algorithms` a GPU's grid_sample has no
    backward."""
    value, shapes, *others = arguments
    leaves = [x.double().requires_grad_() for x in (value, *others)]
    out = ms_deform_attn_reference(leaves[0], shapes, *leaves[1:])
    return [out.detach(), *torch.autograd.grad(out, leaves, grad_out.double())]


def _actual(arguments: tuple, grad_out: Tensor, device: torch.device):
    """Results of the kernels with either way of summing, each with its `deterministic`."""
    compile_kernels(grad_out.dtype, HEAD_DIM, len(SHAPES), POINTS, device)
    value, _, points, offsets, logits = (x.to(device) if isinstance(x, Tensor) else x for x in arguments)
    grad_out = grad_out.to(device)
    for deterministic in (False, True):
        every = (True, True, True, True)
        gradients = backward(grad_out, value, SHAPES, points, offsets, logits, every, deterministic)
        yield deterministic, (forward(value, SHAPES, points, offsets, logits), *gradients)
