"""A model for images of another number of channels than it was made for."""

from typing import Any

import torch
from torch import Tensor

from m2f.modeling_m2f.pretrained_model import M2FPreTrainedModel, Model


def input_channels_of(model: M2FPreTrainedModel) -> int:
    """Channels of the images that a model takes."""
    return getattr(model.config.backbone_config, "num_channels", 3)


def with_input_channels(model: Model, num_channels: int) -> Model:
    """A model with the weights of another, but for the layer that reads the pixels: see `adapted_weight`. The same
    model if it takes such images already.

    That layer is what differs in two models whose configurations differ in `num_channels` alone: a convolution, of
    whatever backbone.

    Raises:
        ValueError: the backbone cannot be built for so many channels, or another number of tensors differs.
    """
    former = input_channels_of(model)
    if former == num_channels:
        return model
    config = type(model.config).from_dict(model.config.to_dict())
    backbone: Any = config.backbone_config
    kind, backbone.num_channels = backbone.model_type, num_channels
    try:
        new = type(model)(config)
    except ValueError as error:
        raise ValueError(
            f"the backbone {kind} cannot be made for images of {num_channels} channels: {error}"
        ) from error
    weights, shapes = model.state_dict(), {name: tensor.shape for name, tensor in new.state_dict().items()}
    names = [name for name, tensor in weights.items() if tensor.shape != shapes[name]]
    if len(names) != 1 or weights[names[0]].ndim != 4 or weights[names[0]].shape[1] != former:
        raise ValueError(
            f"the backbone {kind} has no single convolution that reads {former} channels ({len(names)} tensors depend "
            f"on them); it cannot be adapted to {num_channels}"
        )
    weights[names[0]] = adapted_weight(weights[names[0]], num_channels)
    new.load_state_dict(weights)
    return new


@torch.no_grad()
def adapted_weight(weight: Tensor, num_channels: int) -> Tensor:
    """(O, I, h, w) -> (O, num_channels, h, w), for images whose channels are alike.

    To one channel the kernels are added up: a grey image gives what it gave as RGB. To others they are repeated in
    their order and multiplied by I / num_channels, so that equal channels give what they gave wherever the number is a
    multiple of I. Source: timm's `adapt_input_conv` (timm/models/_manipulate.py), for I = 3.
    """
    former = weight.shape[1]
    if num_channels == 1:
        return weight.sum(1, keepdim=True)
    repeats = -(-num_channels // former)
    return weight.repeat(1, repeats, 1, 1)[:, :num_channels] * (former / num_channels)
