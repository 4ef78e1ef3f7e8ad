"""The state of every random generator of a process, as json takes it, so that nothing pickled is ever loaded."""

import random
from typing import Any

import numpy as np
import torch


def random_state(device: torch.device) -> dict[str, Any]:
    """Of Python, numpy (the global one), torch on the CPU and, if it is another, on `device`."""
    version, numbers, gauss = random.getstate()
    generator = np.random.get_state(legacy=False)
    inner = generator["state"]
    state = {
        "python": [version, list(numbers), gauss],
        "numpy": {
            "bit_generator": generator["bit_generator"],
            "key": inner["key"].tolist(),
            "pos": int(inner["pos"]),
            "has_gauss": int(generator["has_gauss"]),
            "gauss": float(generator["gauss"]),
        },
        "torch": _to_hex(torch.get_rng_state()),
    }
    if device.type != "cpu":
        state[device.type] = _to_hex(torch.get_device_module(device).get_rng_state())
    return state


def set_random_state(state: dict[str, Any], device: torch.device):
    """Goes on from what `random_state` gave. A device of another type keeps the state that it has."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    generator = state["numpy"]
    np.random.set_state(
        {
            "bit_generator": generator["bit_generator"],
            "state": {"key": np.array(generator["key"], np.uint32), "pos": generator["pos"]},
            "has_gauss": generator["has_gauss"],
            "gauss": generator["gauss"],
        }
    )
    torch.set_rng_state(_from_hex(state["torch"]))
    if device.type in state:
        torch.get_device_module(device).set_rng_state(_from_hex(state[device.type]))


def _to_hex(state: torch.Tensor) -> str:
    return state.cpu().numpy().tobytes().hex()


def _from_hex(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)
