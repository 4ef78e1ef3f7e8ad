"""What the fields of `M2FConfig` may hold. A file's values are checked here, before a model takes memory for them.

The upper limits are far above what anybody trains, and keep each part below some GiB; a typing error of a few digits,
or a file that is made to fill the memory, is past them.
"""

import math
import reprlib
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any, NamedTuple, TypeGuard

# Of the parts outside the backbone; the paper's largest model has 18 million there. 8 GiB in float32.
MOST_PARAMETERS = 2 * 2**30
# ImageNet-21k has 21,843 classes.
MOST_LABELS = 100_000
MOST_RANK = 1024  # of adapters, which are to be smaller than the layers that they stand beside
# Of a backbone's numbers. The widest layers that are known have 16,384 channels.
_MOST_IN_BACKBONE = 65_536
_MOST_BACKBONE_LAYERS = 1000
_DEEPEST = 50  # lists in lists of a config.json; known ones have five levels


class Range(NamedTuple):
    """Of a number, both ends included."""

    low: float
    high: float


WHOLE_NUMBERS = {
    "feature_size": Range(1, 8192),
    "mask_feature_size": Range(1, 8192),
    "hidden_dim": Range(1, 8192),
    "encoder_feedforward_dim": Range(1, 65_536),
    "dim_feedforward": Range(1, 65_536),
    "encoder_layers": Range(1, 256),
    "decoder_layers": Range(2, 256),
    "num_attention_heads": Range(1, 1024),
    "num_queries": Range(1, 10_000),  # the masks of an image of 800 x 1333 pixels take 2.5 GiB then
    "train_num_points": Range(1, 2**20),  # an image has about as many pixels; 4 MiB a mask
    "common_stride": Range(1, 1024),
    "ignore_value": Range(-(2**31), 2**31 - 1),  # what label maps hold
    "chunk_size_feed_forward": Range(0, 2**31 - 1),  # transformers' own, which is not read here
}
NUMBERS = {
    "dropout": Range(0, 1),
    "no_object_weight": Range(0, math.inf),
    "class_weight": Range(0, math.inf),
    "mask_weight": Range(0, math.inf),
    "dice_weight": Range(0, math.inf),
    "oversample_ratio": Range(1, 16),  # that many times `train_num_points` are in memory for each mask
    "importance_sample_ratio": Range(0, 1),
    "init_std": Range(0, math.inf),
    "init_xavier_std": Range(0, math.inf),
}
SWITCHES = (
    "pre_norm",
    "enforce_input_projection",
    "use_auxiliary_loss",
    "mask_padding",
    "backbone_frozen_batch_norm",
    "recompute_feedforward",
)
_SWITCHES_OR_NONE = ("output_auxiliary_logits", "output_hidden_states", "return_dict", "is_encoder_decoder")
_HINTS = {"class_weight": " The weights of single classes are class_weights."}


def check_values(config: Any):
    """Raise ValueError, naming field, value and limit, where a number or a switch of an `M2FConfig` is none or is out
    of its range, or all of them describe a model of more than `MOST_PARAMETERS`."""
    for name, limits in WHOLE_NUMBERS.items():
        _check_number(name, getattr(config, name), limits, Integral)
    for name, limits in NUMBERS.items():
        _check_number(name, getattr(config, name), limits, Real)
    for name in (*SWITCHES, *_SWITCHES_OR_NONE):
        value = getattr(config, name)
        if not (isinstance(value, bool) or value is None and name in _SWITCHES_OR_NONE):
            raise ValueError(f"{name}={reprlib.repr(value)} must be true or false.")
    if config.masked_layers is not None:
        _check_number("masked_layers", config.masked_layers, Range(0, config.decoder_layers - 1), Integral)
    if config.dropout == 1:
        raise ValueError("dropout=1 would drop everything; it must be below 1.")
    _check_strides(config.feature_strides)
    _check_activation(config.activation_function)
    _check_parameters(config)


def check_fields(fields: Any):
    """Raise ValueError where the content of a config.json holds no fields, or lists in lists to a depth that other
    libraries' recursion does not reach."""
    if not isinstance(fields, Mapping):
        raise ValueError(f"a configuration holds no fields, but a {type(fields).__name__}")
    level = 0
    here: list[Any] = [fields]
    while here:
        if (level := level + 1) > _DEEPEST:
            raise ValueError(f"the configuration has more than {_DEEPEST} lists or mappings in each other")
        here = [inner for value in here for inner in _inside(value) if isinstance(inner, Mapping | list | tuple)]


def check_adapters(value: Any):
    """Raise ValueError unless a `backbone_lora` is None or has a rank and targets."""
    if value is None:
        return
    targets = value.get("targets") if isinstance(value, Mapping) and set(value) == {"rank", "targets"} else None
    if not isinstance(targets, list | tuple) or not targets or not all(isinstance(name, str) for name in targets):
        raise ValueError(
            f'backbone_lora={reprlib.repr(value)} must be {{"rank": 8, "targets": ["q_proj", ...]}}, or None.'
        )
    _check_number("backbone_lora.rank", value["rank"], Range(1, MOST_RANK), Integral)


