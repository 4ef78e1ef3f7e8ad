"""The licence of the original's published weights, which stays with them through every conversion and training."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from transformers.utils import cached_file, logging

from m2f.configuration.configuration_m2f import LICENSE_FIELD, ORIGINAL_LICENSE, ORIGINAL_REPOSITORIES

logger = logging.get_logger(__name__)

_LONGEST_HEADER = 2**16
_HEADER = re.compile(r"\s*---[ \t]*\n(.*?)\n---[ \t]*(?:\n|$)", re.DOTALL)
_NAME = re.compile(r"[\w.+-]{1,64}", re.ASCII)


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


def stated_license(checkpoint: str) -> str | None:
    """The `license` that the model card (README.md) beside a checkpoint's weights states, of a folder or a Hub id.

    None where there is no card or none is stated. A card is anybody's text: no more is taken of it than one short
    word, and one that cannot be read states nothing.
    """
    card = cached_file(
        checkpoint,
        "README.md",
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
    )
    if card is None:
        return None
    with Path(card).open(encoding="utf-8", errors="replace") as file:
        header = _HEADER.match(file.read(_LONGEST_HEADER))
    try:
        fields = yaml.safe_load(header[1]) if header else None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        logger.warning(f"the model card of {checkpoint} is no yaml ({type(error).__name__}); it states no licence")
        return None
    name = fields.get("license") if isinstance(fields, dict) else None
    return name if isinstance(name, str) and _NAME.fullmatch(name) else None
