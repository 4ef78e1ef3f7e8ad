"""A checkpoint that does not fit is an error, not a model with random weights."""

import re
from collections.abc import Iterable

# Names that may differ between the network and the network with its heads, or that older files lack.
HEADS = (r"^class_predictor\.", r"^criterion\.")
CONSTANTS = (r"swin\.layernorm\.", r"num_batches_tracked$")
# Computed from the configuration today; files of earlier versions of transformers hold it.
FORMER_CONSTANTS = (r"relative_position_index$",)
# The original's names, and names in files of weights that have others in memory (Swin's in transformers 5).
_ORIGINAL = (r"^sem_seg_head\.", r"^backbone\.")
_IN_FILES = (r"pixel_level_module\.encoder\.encoder\.layers\.\d+\.blocks\.",)

_REMEDY = (
    "Load the checkpoint with its own config; the original's with `m2f convert`, or "
    "m2f.hub.original_weights.load_original_weights(model, file) into a model that exists; or keep the model's own "
    "values on purpose with allow_partial=True (missing or unexpected names) or ignore_mismatched_sizes=True (shapes)."
)


class CheckpointMismatchError(RuntimeError):
    """The tensors of a checkpoint are not those of the model."""


def check_report(
    report: dict,
    source: str,
    with_heads: bool,
    names: Iterable[str] = (),
    allow_partial: bool = False,
    ignore_mismatched_sizes: bool = False,
):
    """Raise `CheckpointMismatchError`, listing every name, unless a checkpoint filled the model.

    transformers logs what is missing and goes on with random weights.

    Args:
        report: `from_pretrained`'s loading info.
        source: where the checkpoint lies, for the message.
        with_heads: whether the model has the classifier; its weights may be missing as long as the rest is there,
            because a checkpoint of `M2FModel` is a usual start of a new task.
        names: all of the model's, for the message where the checkpoint has none of them.
        allow_partial: missing and unexpected names are the caller's business.
        ignore_mismatched_sizes: so are tensors of another shape.
    """
    missing, unexpected, mismatched = [], [], []
    if not allow_partial:
        others = {entry[0] for entry in report["mismatched_keys"]}
        missing = _not_matching(set(report["missing_keys"]) - others, (*CONSTANTS, *(HEADS if with_heads else ())))
        unexpected = _not_matching(
            report["unexpected_keys"], (*CONSTANTS, *FORMER_CONSTANTS, *(() if with_heads else HEADS))
        )
    if not ignore_mismatched_sizes:
        mismatched = sorted(str(entry) for entry in report["mismatched_keys"])
    if not (missing or unexpected or mismatched):
        return
    if missing and not _found(names, missing):
        found = ", ".join(unexpected[:3]) or "nothing"
        raise CheckpointMismatchError(
            f"{source} has none of this model's {len(missing)} weights, but those of another (such as {found}). "
            f"{_REMEDY}"
        )
    raise CheckpointMismatchError(
        f"{source} does not hold this model. Missing ({len(missing)}): {missing}. Unexpected ({len(unexpected)}): "
        f"{unexpected}. Of another shape ({len(mismatched)}): {mismatched}. {_REMEDY}"
    )


def _found(names: Iterable[str], missing: list[str]) -> bool:
    """Whether any weight of the network was found; True where the names are not known."""
    own = set(_not_matching(set(names), (*CONSTANTS, *HEADS)))
    return not own or bool(own - set(missing))


def wrong_names_hint(unexpected: list[str]) -> str | None:
    """What to call in place of `load_state_dict`, where names that it did not expect tell; else None."""
    if _any_matching(unexpected, _ORIGINAL):
        whose = "These are names of the original's weights"
    elif _any_matching(unexpected, _IN_FILES):
        whose = "These are the names that files have, also those of convert_original_state_dict; in memory they differ"
    else:
        return None
    return (
        f"{whose}. Use m2f.hub.original_weights.load_original_weights(model, weights) for the original's weights, and "
        "from_pretrained for files of transformers and m2f."
    )


def _not_matching(names: set[str] | list[str], patterns: tuple[str, ...]) -> list[str]:
    return sorted(name for name in names if not any(re.search(pattern, name) for pattern in patterns))


def _any_matching(names: list[str], patterns: tuple[str, ...]) -> bool:
    return any(re.search(pattern, name) for name in names for pattern in patterns)
