"""BatchNorm that neither learns nor counts, as the original's ResNets have it (detectron2's FrozenBatchNorm2d)."""

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm
from transformers import initialization as init


class FrozenBatchNorm2d(nn.Module):
    """y = (x - running_mean) / sqrt(running_var + eps) * weight + bias, all four of them constants.

    They are buffers under `nn.BatchNorm2d`'s names, so that checkpoints fit both.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5):
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.empty(num_features))
        # Read by nothing; nn.BatchNorm2d's checkpoints have it.
        self.register_buffer("num_batches_tracked", torch.tensor(0, dtype=torch.long))
        self.init_original_weights()

    def init_original_weights(self):
        init.ones_(self.weight)
        init.zeros_(self.bias)
        init.zeros_(self.running_mean)
        init.ones_(self.running_var)
        init.zeros_(self.num_batches_tracked)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, h, w) -> the same shape."""
        return batch_norm(features, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}"


def freeze_batch_norm(module: nn.Module):
    """Replace every `nn.BatchNorm2d` below `module` in place, keeping its values."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            frozen = FrozenBatchNorm2d(child.num_features, child.eps)
            frozen.to(device=child.weight.device, dtype=child.weight.dtype)
            frozen.load_state_dict(child.state_dict())
            setattr(module, name, frozen)
        else:
            freeze_batch_norm(child)
