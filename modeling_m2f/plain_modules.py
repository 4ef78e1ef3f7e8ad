"""Whether modules and weights are plain, so that whoever computes in their place knows when to call them instead.

A fast path that puts the work of several modules together calls none of them. Hooks on them (feature extraction,
Grad-CAM, summaries, pruning, old-style weight norm) and forwards put in the place of theirs (Accelerate's offloading,
which brings a module's weights for the time of its call alone) would get nothing.
"""

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    _global_backward_hooks,
    _global_backward_pre_hooks,
    _global_forward_hooks,
    _global_forward_pre_hooks,
)
from torch.utils._python_dispatch import is_traceable_wrapper_subclass


def has_hooks(module: nn.Module) -> bool:
    """Whether hooks run when the module is called: its own, or one on all modules (`register_module_forward_hook`)."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or _global_forward_hooks
        or _global_forward_pre_hooks
        or _global_backward_hooks
        or _global_backward_pre_hooks
    )


def is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether calling the module does nothing but what `kind` does: no subclass, no hook, no replaced forward."""
    return type(module) is kind and is_untouched(module)


def is_untouched(module: nn.Module) -> bool:
    """Whether calling the module does nothing but what its class says: no hook, and no `forward` put into it."""
    return not has_hooks(module) and "forward" not in module.__dict__


def is_untouched_inside(module: nn.Module) -> bool:
    """Whether `is_untouched` holds for the module and all below it."""
    return all(map(is_untouched, module.modules()))


def is_plain_tensor(tensor: Tensor) -> bool:
    """Whether the tensor is no subclass, which stands for something else: quantised weights, parts on other devices.
    A compiler's stand-ins are plain."""
    return type(tensor) in (Tensor, nn.Parameter) or (
        torch.compiler.is_compiling() and not is_traceable_wrapper_subclass(tensor)
    )
