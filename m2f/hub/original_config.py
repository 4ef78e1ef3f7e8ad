"""The configuration that the original's weights belong to, read from their names and shapes."""

from collections.abc import Mapping
from typing import Any

from m2f.hub.original_state_dict import upgraded_name

_PIXEL = "sem_seg_head.pixel_decoder"
_PREDICTOR = "sem_seg_head.predictor"
# The same in every configuration of the original, and only their product can be read from the weights.
_HEADS, _POINTS = 8, 4
_STAGES = ("stage1", "stage2", "stage3", "stage4")


def config_kwargs_from_original(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments for `M2FConfig` that make a model into which the converted weights fit.

    What weights do not tell is left to M2FConfig's defaults: task, names of the labels and which of them are things,
    weights of the losses.

    Args:
        state_dict: the original's names -> anything with a `shape`: tensors, arrays, meta tensors.

    Returns:
        Keyword arguments; `backbone_config` is a dict with `model_type` "swin" or "resnet".

    Raises:
        ValueError: a name that is needed is missing, the backbone is neither Swin nor ResNet, or the pixel decoder's
            heads and points are not the original's 8 and 4.
    """
    shapes = {upgraded_name(name): tuple(value.shape) for name, value in state_dict.items()}
    _check_heads(shapes)
    num_queries, hidden_dim = _shape(shapes, f"{_PREDICTOR}.query_feat.weight")
    decoder_layers = _count(shapes, f"{_PREDICTOR}.transformer_ffn_layers.")
    kwargs = {
        "backbone_config": _backbone_config(shapes),
        "feature_size": _shape(shapes, f"{_PIXEL}.input_proj.0.0.weight")[0],
        "mask_feature_size": _shape(shapes, f"{_PIXEL}.mask_features.weight")[0],
        "hidden_dim": hidden_dim,
        "num_queries": num_queries,
        "num_labels": _shape(shapes, f"{_PREDICTOR}.class_embed.weight")[0] - 1,  # the last class is "no object"
        "encoder_layers": _count(shapes, f"{_PIXEL}.transformer.encoder.layers."),
        "encoder_feedforward_dim": _shape(shapes, f"{_PIXEL}.transformer.encoder.layers.0.linear1.weight")[0],
        "decoder_layers": decoder_layers + 1,  # predictions: one comes before the first layer
        "dim_feedforward": _shape(shapes, f"{_PREDICTOR}.transformer_ffn_layers.0.linear1.weight")[0],
        "num_attention_heads": _HEADS,
        "enforce_input_projection": f"{_PREDICTOR}.input_proj.0.weight" in shapes,
    }
    if kwargs["backbone_config"]["model_type"] == "resnet":
        # SyncBN, which trains, counts its batches; FrozenBN does not.
        kwargs["backbone_frozen_batch_norm"] = "backbone.stem.conv1.norm.num_batches_tracked" not in shapes
    return kwargs


def _shape(shapes: Mapping[str, tuple], name: str) -> tuple:
    if name not in shapes:
        raise ValueError(f"{name} is missing, so these are not all the weights of an original Mask2Former")
    return shapes[name]


def _count(shapes: Mapping[str, tuple], prefix: str) -> int:
    """How many numbers follow `prefix` in the names."""
    return len({name.removeprefix(prefix).split(".")[0] for name in shapes if name.startswith(prefix)})


def _check_heads(shapes: Mapping[str, tuple]) -> None:
    levels = _shape(shapes, f"{_PIXEL}.transformer.level_embed")[0]
    name = f"{_PIXEL}.transformer.encoder.layers.0.self_attn.attention_weights.weight"
    expected = _HEADS * levels * _POINTS
    if (rows := _shape(shapes, name)[0]) != expected:
        raise ValueError(f"{name} has {rows} rows; {_HEADS} heads x {levels} levels x {_POINTS} points are {expected}")


def _backbone_config(shapes: Mapping[str, tuple]) -> dict[str, Any]:
    if "backbone.patch_embed.proj.weight" in shapes:
        return _swin_config(shapes)
    if "backbone.stem.conv1.weight" in shapes:
        return _resnet_config(shapes)
    names = [name for name in shapes if name.startswith("backbone.")]
    raise ValueError(f"the backbone is neither Swin nor ResNet; its first names are {', '.join(names[:3]) or 'none'}")


def _swin_config(shapes: Mapping[str, tuple]) -> dict[str, Any]:
    block = "backbone.layers.{}.blocks.0."
    embed_dim, channels, patch_size, _ = shapes["backbone.patch_embed.proj.weight"]
    offsets, _ = _shape(shapes, block.format(0) + "attn.relative_position_bias_table")
    window_size = (int(offsets**0.5) + 1) // 2  # the table has (2 * window_size - 1)^2 rows
    return {
        "model_type": "swin",
        "embed_dim": embed_dim,
        "num_channels": channels,
        "patch_size": patch_size,
        "depths": [_count(shapes, f"backbone.layers.{i}.blocks.") for i in range(len(_STAGES))],
        "num_heads": [
            _shape(shapes, block.format(i) + "attn.relative_position_bias_table")[1] for i in range(len(_STAGES))
        ],
        "window_size": window_size,
        "image_size": 32 * window_size,  # its pretraining size, 224 or 384: the last stage is one window
        "mlp_ratio": _shape(shapes, block.format(0) + "mlp.fc1.weight")[0] / embed_dim,
        "qkv_bias": block.format(0) + "attn.qkv.bias" in shapes,
        "drop_path_rate": 0.3,  # of all the original's Swin configurations
        "out_features": list(_STAGES),
    }


def _resnet_config(shapes: Mapping[str, tuple]) -> dict[str, Any]:
    bottleneck = "backbone.res2.0.conv3.weight" in shapes
    last = "conv3" if bottleneck else "conv2"
    embedding_size, channels = shapes["backbone.stem.conv1.weight"][:2]
    return {
        "model_type": "resnet",
        "num_channels": channels,
        "embedding_size": embedding_size,
        "depths": [_count(shapes, f"backbone.res{i}.") for i in range(2, 6)],
        "hidden_sizes": [_shape(shapes, f"backbone.res{i}.0.{last}.weight")[0] for i in range(2, 6)],
        "layer_type": "bottleneck" if bottleneck else "basic",
        "out_features": list(_STAGES),
    }
