"""transformers' example scripts, as they are, on a few images: M2F_TRANSFORMERS_EXAMPLES names the folder
`examples/pytorch` of a checkout of transformers. `scripts/test_integrations.sh` installs what they import."""

import importlib.util
import json
import math
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from shapes_dataset import NAMES, SIZE, ShapesDataset, shapes_model, shapes_processor
from stock_models import transformers_model
from transformers import AutoModelForUniversalSegmentation, logging
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING

import m2f
from m2f.hub.remote_code import write_bundle

FOLDER = os.environ.get("M2F_TRANSFORMERS_EXAMPLES")
if FOLDER is None:
    reason = "M2F_TRANSFORMERS_EXAMPLES does not name examples/pytorch of a checkout of transformers"
    pytest.skip(reason, allow_module_level=True)
pytest.importorskip("albumentations")
mean_ap = pytest.importorskip("torchmetrics.detection.mean_ap")
datasets = pytest.importorskip("datasets")

CLASSES = {"background": 0} | {name: number for number, name in enumerate(NAMES, start=1)}
TRAINER = ["--do_train", "--do_eval", "--max_steps=1", "--use_cpu", "--report_to=none", "--disable_tqdm=True"]
SCRIPTS = {
    "run_instance_segmentation": TRAINER,
    "run_instance_segmentation_no_trainer": ["--max_train_steps=1", "--dataloader_num_workers=1"],
}


