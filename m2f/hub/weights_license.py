"""The licence of the original's published weights, which stays with them through every conversion and training."""

from collections.abc import Mapping
from typing import Any

# facebookresearch/Mask2Former, MODEL_ZOO.md: its code is under MIT, all its published models under this licence.
ORIGINAL_LICENSE = "cc-by-nc-4.0"
# Of config.json. transformers writes fields that it does not know back, so that fine-tuned models keep it.
LICENSE_FIELD = "weights_license"
# The repositories of the Hub that hold the same weights.
_ORIGINAL_REPOSITORIES = "facebook/mask2former-"


def required_license(config: Mapping[str, Any], *sources: str | None) -> str | None:
    """The licence that the weights must keep, None where nothing says so.

    Args:
        config: content of config.json.
        sources: checkpoints that the weights come from or were trained from, as far as they are known.
    """
    recorded = config.get(LICENSE_FIELD)
    if recorded is None and any((source or "").startswith(_ORIGINAL_REPOSITORIES) for source in sources):
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
