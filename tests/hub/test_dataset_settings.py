"""What the original's configurations say of the data sets, as a conversion fills it in."""

import json

import pytest
import torch
from original_checkpoints import fields_of, original_weights, write_original
from small_models import small_model
from stock_models import transformers_model

from m2f.configuration.configuration_m2f import LICENSE_FIELD
from m2f.hub.checkpoint_conversion import convert_checkpoint
from m2f.image_processing.image_processing_m2f import M2FImageProcessor


@pytest.mark.parametrize(
    ("dataset", "num_labels", "size", "threshold", "first_thing", "name"),
    [  # REFERENCE: the configuration files of the original, see resolution_presets.py and class_tables.py
        (None, 133, (800, 1333), 0.8, 0, "rug-merged"),
        (None, 80, (800, 1333), 0.8, None, "toothbrush"),
        (None, 8, (1024, 2048), 0.8, None, "bicycle"),
        (None, 100, (640, 2560), 0.8, None, "flag"),
        ("cityscapes-panoptic", 19, (1024, 2048), 0.8, 11, "bicycle"),
        ("ade20k-panoptic", 150, (640, 2560), 0.8, 7, "flag"),
        ("ade20k-semantic", 150, (512, 2048), 0.8, None, "flag"),
        ("mapillary-vistas-panoptic", 65, (2048, 2048), 0.0, 0, "Ego Vehicle"),
    ],
)
def test_dataset_of_the_original_fills_in_what_the_weights_do_not_say(
    dataset, num_labels, size, threshold, first_thing, name, tmp_path
):
    source = write_original(tmp_path / "model.pth", original_weights("mini_r18", num_labels))
    folder = convert_checkpoint(source, tmp_path / "ours", dataset=dataset)
    config, processor = fields_of(folder), M2FImageProcessor.from_pretrained(folder)
    assert config["id2label"][str(num_labels - 1)] == name
    assert dict(processor.size) == {"shortest_edge": size[0], "longest_edge": size[1]}
    assert processor.panoptic_threshold == threshold
    things = config.get("thing_label_ids")
    assert (things[0] if things else None) == first_thing
    assert processor.thing_label_ids == things
    assert config["task"] == processor.task
    assert config[LICENSE_FIELD] == "cc-by-nc-4.0"


def test_large_swin_on_ade20k_semantic_has_the_larger_resolution(tmp_path):
    """Of the original's configurations those with `res640` in their names are Swin-B and Swin-L."""
    model = small_model("swin", num_labels=150, task="semantic", id2label=None)
    model.config.backbone_config.embed_dim = 16
    model.save_pretrained(tmp_path / "small")
    from m2f.hub.dataset_settings import dataset_settings

    for channels, edge in ((96, 512), (128, 640), (192, 640)):
        settings = dataset_settings(150, {"embed_dim": channels}, dataset="ade20k-semantic")
        assert settings.processor().size["shortest_edge"] == edge


def test_ambiguous_and_wrong_datasets_are_refused(tmp_path):
    source = write_original(tmp_path / "model.pth", original_weights("mini_r18", 19))
    with pytest.raises(ValueError, match="cityscapes-panoptic and cityscapes-semantic have; give --dataset"):
        convert_checkpoint(source, tmp_path / "ours")
    with pytest.raises(ValueError, match="coco-panoptic has 133 classes, but the checkpoint has 19"):
        convert_checkpoint(source, tmp_path / "ours", dataset="coco-panoptic")
    with pytest.raises(ValueError, match="--task instance contradicts the dataset cityscapes-panoptic"):
        convert_checkpoint(source, tmp_path / "ours", dataset="cityscapes-panoptic", task="instance")
    with pytest.raises(ValueError, match="does not say what it was trained for; give --task"):
        convert_checkpoint(source, tmp_path / "ours", dataset="none")
    assert [file.name for file in tmp_path.iterdir()] == ["model.pth"]
    convert_checkpoint(source, tmp_path / "ours", task="semantic")
    assert fields_of(tmp_path / "ours")["id2label"]["0"] == "road"


def test_named_classes_of_a_released_checkpoint_name_its_dataset(tmp_path):
    """transformers' copies ask for 384x384; names of the classes and of the folder tell what they were trained on."""
    theirs = transformers_model("resnet")
    folder = tmp_path / "mask2former-resnet-cityscapes-semantic"
    from m2f.hub.class_tables import class_names
    from m2f.hub.transformers_models import convert

    names = class_names("cityscapes-semantic")
    ours = convert(theirs)
    ours.config.id2label = names
    ours.class_predictor = torch.nn.Linear(32, 20)
    ours.criterion.empty_weight = torch.ones(20)
    ours.save_pretrained(folder)
    fields = fields_of(folder)
    for name in ("task", "thing_label_ids"):
        fields.pop(name, None)
    (folder / "config.json").write_text(json.dumps({**fields, "model_type": "mask2former"}))
    size = {"height": 384, "width": 384}
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "Mask2FormerImageProcessor", "size": size})
    )
    convert_checkpoint(folder, tmp_path / "ours")
    processor = M2FImageProcessor.from_pretrained(tmp_path / "ours")
    assert dict(processor.size) == {"shortest_edge": 1024, "longest_edge": 2048}
    assert (processor.task, processor.ignore_index) == ("semantic", 255)
