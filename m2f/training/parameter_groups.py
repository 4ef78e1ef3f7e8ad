"""Which parameters of a model are trained how: learning rate and weight decay by the original's rules.

Source: train_net.py of the original (facebookresearch/Mask2Former); rates that fall with depth: `block_depths`.
"""

from torch import nn

from m2f.training.block_depths import block_depths

# Everything that transformers' backbones call a norm is a subclass of one of these, ConvNeXt's LayerNorm included.
NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.LocalResponseNorm, nn.RMSNorm)

# Parameters that are neither of a norm nor of an nn.Embedding and still do not decay: Swin's tables of relative
# position bias, and absolute position embeddings, by the original's name and by those of transformers' backbones.
NO_DECAY_NAMES = ("relative_position_bias_table", "absolute_pos_embed", "position_embeddings")

BACKBONE = "pixel_level_module.encoder."


def parameter_groups(
    model: nn.Module,
    lr: float,
    weight_decay: float,
    backbone_lr_multiplier: float = 0.1,
    layer_decay: float | None = None,
) -> list[dict]:
    """Groups for `torch.optim.AdamW`: (backbone or not) x (decayed or not), without those that are empty.

    Norms, embeddings, relative position bias tables and absolute position embeddings do not decay. All else does,
    biases of linear layers and convolutions and the pixel decoder's `level_embed` included.

    Args:
        model: a model of this package or transformers' Mask2Former. Frozen parameters are left out; a parameter that
            has two names counts once.
        lr: learning rate, of the backbone times `backbone_lr_multiplier`. 0.1 is the original's, for a pretrained
            backbone; 1 suits a backbone that starts from random weights.
        weight_decay: of the parameters that decay.
        layer_decay: factor in (0, 1] from each block of the backbone to the one before it, see `block_depths`.

    Returns:
        Dicts with "params", "lr", "weight_decay" and "name": "backbone", "backbone_no_decay", "head", "head_no_decay";
        with `layer_decay` a group for each depth d, "backbone_d" and "backbone_d_no_decay".

    Raises:
        ValueError: the depth of the backbone's layers cannot be told.
    """
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    factors = {"head": 1.0, "backbone": backbone_lr_multiplier}
    part_of = _parts_by_depth(model, backbone_lr_multiplier, layer_decay, factors) if layer_decay else {}
    seen = set()
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            full_name = f"{module_name}.{name}"
            part = part_of.get(full_name, "backbone" if BACKBONE in full_name else "head")
            groups.setdefault((part, _decays(module, full_name)), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": lr * factors[part],
            "weight_decay": weight_decay if decays else 0.0,
            "name": part if decays else f"{part}_no_decay",
        }
        for (part, decays), parameters in groups.items()
    ]


def _parts_by_depth(model: nn.Module, multiplier: float, layer_decay: float, factors: dict[str, float]) -> dict:
    """Name of each parameter of the backbone -> name of its group; the groups' factors are added to `factors`."""
    name, backbone = next((name, module) for name, module in model.named_modules() if f"{name}.".endswith(BACKBONE))
    depths, blocks = block_depths(backbone)
    for depth in set(depths.values()):
        factors[f"backbone_{depth}"] = multiplier * layer_decay ** (blocks + 1 - depth)
    return {f"{name}.{own}": f"backbone_{depth}" for own, depth in depths.items()}


def _decays(module: nn.Module, full_name: str) -> bool:
    if isinstance(module, (*NORMS, nn.Embedding)):
        return False
    return not full_name.endswith(NO_DECAY_NAMES)
