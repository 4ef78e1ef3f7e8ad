"""The original's weights into a model that exists."""

import copy
import os
from collections.abc import Mapping
from typing import Any

import torch

from m2f.hub.original_files import read_original_checkpoint
from m2f.hub.original_state_dict import convert_original_state_dict
from m2f.modeling_m2f.checkpoint_report import check_report
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation, M2FModel
from m2f.modeling_m2f.pretrained_model import M2FPreTrainedModel


@torch.no_grad()
def load_original_weights(
    model: M2FPreTrainedModel,
    source: str | os.PathLike | Mapping[str, Any],
    *,
    allow_partial: bool = False,
    ignore_mismatched_sizes: bool = False,
) -> M2FPreTrainedModel:
    """Fill a model with a checkpoint of the original, in place; the model keeps its dtype and its device.

    `m2f convert` and `M2FForUniversalSegmentation.from_pretrained` make a new model. For one that is there already,
    `model.load_state_dict` does not do: a Swin backbone's weights have other names in memory than in files, and
    `convert_original_state_dict` gives those of files. transformers translates them when it loads a file, so that is
    what happens here, beside the model, whose memory is needed a second time for as long.

    Args:
        model: an `M2FModel`, which has no use for the classifier's weights, or an `M2FForUniversalSegmentation`.
        source: a file as of `read_original_checkpoint`, or its content: the original's names, or those of
            `convert_original_state_dict`, with tensors or arrays.
        allow_partial: keep the model's own values where the checkpoint has none, and leave what is superfluous.
        ignore_mismatched_sizes: keep the model's own values where the checkpoint's have another shape, such as a
            classifier of other classes.

    Returns:
        `model`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or names are not those of the original.
        CheckpointMismatchError: names are missing, superfluous or of another shape; all are listed, and the model
            is as it was.
    """
    weights = source if isinstance(source, Mapping) else read_original_checkpoint(source)
    if not _is_converted(weights):
        weights = convert_original_state_dict(weights)
    weights = {name: torch.as_tensor(value) for name, value in weights.items()}
    with_heads = isinstance(model, M2FForUniversalSegmentation)
    loaded, report = (M2FForUniversalSegmentation if with_heads else M2FModel).from_pretrained(
        None,
        config=copy.deepcopy(model.config),
        state_dict=weights,
        dtype="auto",
        output_loading_info=True,
        ignore_mismatched_sizes=True,
    )
    check_report(
        report,
        "the original's checkpoint" if isinstance(source, Mapping) else repr(os.fspath(source)),
        with_heads=False,
        allow_partial=allow_partial,
        ignore_mismatched_sizes=ignore_mismatched_sizes,
    )
    random = {*report["missing_keys"], *(entry[0] for entry in report["mismatched_keys"])}
    model.load_state_dict({k: v for k, v in loaded.state_dict().items() if k not in random}, strict=False)
    return model


def _is_converted(weights: Mapping[str, Any]) -> bool:
    return any(str(name).startswith(("model.", "class_predictor.")) for name in weights)
