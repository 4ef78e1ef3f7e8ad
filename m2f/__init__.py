"""m2f: Mask2Former for Hugging Face Transformers.

`import m2f` registers the classes with transformers' Auto classes and does nothing else: no compilation, no network,
no output.
"""

from pathlib import Path

__version__ = "0.1.0"

# A checkout keeps configuration/, image_processing/ and modeling_m2f/ beside this folder; setup.py maps them into the
# package, and this line gives an uninstalled checkout the same import names.
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "configuration" / "configuration_m2f.py").is_file():
    __path__.append(str(_checkout))

from m2f.auto import register_auto_classes  # noqa: E402  (the path above must be complete first)
from m2f.configuration.configuration_m2f import M2FConfig  # noqa: E402
from m2f.hub.mask2former_replacement import replace_mask2former, restore_mask2former  # noqa: E402
from m2f.hub.transformers_models import convert  # noqa: E402
from m2f.image_processing.image_processing_m2f import M2FImageProcessor  # noqa: E402
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation, M2FModel  # noqa: E402

register_auto_classes()


def __getattr__(name: str):
    # Imported when it is asked for: what it stands on takes time to import.
    if name == "Segmenter":
        from m2f.inference.segmenter import Segmenter

        return Segmenter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "M2FConfig",
    "M2FForUniversalSegmentation",
    "M2FImageProcessor",
    "M2FModel",
    "Segmenter",
    "__version__",
    "convert",
    "replace_mask2former",
    "restore_mask2former",
]