def script(name: str) -> ModuleType:
    """Imported, and not run."""
    (path,) = Path(FOLDER).glob(f"*-segmentation/{name}.py")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def annotation(segments) -> Image.Image:
    """Red: the class, where 0 is the background; green: the instance."""
    pixels = np.zeros((SIZE, SIZE, 3), np.uint8)
    for number, (mask, label) in enumerate(zip(segments.masks(), segments.class_ids, strict=True), start=1):
        pixels[mask == 1] = int(label) + 1, number, 0
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A folder as the Hub has it, whose masks keep their values."""
    folder = tmp_path_factory.mktemp("data")
    columns = {"image": datasets.Image(), "annotation": datasets.Image()}
    columns["semantic_class_to_id"] = {name: datasets.Value("int64") for name in CLASSES}
    for seed, split in enumerate(("train", "validation")):
        samples = [ShapesDataset(2, seed=seed)[index] for index in range(2)]
        images = [(sample.image, annotation(sample.segments)) for sample in samples]
        rows = [dict(zip(columns, (*pair, CLASSES), strict=True)) for pair in images]
        split_data = datasets.Dataset.from_list(rows, datasets.Features(columns))
        split_data.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return folder


@pytest.fixture(autouse=True)
def nothing_left(tmp_path, monkeypatch):
    """The scripts' caches are in the test's folder, and what they set for the whole process is as it was."""
    if importlib.util.find_spec("torchvision") is None:
        without_torchvision(monkeypatch)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    level = logging.get_verbosity()
    yield
    m2f.restore_mask2former()
    logging.reset_format()
    logging.set_verbosity(level)


def without_torchvision(monkeypatch):
    """torchmetrics imports it for boxes, which are not asked for; PyPI has none for a torch without CUDA."""
    boxes = ModuleType("torchvision.ops")
    boxes.box_convert = None
    monkeypatch.setitem(sys.modules, "torchvision.ops", boxes)
    monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
    monkeypatch.setattr(mean_ap, "_TORCHVISION_AVAILABLE", True)


def m2f_folder(folder: Path, monkeypatch) -> Path:
    shapes_model(num_labels=5, id2label=None, label2id=None).save_pretrained(folder)
    shapes_processor().save_pretrained(folder)
    return folder


def remote_code(folder: Path, monkeypatch) -> Path:
    """For a transformers to which m2f is unknown. The scripts pass no `trust_remote_code` on, so that transformers
    asks."""
    write_bundle(m2f_folder(folder, monkeypatch))
    modules = folder.with_name("modules")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(modules))
    monkeypatch.syspath_prepend(str(modules))
    for mapping in (CONFIG_MAPPING, IMAGE_PROCESSOR_MAPPING, MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING):
        monkeypatch.setattr(mapping, "_extra_content", {})
    monkeypatch.setattr("builtins.input", lambda question: "y")
    return folder


def stock_folder(folder: Path, monkeypatch) -> Path:
    transformers_model("swin").save_pretrained(folder)
    fields = {"image_processor_type": "Mask2FormerImageProcessor", "size": {"height": SIZE, "width": SIZE}}
    (folder / "preprocessor_config.json").write_text(json.dumps(fields))
    return folder


def replaced(folder: Path, monkeypatch) -> Path:
    m2f.replace_mask2former()
    return stock_folder(folder, monkeypatch)


def loaded_by(monkeypatch) -> list[torch.nn.Module]:
    """The models that come from files."""
    models = []
    load = AutoModelForUniversalSegmentation.from_pretrained
    keep = lambda *args, **fields: models.append(load(*args, **fields)) or models[-1]  # noqa: E731
    monkeypatch.setattr(AutoModelForUniversalSegmentation, "from_pretrained", keep)
    return models


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("start", [m2f_folder, remote_code, replaced])
def test_instance_scripts_train_measure_and_save(name, start, data, tmp_path, monkeypatch):
    folder = start(tmp_path / "start", monkeypatch)
    places = [f"--model_name_or_path={folder}", f"--dataset_name={data}", f"--output_dir={tmp_path / 'output'}"]
    sizes = [f"--image_height={SIZE}", f"--image_width={SIZE}", "--do_reduce_labels", "--seed=0"]
    batches = ["--per_device_train_batch_size=2", "--per_device_eval_batch_size=2"]
    monkeypatch.setattr(sys, "argv", [name, *places, *sizes, *batches, *SCRIPTS[name]])
    models = loaded_by(monkeypatch)
    script(name).main()
    (trained,) = models
    package = "transformers_modules" if start is remote_code else "m2f"
    assert type(trained).__module__.split(".")[0] == package
    results = json.loads((tmp_path / "output" / "all_results.json").read_text())
    assert {f"test_map_{name}" for name in NAMES} <= results.keys() and 0 <= results["test_map"] <= 1
    assert math.isfinite(results.get("train_loss", 1)) and "test_map_background" not in results
    before = AutoModelForUniversalSegmentation.from_pretrained(folder).state_dict()
    after = AutoModelForUniversalSegmentation.from_pretrained(tmp_path / "output")
    assert type(after).__module__.split(".")[0] == package and after.config.id2label == dict(enumerate(NAMES))
    values = after.state_dict()
    assert all(torch.equal(values[key], tensor) for key, tensor in trained.state_dict().items())
    (key,) = [key for key in values if key.endswith("queries_features.weight")]
    assert not torch.equal(before[key], values[key])


@pytest.mark.parametrize("name", ["run_semantic_segmentation", "run_semantic_segmentation_no_trainer"])
@pytest.mark.parametrize("start", [m2f_folder, stock_folder])
def test_semantic_scripts_refuse_as_they_do_transformers_own(name, start, data, tmp_path, monkeypatch):
    """docs/integrations.md says what to use."""
    folder = start(tmp_path / "start", monkeypatch)
    (tmp_path / "id2label.json").write_text(json.dumps(dict(enumerate(CLASSES))))
    module = script(name)
    monkeypatch.setattr(module, "hf_hub_download", lambda *args, **fields: str(tmp_path / "id2label.json"))
    monkeypatch.setattr(module, "evaluate", SimpleNamespace(load=lambda *args, **fields: None))
    places = [f"--model_name_or_path={folder}", f"--dataset_name={data}", f"--output_dir={tmp_path / 'output'}"]
    monkeypatch.setattr(sys, "argv", [name, *places, "--do_reduce_labels"])
    with pytest.raises(ValueError, match="AutoModelForSemanticSegmentation") as raised:
        module.main()
    assert "Unrecognized configuration class" in str(raised.value) and "Config'>" in str(raised.value)
