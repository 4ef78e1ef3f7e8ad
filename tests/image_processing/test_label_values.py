"""Values in labels that two parts of the library, neither of which may import the other, must know alike."""

from m2f.image_processing.label_values import IGNORED, NOTHING, PADDING_LABEL
from m2f.modeling_m2f.label_tensors import PADDING_LABEL as MODELS_PADDING_LABEL
from m2f.modeling_m2f.prepare_targets import IGNORED as MODELS_IGNORED
from m2f.modeling_m2f.prepare_targets import NOTHING as MODELS_NOTHING


def test_readers_and_model_mean_the_same():
    assert (NOTHING, IGNORED, PADDING_LABEL) == (MODELS_NOTHING, MODELS_IGNORED, MODELS_PADDING_LABEL)