def check_label_count(num_labels: Any):
    """Raise ValueError unless it is a whole number of 1 to `MOST_LABELS`; to be asked before names are made of it."""
    _check_number("num_labels", num_labels, Range(1, MOST_LABELS), Integral)


def checked_labels(id2label: Any) -> dict[int, str]:
    """The names of the classes by their ids, 0 to K - 1, in this order.

    Raises:
        ValueError: it is no mapping, an id is missing, doubled or no number, or a name is no text.
    """
    if not isinstance(id2label, Mapping) or not id2label:
        raise ValueError(f'id2label={reprlib.repr(id2label)} must be a mapping of ids to names, {{"0": "name", ...}}.')
    check_label_count(len(id2label))
    named: dict[int, str] = {}
    for key, name in id2label.items():
        number = _label_id(key)
        if number in named:
            raise ValueError(f"id2label names the label {number} twice.")
        if not isinstance(name, str):
            raise ValueError(f"id2label[{number}]={reprlib.repr(name)} must be text.")
        named[number] = name
    wrong = sorted(set(range(len(named))) - set(named))
    if wrong:
        raise ValueError(
            f"id2label has {len(named)} labels but none of id {wrong[0]}; ids must be 0 to {len(named) - 1} without a "
            "gap, as the model counts its classes; number them anew."
        )
    return dict(sorted(named.items()))


def check_backbone(fields: Mapping[str, Any]):
    """Raise ValueError where the numbers of a backbone's configuration are no numbers to build a network with."""
    for name, value in fields.items():
        if name in ("id2label", "label2id"):
            continue
        numbers = _numbers_in(value)
        for number in numbers:
            if not math.isfinite(number) or isinstance(number, Integral) and abs(int(number)) > _MOST_IN_BACKBONE:
                raise ValueError(
                    f"backbone_config.{name}={reprlib.repr(value)} must hold finite numbers, and whole ones of up to "
                    f"{_MOST_IN_BACKBONE}."
                )
        if ("depth" in name or "layers" in name) and sum(numbers) > _MOST_BACKBONE_LAYERS:
            raise ValueError(
                f"backbone_config.{name}={reprlib.repr(value)} asks for more than {_MOST_BACKBONE_LAYERS} layers."
            )


def is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, Real) and not isinstance(value, bool)


def _check_number(name: str, value: Any, limits: Range, kind: type):
    if not is_number(value):
        raise ValueError(f"{name}={reprlib.repr(value)} is no number.{_HINTS.get(name, '')}")
    if kind is Integral and not isinstance(value, Integral):
        raise ValueError(f"{name}={reprlib.repr(value)} must be a whole number.")
    if not (limits.low <= value <= limits.high and value < math.inf):
        wanted = "finite and >= 0" if limits.high == math.inf else f"in {limits.low}..{limits.high}"
        raise ValueError(f"{name}={reprlib.repr(value)} must be {wanted}.")
    if abs(value) > 2**1000:  # as a float it would be infinite
        raise ValueError(f"{name}={reprlib.repr(value)} is too large.")


def _check_strides(strides: Any):
    is_list = isinstance(strides, Sequence) and not isinstance(strides, str) and len(strides) == 4
    if not is_list or not all(is_number(s) and isinstance(s, Integral) and 1 <= int(s) <= 1024 for s in strides):
        raise ValueError(
            f"feature_strides={reprlib.repr(strides)} must be four whole numbers of 1 to 1024, those of the "
            "backbone's feature maps, such as [4, 8, 16, 32]."
        )


def _check_activation(name: Any):
    from transformers.activations import ACT2FN

    if not isinstance(name, str) or name not in ACT2FN:
        raise ValueError(
            f"activation_function={reprlib.repr(name)} is unknown to transformers; use one such as relu or gelu."
        )


def _check_parameters(config: Any):
    """The matrices that grow with the fields, counted from the layers' definitions; the rest is small beside them."""
    count = (
        config.encoder_layers * config.feature_size * (4 * config.feature_size + 2 * config.encoder_feedforward_dim)
    )
    count += config.decoder_layers * config.hidden_dim * (8 * config.hidden_dim + 2 * config.dim_feedforward)
    count += config.hidden_dim * (2 * config.num_queries + (config.num_labels or 0))
    count += 27 * config.feature_size * (config.feature_size + config.mask_feature_size)
    if count > MOST_PARAMETERS:
        names = ("feature_size", "hidden_dim", "encoder_layers", "decoder_layers", "num_queries", "num_labels")
        asked = ", ".join(f"{name}={getattr(config, name)}" for name in names)
        raise ValueError(f"{asked} describe about {count:.2g} parameters; at most {MOST_PARAMETERS:.2g} are built.")


def _label_id(key: Any) -> int:
    try:
        if isinstance(key, Integral | str) and not isinstance(key, bool):
            return int(key)
    except ValueError:
        pass
    raise ValueError(f"id2label has the key {reprlib.repr(key)}; ids of labels are whole numbers from 0 on.")


def _inside(value: Any):
    return value.values() if isinstance(value, Mapping) else value


def _numbers_in(value: Any) -> list:
    if is_number(value):
        return [value]
    if isinstance(value, Mapping | list | tuple):
        return [number for inner in _inside(value) for number in _numbers_in(inner)]
    return []
