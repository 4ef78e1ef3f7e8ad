"""transformers' Auto classes and pipeline load `mask2former` checkpoints as ours, until that is undone."""

from typing import Any

from transformers import AutoConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING, AutoImageProcessor

from m2f.configuration.configuration_m2f import M2FConfig
from m2f.image_processing.image_processing_m2f import M2FImageProcessor

_MODEL_TYPE = "mask2former"


class _ReplacedConfig(M2FConfig):
    """Stands in the Auto classes' table; gives an `M2FConfig`, for which they know our models."""

    model_type = _MODEL_TYPE

    # On purpose not of the class that they are called on, as in the next two.
    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs) -> M2FConfig:  # type: ignore[override]
        return M2FConfig.from_dict(config_dict, **kwargs)

    @classmethod
    def from_pretrained(cls, *args, **kwargs) -> M2FConfig:  # type: ignore[override]
        return M2FConfig.from_pretrained(*args, **kwargs)


class _ReplacedImageProcessor(M2FImageProcessor):
    """The same for the processor."""

    @classmethod
    def from_pretrained(cls, *args, **kwargs) -> M2FImageProcessor:  # type: ignore[override]
        return M2FImageProcessor.from_pretrained(*args, **kwargs)


# transformers finds an image processor by the class name in its file; 5.17 first adds the backend to it.
_PROCESSORS = {
    backend: type(name, (_ReplacedImageProcessor,), {"__module__": __name__})
    for backend, name in (("torchvision", "Mask2FormerImageProcessor"), ("pil", "Mask2FormerImageProcessorPil"))
}

# What the table of configurations held before, while the replacement is in force.
_former: dict[str, Any] = {}


def replace_mask2former():
    """From now on `AutoConfig`, `AutoModel`, `AutoModelForUniversalSegmentation`, `AutoModelForImageSegmentation`,
    `AutoImageProcessor` and `pipeline("image-segmentation")` load checkpoints of transformers' Mask2Former as
    `M2FConfig`, `M2FModel`, `M2FForUniversalSegmentation` and `M2FImageProcessor`.

    It acts on the whole process, and may be called again. `restore_mask2former` undoes it; objects that were loaded
    stay what they are. transformers' own classes, called by their names, load as before, and so do models that are
    made of a `Mask2FormerConfig`. For a model that is loaded already, see `convert`.
    """
    if _former:
        return
    _former[_MODEL_TYPE] = CONFIG_MAPPING._extra_content.get(_MODEL_TYPE)
    AutoConfig.register(_MODEL_TYPE, _ReplacedConfig, exist_ok=True)
    AutoImageProcessor.register(_ReplacedConfig, image_processor_classes=dict(_PROCESSORS), exist_ok=True)


def restore_mask2former():
    """Undo `replace_mask2former`; does nothing where it was not called."""
    if not _former:
        return
    # There is no public way to take a registration back.
    former = _former.pop(_MODEL_TYPE)
    if former is None:
        del CONFIG_MAPPING._extra_content[_MODEL_TYPE]
    else:
        CONFIG_MAPPING._extra_content[_MODEL_TYPE] = former
    del IMAGE_PROCESSOR_MAPPING._extra_content[_ReplacedConfig]
