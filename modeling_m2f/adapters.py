"""LoRA adapters in a backbone, by PEFT: low-rank matrices beside its linear layers, which alone are trained.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022. PEFT is an extra of the package (`peft`),
imported by what uses it. The adapters are layers in the model's own backbone, without a wrapper around it, so that all
that saves, loads, averages and shards a model does so with them.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn
from transformers import initialization as init

from m2f.modeling_m2f.swin import use_lean_layers

_KINDS = (nn.Linear, nn.Conv2d)
_NAMES_SHOWN = 6


def require_peft() -> Any:
    """The module `peft`.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import peft
    except ImportError as error:
        raise ValueError(
            f'LoRA adapters need PEFT ({error}): pip install "m2f[peft]"; or have them merged where it is installed, '
            "with `m2f merge`"
        ) from error
    return peft


def attention_projections(backbone: nn.Module) -> list[str]:
    """Ends of the names of the linear layers that belong to an attention: "attention.q_proj" and the like."""
    found = set()
    for name, module in backbone.named_modules():
        if "Attention" in type(module).__name__:
            own = name.rpartition(".")[2]
            children = (child for child, layer in module.named_children() if isinstance(layer, nn.Linear))
            found |= {f"{own}.{child}" for child in children}
    return sorted(found)


def target_layers(backbone: nn.Module, targets: Sequence[str]) -> list[str]:
    """Names of the linear layers and convolutions that a target is the end of.

    Raises:
        ValueError: a target matches none; some of the names that there are are given.
    """
    layers = [name for name, module in backbone.named_modules() if isinstance(module, _KINDS)]
    found = {target: [name for name in layers if f".{name}".endswith(f".{target}")] for target in targets}
    wrong = [target for target, names in found.items() if not names]
    if wrong or not targets:
        kind = type(backbone).__name__
        ends = list(dict.fromkeys(".".join(name.split(".")[-2:]) for name in reversed(layers)))
        what = (
            f"the target {wrong[0]!r} matches no layer of this {kind}"
            if wrong
            else f"this {kind} has no projections of attention"
        )
        raise ValueError(
            f"{what}; --lora-targets takes ends of the names of its linear layers and convolutions, such as "
            f"{', '.join(ends[:_NAMES_SHOWN])}"
        )
    return [name for name in layers if any(name in names for names in found.values())]


def add_adapters(backbone: nn.Module, rank: int, targets: Sequence[str]):
    """Puts an adapter beside each layer that a target matches, which changes no output before it is trained, and
    freezes all but the adapters. Their scale is 1, as where LoRA's alpha is the rank.

    Raises:
        ValueError: PEFT is not installed, or a target matches nothing.
    """
    peft = require_peft()
    peft.inject_adapter_in_model(peft_config(rank, target_layers(backbone, targets)), backbone)
    use_lean_layers(backbone)


def train_adapters_alone(backbone: nn.Module):
    """All else in the backbone gets no gradient."""
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(".lora_" in name)


def merge_adapters(backbone: nn.Module):
    """Adds each adapter's product to the layer beside it, which takes its place again."""
    for name, layer in list(_adapted(backbone)):
        layer.merge()
        parent, _, own = name.rpartition(".")
        setattr(backbone.get_submodule(parent), own, layer.get_base_layer())


def reset_adapters(backbone: nn.Module):
    """Zeros in the second matrices, by transformers' initialisation, which leaves loaded weights alone."""
    for _, layer in _adapted(backbone):
        for second in layer.lora_B.values():
            init.zeros_(second.weight)


def peft_config(rank: int, layers: Sequence[str]) -> Any:
    """PEFT's configuration of such adapters beside layers of these names."""
    return require_peft().LoraConfig(r=rank, lora_alpha=rank, target_modules=list(layers))


def _adapted(backbone: nn.Module) -> Iterator[tuple[str, Any]]:
    return ((name, module) for name, module in backbone.named_modules() if hasattr(module, "lora_B"))
