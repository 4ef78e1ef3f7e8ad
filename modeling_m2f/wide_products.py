"""Products of 16-bit numbers on a CPU that has no instructions for them: in float32, rounded once.

Whatever module asks for them, the backbones of transformers and adapters around a layer too, because PyTorch's own
functions are intercepted. Numbers are stored as before. Rounded as with instructions for the type, which sum in
float32 as well.
"""

import contextlib
import threading
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from m2f.modeling_m2f.kernels.kernel_policy import kernels_choice
from m2f.modeling_m2f.linear import is_fast, linear
from m2f.modeling_m2f.native_types import product_dtype

_PRODUCTS = {
    F.linear,
    *(getattr(F, f"conv{suffix}") for suffix in ("1d", "2d", "3d", "_transpose1d", "_transpose2d", "_transpose3d")),
    *(getattr(torch, f"conv{suffix}") for suffix in ("1d", "2d", "3d", "_transpose1d", "_transpose2d")),
    *(getattr(torch, name) for name in ("matmul", "mm", "bmm", "addmm", "baddbmm", "einsum")),
    *(getattr(Tensor, name) for name in ("matmul", "mm", "bmm", "addmm", "baddbmm", "__matmul__", "__rmatmul__")),
}
_active = threading.local()


class WideProducts(TorchFunctionMode):
    """Inside, matrix products and convolutions of 16-bit CPU tensors are made in float32; with autocast to such a type
    those of float32 tensors are rounded to it first, as autocast does."""

    def __enter__(self):
        _active.depth = getattr(_active, "depth", 0) + 1
        return super().__enter__()

    def __exit__(self, *error):
        _active.depth -= 1
        return super().__exit__(*error)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        dtype = _rounded_dtype(args) if func in _PRODUCTS else None
        return func(*args, **kwargs) if dtype is None else _multiply(func, dtype, args, kwargs)


def wide_products(pixel_values: Tensor, dtype: torch.dtype) -> contextlib.AbstractContextManager:
    """A context for a model with weights of `dtype`: `WideProducts` where its products have a type that the processor
    has no instructions for, else nothing.

    Nothing either where M2F_KERNELS is "reference", and in graphs that are kept for other machines.
    """
    types = {dtype, pixel_values.dtype, _autocast_dtype() or dtype}
    is_needed = (
        pixel_values.device.type == "cpu"
        and any(product_dtype(kind) != kind for kind in types)
        and not (torch.jit.is_tracing() or torch.compiler.is_exporting())
        and kernels_choice() != "reference"
    )
    return WideProducts() if is_needed else contextlib.nullcontext()


def with_same_products(function: Callable) -> Callable:
    """`function`, for a call that comes later, as when a checkpoint computes again: its products are then made as they
    would be now."""
    if not getattr(_active, "depth", 0):
        return function

    def call(*args, **kwargs):
        with WideProducts():
            return function(*args, **kwargs)

    return call


def _autocast_dtype() -> torch.dtype | None:
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None


def _rounded_dtype(args: tuple) -> torch.dtype | None:
    """The type of the operands and of the result, if it has to be widened."""
    operands = [x for x in _flat(args) if isinstance(x, Tensor) and x.is_floating_point()]
    dtype = _autocast_dtype() or next((x.dtype for x in operands), None)
    if dtype is None or product_dtype(dtype) == dtype or any(x.device.type != "cpu" for x in operands):
        return None
    # Mixed types are an error of PyTorch's, and float64 is left alone by autocast.
    kinds = {x.dtype for x in operands}
    allowed = {dtype} if _autocast_dtype() is None else {torch.float32, torch.bfloat16, torch.float16}
    return dtype if kinds <= allowed else None


def _flat(args: tuple) -> list:
    return [y for x in args for y in (x if isinstance(x, list | tuple) else (x,))]


def _multiply(func: Callable, dtype: torch.dtype, args: tuple, kwargs: dict) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        args, kwargs = _converted(args, dtype), _converted(kwargs, dtype)
        if func is F.linear and not kwargs and len(args) == 3 and is_fast(args[0], args[1]):
            return linear(*args)  # it widens by itself, and keeps 16 bits for the backward pass
        return func(*_converted(args, torch.float32), **_converted(kwargs, torch.float32)).to(dtype)


def _converted(values, dtype: torch.dtype):
    if isinstance(values, Tensor):
        return values.to(dtype) if values.is_floating_point() else values
    if isinstance(values, dict):
        return {name: _converted(value, dtype) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return type(values)(_converted(value, dtype) for value in values)
    return values
