"""Computations on numbers alone amid a transformation of torch.func: targets, matching and random points."""

from contextlib import contextmanager

import torch
from torch import Tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.autograd import forward_ad
from torch.utils._pytree import tree_map

from m2f.modeling_m2f.kernels.readable_memory import is_transformed


@contextmanager
def untransformed():
    """What is made inside is not part of the transformation: constants to it, and plain tensors to kernels."""
    if not is_transformed():
        yield
        return
    with torch.no_grad(), forward_ad._set_fwd_grad_enabled(False), temporarily_clear_interpreter_stack():
        yield


def values_of(tensors):
    """The tensors in nested lists, tuples and dictionaries with nothing but their numbers, for use in `untransformed`.

    Raises:
        RuntimeError: one stands for many in `torch.vmap`, so that it has no numbers of its own.
    """
    return tree_map(_value_of, tensors) if is_transformed() else tensors


def _value_of(x):
    if not isinstance(x, Tensor):
        return x
    while torch._C._functorch.is_gradtrackingtensor(x):
        x = torch._C._functorch.get_unwrapped(x)
    if torch._C._functorch.is_functorch_wrapped_tensor(x):
        raise RuntimeError(
            "The loss cannot be computed inside torch.vmap: matching predictions with targets needs their numbers. "
            "Loop over batches or models instead; without labels the model can be mapped."
        )
    return x
