"""Whether a tensor is what a kernel takes it for: numbers in the memory of this process."""

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter


def is_transformed() -> bool:
    """Whether torch.func, forward-mode differentiation or `torch.jit.trace` are at work: to them a tensor is more than
    its numbers, which are all that a kernel sees."""
    return torch._C._are_functorch_transforms_active() or is_forward_mode() or torch.jit.is_tracing()


def is_forward_mode() -> bool:
    """Whether tensors may carry tangents: within `torch.func.jvp` and `torch.autograd.forward_ad.dual_level`."""
    return forward_ad._current_level >= 0 and torch._C._is_fwd_grad_enabled()


def is_readable(*tensors: Tensor | None) -> bool:
    """Whether a CPU kernel may take the tensors' addresses: their numbers lie there, and are all that they are. Not so
    for fake tensors, subclasses that stand for something else, and whatever a transformation or a tracer follows.
    None is readable."""
    return not is_transformed() and not _is_traced() and all(x is None or is_dense(x) for x in tensors)


def is_dense(tensor: Tensor) -> bool:
    """The part of `is_readable` that the tensor alone decides."""
    return (
        type(tensor) in (Tensor, Parameter)
        and tensor.device.type == "cpu"
        and tensor.layout == torch.strided
        and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)
        and not torch._is_functional_tensor(tensor)
        # The numbers are then others than those in memory, or not there at all.
        and not (tensor.is_neg() or tensor.is_conj() or tensor._is_zerotensor())
    )


def _is_traced() -> bool:
    keys = torch._C._TorchDispatchModeKey
    return any(torch._C._get_dispatch_mode(key) is not None for key in (keys.FAKE, keys.PROXY, keys.FUNCTIONAL))
