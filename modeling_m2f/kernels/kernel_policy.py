"""Whether kernels are wanted at all, and what is said where one is missing.

The environment variable M2F_KERNELS decides: `auto` (default) takes a kernel where there is one, and otherwise plain
PyTorch with one warning that says why; `reference` never uses a kernel, `compiled` raises where there is none, and so
does `native`, which compiles each for this very processor and passes over those that a wheel brings.

Inside the transformations of torch.func (grad, vmap, jvp and what is made of them), in forward-mode differentiation
and under `torch.jit.trace` plain PyTorch runs, whatever the variable says: they see through nothing else.
"""

import os
import warnings

import torch

from m2f.modeling_m2f.kernels.portable_graph import is_portable
from m2f.modeling_m2f.kernels.readable_memory import is_transformed

CHOICES = ("auto", "reference", "compiled", "native")


class KernelUnavailableError(RuntimeError):
    """A compiled kernel cannot be had on this machine; the message says why."""


def kernels_choice() -> str:
    """The value of M2F_KERNELS; "reference" where a transformation sees through plain PyTorch alone, and in a graph
    for other libraries.

    Raises:
        ValueError: it is none of `CHOICES`.
    """
    choice = os.environ.get("M2F_KERNELS", "auto")
    if choice not in CHOICES:
        raise ValueError(f"M2F_KERNELS={choice!r} is unknown; use one of {', '.join(CHOICES)}.")
    return "reference" if is_transformed() or is_portable() else choice


def wants_native() -> bool:
    """Whether M2F_KERNELS passes over what was built ahead."""
    return os.environ.get("M2F_KERNELS") == "native"


@torch.compiler.assume_constant_result
def explain_reference(device: torch.device, reason: str, what: str) -> bool:
    """False, after a warning that `what` runs in plain PyTorch on `device`; a reason is given once, for the first that
    meets it.

    Raises:
        KernelUnavailableError: M2F_KERNELS is compiled or native.
    """
    choice = kernels_choice()
    if choice in ("compiled", "native"):
        raise KernelUnavailableError(f"M2F_KERNELS={choice}, but there is no kernel on {device}: {reason}")
    # Processes that load data leave it to the main one.
    if (str(device), reason) not in warned and torch.utils.data.get_worker_info() is None:
        warned.add((str(device), reason))
        others = "as does all else that the same keeps from its kernel"
        warnings.warn(
            f"{what} runs in plain PyTorch on {device}, which is slower, {others}: {reason}",
            RuntimeWarning,
            stacklevel=2,
        )
    return False


warned: set[tuple[str, str]] = set()  # device and reason of each warning so far
