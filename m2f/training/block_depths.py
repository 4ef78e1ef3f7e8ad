"""How deep in a backbone a parameter lies, for learning rates that fall from block to block towards the pixels.

The rule is BEiT's (Bao et al. 2022; `get_num_layer_for_vit` and `LayerDecayValueAssigner` of its code): of N blocks
the embeddings have depth 0, block i has i, from 1 on, and what follows the last block N + 1; a rate is multiplied by
decay^(N + 1 - depth). EoMT's has the whole rate in its last block, and in the norm behind it. Hierarchical backbones
count their blocks through all stages; what stands between two, such as a downsampling, has the depth of the block
before.
"""

from collections.abc import Iterator
from typing import Any

from torch import nn


def block_depths(backbone: Any) -> tuple[dict[str, int], int]:
    """Depth of each parameter by its name, and N, the number of blocks.

    Raises:
        ValueError: the backbone does not say how many blocks it has, or has no such list of them.
    """
    depth_of_block = {name: depth for depth, name in enumerate(_blocks(backbone), 1)}
    depths, current, inside = {}, 0, ""
    for module_name, module in backbone.named_modules():
        if module_name in depth_of_block:
            current, inside = depth_of_block[module_name], module_name
        is_after = current == len(depth_of_block) and not f"{module_name}.".startswith(f"{inside}.")
        for name, _ in module.named_parameters(recurse=False):
            depths[f"{module_name}.{name}".lstrip(".")] = current + is_after
    return depths, len(depth_of_block)


def _blocks(backbone: Any) -> list[str]:
    """Their names in order: lists of modules of one class whose lengths are those that the configuration says."""
    config = backbone.config
    lengths = getattr(config, "depths", None) or [getattr(config, "num_hidden_layers", None)]
    lists: dict[type, list[list[str]]] = {}
    for kind, names in _lists_of_modules(backbone):
        lists.setdefault(kind, []).append(names)
    for found in lists.values():
        if [len(names) for names in found] == list(lengths):
            return [name for names in found for name in names]
    raise ValueError(
        f"layer_decay (--layer-decay) needs to know how deep a layer lies, and a {config.model_type} does not tell "
        f"(no list of {' + '.join(map(str, lengths))} blocks of one kind); leave it out, or use "
        "backbone_lr_multiplier (--backbone-lr-multiplier)"
    )


def _lists_of_modules(backbone: nn.Module) -> Iterator[tuple[type, list[str]]]:
    for name, module in backbone.named_modules():
        kinds = {type(child) for child in module.children()}
        if isinstance(module, nn.ModuleList | nn.Sequential) and len(kinds) == 1:
            yield kinds.pop(), [f"{name}.{i}" for i, _ in module.named_children()]
