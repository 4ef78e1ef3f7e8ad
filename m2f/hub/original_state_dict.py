"""Weights of the original Mask2Former under our names, which are the names of transformers' checkpoints.

Facts from facebookresearch/Mask2Former (commit 9b0651c, MIT licence): parameter names, and the names of its older
checkpoints (`_load_from_state_dict` of its MaskFormerHead and MultiScaleMaskedTransformerDecoder). No code was taken
over.
"""

import functools
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

_LEAVES = "weight|bias|running_mean|running_var|num_batches_tracked"

# (original's prefix, our prefix, {rest of the original's name: rest of ours}). In the names, {i} is a number, which
# {i-1} shifts; a final * stands for any of _LEAVES; braces with commas split a weight into equal parts along its first
# axis; None: the model computes it from its configuration.
_NAMES: tuple[tuple[str, str, dict[str, str | None]], ...] = (
    (
        "backbone.",  # Swin
        "model.pixel_level_module.encoder.",
        {
            "patch_embed.proj.*": "embeddings.patch_embeddings.projection.*",
            "patch_embed.norm.*": "embeddings.norm.*",
            "layers.{i}.downsample.norm.*": "encoder.layers.{i}.downsample.norm.*",
            # No permutation: both join four neighbours as (row, column) = (0, 0), (1, 0), (0, 1), (1, 1).
            "layers.{i}.downsample.reduction.*": "encoder.layers.{i}.downsample.reduction.*",
            "norm{i}.*": "hidden_states_norms.stage{i+1}.*",
        },
    ),
    (
        "backbone.layers.{i}.blocks.{j}.",
        "model.pixel_level_module.encoder.encoder.layers.{i}.blocks.{j}.",
        {
            "norm1.*": "layernorm_before.*",
            "norm2.*": "layernorm_after.*",
            "attn.qkv.*": "attention.self.{query,key,value}.*",
            "attn.proj.*": "attention.output.dense.*",
            "attn.relative_position_bias_table": "attention.self.relative_position_bias_table",
            "attn.relative_position_index": None,
            "mlp.fc1.*": "intermediate.dense.*",
            "mlp.fc2.*": "output.dense.*",
        },
    ),
    (
        "backbone.",  # ResNet
        "model.pixel_level_module.encoder.",
        {
            "stem.conv1.*": "embedder.embedder.convolution.*",
            "stem.conv1.norm.*": "embedder.embedder.normalization.*",
            "res{s}.{i}.conv{j}.*": "encoder.stages.{s-2}.layers.{i}.layer.{j-1}.convolution.*",
            "res{s}.{i}.conv{j}.norm.*": "encoder.stages.{s-2}.layers.{i}.layer.{j-1}.normalization.*",
            "res{s}.{i}.shortcut.*": "encoder.stages.{s-2}.layers.{i}.shortcut.convolution.*",
            "res{s}.{i}.shortcut.norm.*": "encoder.stages.{s-2}.layers.{i}.shortcut.normalization.*",
        },
    ),
    (
        "sem_seg_head.pixel_decoder.",
        "model.pixel_level_module.decoder.",
        {
            "input_proj.{i}.{j}.*": "input_projections.{i}.{j}.*",
            "transformer.level_embed": "level_embed",
            "mask_features.*": "mask_projection.*",
            "adapter_1.*": "adapter_1.0.*",
            "adapter_1.norm.*": "adapter_1.1.*",
            "layer_1.*": "layer_1.0.*",
            "layer_1.norm.*": "layer_1.1.*",
        },
    ),
    (
        "sem_seg_head.pixel_decoder.transformer.encoder.layers.{i}.",
        "model.pixel_level_module.decoder.encoder.layers.{i}.",
        {
            "self_attn.sampling_offsets.*": "self_attn.sampling_offsets.*",
            "self_attn.attention_weights.*": "self_attn.attention_weights.*",
            "self_attn.value_proj.*": "self_attn.value_proj.*",
            "self_attn.output_proj.*": "self_attn.output_proj.*",
            "norm1.*": "self_attn_layer_norm.*",
            "linear1.*": "fc1.*",
            "linear2.*": "fc2.*",
            "norm2.*": "final_layer_norm.*",
        },
    ),
    (
        "sem_seg_head.predictor.",
        "model.transformer_module.",
        {
            "query_feat.weight": "queries_features.weight",
            "query_embed.weight": "queries_embedder.weight",
            "level_embed.weight": "level_embed.weight",
            "input_proj.{i}.*": "input_projections.{i}.*",
            "decoder_norm.*": "decoder.layernorm.*",
            "mask_embed.layers.{i}.*": "decoder.mask_predictor.mask_embedder.{i}.0.*",
        },
    ),
    (
        "sem_seg_head.predictor.transformer_",
        "model.transformer_module.decoder.layers.{i}.",
        {
            "self_attention_layers.{i}.self_attn.in_proj_weight": "self_attn.{q,k,v}_proj.weight",
            "self_attention_layers.{i}.self_attn.in_proj_bias": "self_attn.{q,k,v}_proj.bias",
            "self_attention_layers.{i}.self_attn.out_proj.*": "self_attn.out_proj.*",
            "self_attention_layers.{i}.norm.*": "self_attn_layer_norm.*",
            "cross_attention_layers.{i}.multihead_attn.in_proj_weight": "cross_attn.in_proj_weight",
            "cross_attention_layers.{i}.multihead_attn.in_proj_bias": "cross_attn.in_proj_bias",
            "cross_attention_layers.{i}.multihead_attn.out_proj.*": "cross_attn.out_proj.*",
            "cross_attention_layers.{i}.norm.*": "cross_attn_layer_norm.*",
            "ffn_layers.{i}.linear1.*": "fc1.*",
            "ffn_layers.{i}.linear2.*": "fc2.*",
            "ffn_layers.{i}.norm.*": "final_layer_norm.*",
        },
    ),
    ("sem_seg_head.predictor.class_embed.", "class_predictor.", {"*": "*"}),
    ("criterion.", "criterion.", {"empty_weight": "empty_weight"}),
)

