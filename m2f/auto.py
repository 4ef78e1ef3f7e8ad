"""Registration with transformers' Auto classes and pipeline."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageSegmentation,
    AutoModelForUniversalSegmentation,
)

# Without torchvision, transformers 5.17 exports a dummy under transformers.AutoImageProcessor; this is the real class.
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from m2f.configuration.configuration_m2f import M2FConfig
from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation, M2FModel


def register_auto_classes():
    """Make `AutoConfig`, `AutoModel`, `AutoModelForUniversalSegmentation`, `AutoImageProcessor` and
    `pipeline("image-segmentation", model=folder)` know m2f. May be called again."""
    AutoConfig.register(M2FConfig.model_type, M2FConfig, exist_ok=True)
    AutoModel.register(M2FConfig, M2FModel, exist_ok=True)
    AutoModelForUniversalSegmentation.register(M2FConfig, M2FForUniversalSegmentation, exist_ok=True)
    # The pipeline looks for its model here, not among the universal ones.
    AutoModelForImageSegmentation.register(M2FConfig, M2FForUniversalSegmentation, exist_ok=True)
    # One class for both standard backends; a backend name of our own would make every load warn.
    backends: dict[str, type] = {"pil": M2FImageProcessor, "torchvision": M2FImageProcessor}
    AutoImageProcessor.register(M2FConfig, image_processor_classes=backends, exist_ok=True)
