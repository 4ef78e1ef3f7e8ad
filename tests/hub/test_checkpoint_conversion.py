"""`m2f convert`, in all its directions. Logits are the golden files' of the original."""

import json
import logging
import pickle

import numpy as np
import pytest
import torch
from golden_models import golden_pixels, load_golden, original_state_dict
from small_models import small_model
from stock_models import transformers_model
from transformers import AutoModelForUniversalSegmentation, Mask2FormerForUniversalSegmentation
from transformers.models.auto.image_processing_auto import AutoImageProcessor

import m2f
from m2f.cli import main
from m2f.configuration.configuration_m2f import LICENSE_FIELD
from m2f.hub.checkpoint_conversion import convert_checkpoint
from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation

CLASSES = "sem_seg_head.predictor.class_embed"


def original_weights(name: str, num_labels: int | None = None) -> dict[str, torch.Tensor]:
    shapes = dict(load_golden(name)[1]["state_dict"])
    if num_labels is not None:
        shapes[f"{CLASSES}.weight"][0] = shapes[f"{CLASSES}.bias"][0] = num_labels + 1
    return original_state_dict(shapes)


def write_original(path, weights: dict[str, torch.Tensor]):
    if path.suffix == ".pkl":
        arrays = {name: value.numpy() for name, value in weights.items()}
        path.write_bytes(pickle.dumps({"model": arrays, "__author__": "someone"}))
    else:
        torch.save({"model": weights, "iteration": 3}, path)
    return path


def fields_of(folder, name: str = "config.json") -> dict:
    return json.loads((folder / name).read_text())


@pytest.fixture
def warnings_of_transformers(caplog):
    logging.getLogger("transformers").addHandler(caplog.handler)
    yield lambda: [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    logging.getLogger("transformers").removeHandler(caplog.handler)


@torch.no_grad()
@pytest.mark.parametrize(("name", "ending"), [("mini_swin", ".pkl"), ("mini_r18", ".pth")])
def test_golden_logits_survive_conversion_to_us_and_on_to_transformers(
    name, ending, tmp_path, warnings_of_transformers
):
    golden, meta = load_golden(name)
    source = write_original(tmp_path / f"model_final{ending}", original_weights(name))
    assert main(["convert", str(source), str(tmp_path / "ours"), "--task", "semantic"]) == 0
    assert main(["convert", str(tmp_path / "ours"), str(tmp_path / "theirs")]) == 0
    ours = M2FForUniversalSegmentation.from_pretrained(tmp_path / "ours").eval()
    theirs = AutoModelForUniversalSegmentation.from_pretrained(tmp_path / "theirs").eval()
    assert type(theirs) is Mask2FormerForUniversalSegmentation
    # transformers vouches for Swin alone in this model; of the weights nothing is said.
    assert [message for message in warnings_of_transformers() if not message.startswith("Backbone resnet")] == []
    for model in (ours, theirs):
        outputs = model(golden_pixels(golden, meta))
        for key, logits in (
            ("pred_logits", outputs.class_queries_logits),
            ("pred_masks", outputs.masks_queries_logits),
        ):
            np.testing.assert_allclose(logits[0].numpy(), golden[key], atol=1e-4, rtol=0)


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


def test_video_weights_are_refused(tmp_path):
    source = write_original(tmp_path / "model.pth", original_weights("mini_r18", 40))
    with pytest.raises(ValueError, match="video models .*segment clips"):
        convert_checkpoint(source, tmp_path / "ours")
    convert_checkpoint(source, tmp_path / "ours", dataset="none", task="instance")


class Attack:
    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        import os

        return os.system, (f"touch {self.target}",)


def test_malicious_pickle_is_refused_without_running(tmp_path, capsys):
    (tmp_path / "model.pkl").write_bytes(pickle.dumps({"model": Attack(tmp_path / "written")}))
    assert main(["convert", str(tmp_path / "model.pkl"), str(tmp_path / "ours")]) == 2
    assert "only NumPy arrays are admitted" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["model.pkl"]
    pickle.loads((tmp_path / "model.pkl").read_bytes())  # the attack is one
    assert (tmp_path / "written").exists()


def test_other_architectures_are_refused_with_their_names(tmp_path):
    source = write_original(tmp_path / "model.pth", {"backbone.fpn.weight": torch.ones(2), "head.b": torch.ones(1)})
    with pytest.raises(ValueError, match="2 of 2 names are not of the original .*: backbone.fpn.weight, head.b"):
        convert_checkpoint(source, tmp_path / "ours")
    weights = original_weights("mini_r18")
    missing = [name for name in weights if "transformer_ffn_layers.2.linear1" in name]
    source = write_original(tmp_path / "cut.pth", {k: v for k, v in weights.items() if k not in missing})
    with pytest.raises(ValueError, match="layers.2.fc1.weight"):
        convert_checkpoint(source, tmp_path / "ours", task="semantic")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "detr", "architectures": ["DetrForX"]}')
    with pytest.raises(ValueError, match=r"model_type 'detr' \(DetrForX\)"):
        convert_checkpoint(tmp_path / "other", tmp_path / "ours")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no config.json"):
        convert_checkpoint(tmp_path / "empty", tmp_path / "ours")
    with pytest.raises(FileExistsError, match="not an empty folder"):
        convert_checkpoint(source, tmp_path / "other")
    assert not (tmp_path / "ours").exists()


