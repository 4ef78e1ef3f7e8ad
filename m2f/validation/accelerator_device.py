"""An Accelerator on a device that the user names."""

from contextlib import nullcontext
from typing import Any

from accelerate import Accelerator
from accelerate.utils import patch_environment


def accelerator_on(device: str | None, **settings: Any) -> Accelerator:
    """On the device of a name such as "cpu" or "cuda:1", one that is there; without a name, or for "cuda", on what
    Accelerate finds: a GPU for each process, or the CPU if there is none.

    Args:
        settings: of `Accelerator`.
    """
    is_cpu = device == "cpu"
    # Accelerate takes the index of a device from the environment alone.
    named = nullcontext() if is_cpu or device in (None, "cuda") else patch_environment(accelerate_torch_device=device)
    with named:
        return Accelerator(cpu=is_cpu, **settings)
