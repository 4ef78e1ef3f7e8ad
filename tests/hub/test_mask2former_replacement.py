"""transformers' Auto classes and pipeline load its Mask2Former checkpoints as ours, until that is undone."""

import json

import pytest
from small_models import small_model
from stock_models import transformers_model
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageSegmentation,
    AutoModelForUniversalSegmentation,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    pipeline,
)
from transformers.models.auto.image_processing_auto import AutoImageProcessor

import m2f
from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation, M2FModel


@pytest.fixture
def checkpoint(tmp_path):
    transformers_model("swin").save_pretrained(tmp_path)
    fields = {"image_processor_type": "Mask2FormerImageProcessor", "size": {"height": 64, "width": 64}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(fields))
    yield tmp_path
    m2f.restore_mask2former()


def loaded_classes(folder) -> list[str]:
    segmenter = pipeline("image-segmentation", model=str(folder))
    loaders = (AutoConfig, AutoModel, AutoModelForUniversalSegmentation, AutoImageProcessor)
    loaded = [loader.from_pretrained(folder) for loader in loaders]
    return [type(x).__name__ for x in (*loaded, segmenter.model, segmenter.image_processor)]


def test_auto_classes_and_pipeline_load_ours_until_that_is_undone(checkpoint):
    stock = loaded_classes(checkpoint)
    assert stock[:3] == ["Mask2FormerConfig", "Mask2FormerModel", "Mask2FormerForUniversalSegmentation"]
    m2f.restore_mask2former()  # without a replacement
    for _ in range(2):
        m2f.replace_mask2former()
    model = M2FForUniversalSegmentation.__name__
    ours = ["M2FConfig", "M2FModel", model, "M2FImageProcessor", model, "M2FImageProcessor"]
    assert loaded_classes(checkpoint) == ours
    assert type(AutoModelForImageSegmentation.from_pretrained(checkpoint)) is M2FForUniversalSegmentation
    # Loading by name and from a configuration object is as before.
    assert type(Mask2FormerForUniversalSegmentation.from_pretrained(checkpoint)).__module__.startswith("transformers.")
    config = Mask2FormerConfig.from_pretrained(checkpoint)
    assert type(AutoModelForUniversalSegmentation.from_config(config)) is Mask2FormerForUniversalSegmentation
    m2f.restore_mask2former()
    assert loaded_classes(checkpoint) == stock


def test_other_models_load_as_before_while_the_replacement_is_in_force(checkpoint, tmp_path):
    m2f.replace_mask2former()
    small_model("resnet").save_pretrained(tmp_path / "ours")
    M2FImageProcessor().save_pretrained(tmp_path / "ours")
    assert type(AutoModel.from_pretrained(tmp_path / "ours")) is M2FModel
    assert type(AutoImageProcessor.from_pretrained(tmp_path / "ours")) is M2FImageProcessor
    (tmp_path / "vit").mkdir()
    (tmp_path / "vit" / "preprocessor_config.json").write_text('{"image_processor_type": "ViTImageProcessor"}')
    assert type(AutoImageProcessor.from_pretrained(tmp_path / "vit")).__name__.startswith("ViTImageProcessor")