# Names of the original's older checkpoints -> its present names.
_UPGRADES = (
    (re.compile(r"^sem_seg_head\.(?!pixel_decoder\.|predictor\.)"), "sem_seg_head.pixel_decoder."),
    (re.compile(r"^sem_seg_head\.predictor\.static_query\."), "sem_seg_head.predictor.query_feat."),
)

# Unknown names that tell which other model of the original's repository a checkpoint belongs to.
_OTHER_MODELS = (
    (r"sem_seg_head\.predictor\.(weight|bias)", "the per-pixel baseline, which has no queries"),
    (r"sem_seg_head\.predictor\.transformer\.", "MaskFormer or the per-pixel baseline with a Transformer decoder"),
    (r"sem_seg_head\.pixel_decoder\.(layer|adapter)_[2-4]\.", "a model with another pixel decoder (FPN)"),
)


def convert_original_state_dict(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Rename, and where needed split, the original's weights.

    The result has the names that files on disk have; those of a Swin backbone differ in memory, so that
    `load_state_dict` does not take them. `original_weights.load_original_weights(model, converted)` fills a model that
    exists, `M2FForUniversalSegmentation.from_pretrained(None, config=config, state_dict=converted)` makes one. Values
    are those of the argument; parts of split weights are copies. `relative_position_index` of Swin follows from the
    window size and is left out. `num_batches_tracked` = 0 is added where a frozen BatchNorm has none, because
    transformers' ResNet has one.

    The checkpoints of the original's video models have the same names as those of its image models and cannot be told
    from them: they convert to a model for single frames.

    Args:
        state_dict: original name -> tensor or array; all of a model or a part of it.

    Returns:
        Our name -> tensor or array, of the same kind and dtype as given.

    Raises:
        ValueError: names that are not known (all are listed), values that are no arrays, a weight that cannot be split
            evenly, or two names for the same weight.
    """
    _check_values(state_dict)
    found = {name: _targets(upgraded_name(name)) for name in state_dict}
    targets = {name: ours for name, ours in found.items() if ours is not None}
    unknown = [name for name in found if name not in targets]
    if unknown:
        raise ValueError(_unknown_message(unknown, len(state_dict)))
    converted: dict[str, Any] = {}
    for name, value in state_dict.items():
        for ours, part in zip(targets[name], _parts(name, value, len(targets[name])), strict=True):
            if ours in converted:
                raise ValueError(f"{name} is the second name for {ours}; remove one of the two from the state dict")
            converted[ours] = part
    _add_batch_counts(converted)
    return converted


def _check_values(state_dict: Mapping[str, Any]) -> None:
    wrong = [f"{name} ({type(v).__name__})" for name, v in state_dict.items() if not _is_array(v)]
    if wrong:
        raise ValueError(f"expected names with tensors or arrays, but these have neither: {', '.join(wrong)}")


def _is_array(value: Any) -> bool:
    return isinstance(value, torch.Tensor | np.ndarray | np.generic)


def upgraded_name(name: str) -> str:
    """The present name of a weight of any of the original's versions."""
    for pattern, replacement in _UPGRADES:
        name = pattern.sub(replacement, name)
    return name


@functools.cache
def _patterns() -> tuple[tuple[re.Pattern, str | None], ...]:
    """`_NAMES` as pairs (pattern of the whole original name, our name with its placeholders)."""
    pairs = []
    for prefix, our_prefix, rests in _NAMES:
        for rest, ours in rests.items():
            pattern = re.sub(r"\\\{(\w)\\\}", r"(?P<\1>\\d+)", re.escape(prefix + rest))
            pattern = pattern.replace(r"\*", f"(?P<leaf>{_LEAVES})")
            pairs.append((re.compile(pattern), None if ours is None else our_prefix + ours))
    return tuple(pairs)


def _targets(name: str) -> list[str] | None:
    """Our names for one of the original's; an empty list: nothing to keep; None: unknown."""
    for pattern, template in _patterns():
        if match := pattern.fullmatch(name):
            return [] if template is None else _filled(template, match)
    return None


def _filled(template: str, match: re.Match) -> list[str]:
    numbers = r"\{(\w)([+-]\d)?\}"
    name = re.sub(numbers, lambda field: str(int(match[field[1]]) + int(field[2] or 0)), template)
    name = name.replace("*", match.groupdict().get("leaf", ""))
    parts = re.search(r"\{(\w+(?:,\w+)+)\}", name)
    return [name] if parts is None else [name.replace(parts[0], part) for part in parts[1].split(",")]


def _parts(name: str, value: Any, count: int) -> list[Any]:
    if count <= 1:
        return [value] * count
    rows, rest = divmod(value.shape[0] if value.ndim else 0, count)
    if rest or not rows:
        raise ValueError(f"{name} has shape {tuple(value.shape)}; its first axis must be a multiple of {count}")
    parts = [value[i * rows : (i + 1) * rows] for i in range(count)]
    # Copies, because files cannot hold tensors that share memory.
    return [part.clone() if isinstance(part, torch.Tensor) else part.copy() for part in parts]


def _add_batch_counts(converted: dict[str, Any]) -> None:
    for name in [name for name in converted if name.endswith(".running_var")]:
        value = converted[name]
        zero = value.new_zeros((), dtype=torch.int64) if isinstance(value, torch.Tensor) else np.zeros((), np.int64)
        converted.setdefault(name.replace("running_var", "num_batches_tracked"), zero)


def _unknown_message(unknown: list[str], total: int) -> str:
    message = f"{len(unknown)} of {total} names are not of the original Mask2Former: {', '.join(unknown)}."
    for pattern, model in _OTHER_MODELS:
        if any(re.match(pattern, upgraded_name(name)) for name in unknown):
            return f"{message} They look like those of {model}, which cannot be converted."
    return f"{message} Remove them from the state dict if they are not weights of the model."
