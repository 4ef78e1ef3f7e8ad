"""An exponential moving average of the weights, which often evaluates better than the weights themselves."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """A float32 average of all floating parameters and buffers of a model.

    Args:
        model: without wrappers of distributed training; sharded parameters (FSDP2) stay sharded.
        decay: share in [0, 1) of the average that each update keeps. The first updates keep less, (1 + n) / (10 + n)
            after n others, so that the random start is soon forgotten (as in TensorFlow's ExponentialMovingAverage).
    """

    def __init__(self, model: nn.Module, decay: float):
        self.model = model
        self.decay = decay
        self.updates = 0
        self.averages = {name: tensor.detach().float().clone() for name, tensor in self._tensors()}

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Those that are averaged; counters, such as BatchNorm's, stay the model's own."""
        tensors = [*self.model.named_parameters(), *self.model.named_buffers()]
        return ((name, tensor) for name, tensor in tensors if tensor.is_floating_point())

    @torch.no_grad()
    def update(self):
        """Moves the average towards the model's weights, once a step."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, tensor in self._tensors():
            self.averages[name].lerp_(tensor.detach().float(), 1 - decay)
        self.updates += 1

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Inside, the model has the average in place of its weights; afterwards its own again, to the last bit."""
        own = {name: tensor.detach().clone() for name, tensor in self._tensors()}
        self._assign(self.averages)
        try:
            yield
        finally:
            self._assign(own)

    @torch.no_grad()
    def _assign(self, values: Mapping[str, Tensor]):
        for name, tensor in self._tensors():
            tensor.copy_(values[name])

    def state_dict(self) -> dict[str, Tensor]:
        """Whole tensors on the CPU; under FSDP2 every process has to call it."""
        return {name: _whole(tensor).cpu() for name, tensor in self.averages.items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor], updates: int):
        """Continues from what `state_dict` gave.

        Raises:
            ValueError: the names are not those of the model.
        """
        if set(state) != set(self.averages):
            different = sorted(set(state) ^ set(self.averages))
            raise ValueError(f"the saved average belongs to another model; names that only one has: {different[:10]}")
        for name, average in self.averages.items():
            average.copy_(_like(state[name], average))
        self.updates = updates


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def _like(whole: Tensor, tensor: Tensor) -> Tensor:
    """A whole tensor, sharded as another one is."""
    if not hasattr(tensor, "full_tensor"):
        return whole
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(tensor, DTensor)
    return distribute_tensor(whole.to(tensor.device), tensor.device_mesh, tensor.placements)