def test_transformers_checkpoint_becomes_ours_and_returns_with_every_weight(tmp_path):
    theirs = transformers_model("swin")
    theirs.config.id2label = {i: f"thing {i}" for i in range(5)}
    theirs.save_pretrained(tmp_path / "theirs")
    processor = {"image_processor_type": "Mask2FormerImageProcessor", "size": {"height": 64, "width": 96}}
    (tmp_path / "theirs" / "preprocessor_config.json").write_text(json.dumps(processor))
    with pytest.raises(ValueError, match="give --task"):
        convert_checkpoint(tmp_path / "theirs", tmp_path / "ours")
    convert_checkpoint(tmp_path / "theirs", tmp_path / "ours", task="instance")
    assert (fields_of(tmp_path / "ours")["task"], fields_of(tmp_path / "ours")["model_type"]) == ("instance", "m2f")
    assert dict(M2FImageProcessor.from_pretrained(tmp_path / "ours").size) == {"height": 64, "width": 96}
    convert_checkpoint(tmp_path / "ours", tmp_path / "back")
    back, report = Mask2FormerForUniversalSegmentation.from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    state = theirs.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in back.state_dict().items())
    convert_checkpoint(tmp_path / "back", tmp_path / "again")
    for name in ("config.json", "preprocessor_config.json"):
        assert fields_of(tmp_path / "again", name) == fields_of(tmp_path / "ours", name)


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


def test_stock_processor_of_transformers_loads(tmp_path):
    small_model("swin").save_pretrained(tmp_path / "ours")
    size = {"shortest_edge": 64, "longest_edge": 96}
    M2FImageProcessor(size=size, tile=64, tile_overlap=16).save_pretrained(tmp_path / "ours")
    convert_checkpoint(tmp_path / "ours", tmp_path / "theirs")
    assert not {"tile", "tile_overlap"} & set(fields_of(tmp_path / "theirs", "preprocessor_config.json"))
    processor = AutoImageProcessor.from_pretrained(tmp_path / "theirs")
    assert type(processor).__name__.startswith("Mask2FormerImageProcessor")
    inputs = processor(images=np.zeros((80, 100, 3), np.uint8), return_tensors="pt")
    assert inputs["pixel_values"].shape[-2:] == (64, 96)


def test_copies_of_the_published_weights_on_the_hub_keep_their_licence_however_they_are_loaded(tmp_path, monkeypatch):
    """A folder of the same relative path stands for the repository."""
    monkeypatch.chdir(tmp_path)
    name = "facebook/mask2former-swin-tiny-coco-instance"
    transformers_model("resnet").save_pretrained(name)
    (tmp_path / name / "preprocessor_config.json").write_text('{"image_processor_type": "Mask2FormerImageProcessor"}')
    m2f.replace_mask2former()
    loaded = AutoModelForUniversalSegmentation.from_pretrained(name)
    m2f.restore_mask2former()
    stock = AutoModelForUniversalSegmentation.from_pretrained(name)
    assert type(loaded) is M2FForUniversalSegmentation and type(stock) is Mask2FormerForUniversalSegmentation
    convert_checkpoint(name, tmp_path / "converted", dataset="none")
    M2FForUniversalSegmentation.from_pretrained(name).save_pretrained(tmp_path / "direct")
    loaded.save_pretrained(tmp_path / "auto")
    m2f.convert(stock).save_pretrained(tmp_path / "in memory")
    for folder in ("converted", "direct", "auto", "in memory"):
        assert fields_of(tmp_path / folder)[LICENSE_FIELD] == "cc-by-nc-4.0", folder
    transformers_model("resnet").save_pretrained("user/mask2former")
    M2FForUniversalSegmentation.from_pretrained("user/mask2former").save_pretrained(tmp_path / "own")
    assert LICENSE_FIELD not in fields_of(tmp_path / "own")


def test_licence_of_the_published_weights_stays_unless_they_are_ones_own(tmp_path):
    source = write_original(tmp_path / "model.pth", original_weights("mini_r18"))
    convert_checkpoint(source, tmp_path / "ours", task="semantic")
    convert_checkpoint(tmp_path / "ours", tmp_path / "theirs")
    convert_checkpoint(tmp_path / "theirs", tmp_path / "again")
    M2FForUniversalSegmentation.from_pretrained(tmp_path / "again").save_pretrained(tmp_path / "fine-tuned")
    for name in ("ours", "theirs", "again", "fine-tuned"):
        assert fields_of(tmp_path / name)[LICENSE_FIELD] == "cc-by-nc-4.0"
    convert_checkpoint(source, tmp_path / "own", task="semantic", own_weights=True)
    assert LICENSE_FIELD not in fields_of(tmp_path / "own")
