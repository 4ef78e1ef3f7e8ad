"""The original's initialisations.

All go through `transformers.initialization`, which leaves tensors that were read from a checkpoint alone; the network
is built on the meta device when a checkpoint is loaded, so nothing may rely on what a constructor filled in.
"""

import math

from torch import nn
from transformers import initialization as init


def torch_default_(layer: nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
    """PyTorch's own initialisation of a linear or convolution layer: uniform within 1 / sqrt(fan_in), where the fan_in
    of a transposed convolution is counted from its outputs."""
    init.kaiming_uniform_(layer.weight, a=math.sqrt(5))
    torch_default_bias_(layer)


def torch_default_bias_(layer: nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
    if layer.bias is not None:
        bound = 1 / math.sqrt(layer.weight[0].numel())
        init.uniform_(layer.bias, -bound, bound)


def xavier_(layer: nn.Linear | nn.Conv2d, gain: float = 1.0):
    """Xavier uniform weights, zero bias."""
    init.xavier_uniform_(layer.weight, gain=gain)
    if layer.bias is not None:
        init.zeros_(layer.bias)


def c2_xavier_(layer: nn.Conv2d):
    """Caffe2's "XavierFill": uniform with standard deviation 1 / sqrt(fan_in), zero bias."""
    init.kaiming_uniform_(layer.weight, a=1)
    if layer.bias is not None:
        init.zeros_(layer.bias)
