"""The licence of the original's published weights, which stays with them through every conversion and training."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from m2f.configuration.configuration_m2f import LICENSE_FIELD, ORIGINAL_LICENSE, ORIGINAL_REPOSITORIES


def required_license(config: Mapping[str, Any], *sources: str | None) -> str | None:
    """The licence that the weights must keep, None where nothing says so.

    Args:
        config: content of config.json.
        sources: checkpoints that the weights come from or were trained from, as far as they are known.
    """
    recorded = config.get(LICENSE_FIELD)
    if recorded is None and any((source or "").startswith(ORIGINAL_REPOSITORIES) for source in sources):
        return ORIGINAL_LICENSE
    return recorded


def checked_license(wanted: str | None, required: str | None) -> str | None:
    """The licence to state.

    Raises:
        ValueError: another one is wanted than the weights must keep.
    """
    if required is not None and wanted not in (None, required):
        raise ValueError(
            f"the licence {wanted!r} cannot be stated: the weights come from ones under {required}, and what is made "
            f"of them stays under it ({LICENSE_FIELD} in config.json)"
        )
    return required or wanted


def stated_license(folder: str) -> str | None:
    """What the model card in a checkpoint's folder says; None where there is no folder, card or licence."""
    card = Path(folder) / "README.md"
    return ModelCard.load(card).data.get("license") if card.is_file() else None
