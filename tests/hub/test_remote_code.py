"""The bundle of remote code: its files, and what new processes without an installed m2f make of it."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from backbone_cases import backbone_fields
from compiler_there import needs_compiler
from computed_values import computed_values
from PIL import Image
from small_models import small_config, small_model
from transformers.dynamic_module_utils import get_imports, get_relative_imports

from m2f.configuration.configuration_m2f import M2FConfig
from m2f.hub.remote_code import AUTO_MAPS, bundle_files, write_bundle
from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.modeling_m2f.kernels.kernel_sources import CSRC, read_source
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation

ROOT = Path(__file__).resolve().parents[2]
PROCESS = Path(__file__).with_name("remote_code_process.py")


@pytest.fixture(scope="module")
def files() -> dict[str, str]:
    return bundle_files()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return saved_bundle(tmp_path_factory.mktemp("hub") / "bundle")


def saved_bundle(folder: Path, **fields) -> Path:
    names = {i: f"class {i}" for i in range(5)}
    small_model("swin", id2label=names, thing_label_ids=[0, 2], **fields).save_pretrained(folder)
    size = {"shortest_edge": 64, "longest_edge": 128}
    M2FImageProcessor(size=size, thing_label_ids=[0, 2], tile=64, tile_overlap=16).save_pretrained(folder)
    write_bundle(folder)
    return folder


def load_in_a_new_process(source: str | Path, output: Path, mode: str = "without", **environment: str) -> dict:
    """The record of remote_code_process.py; offline, with an empty cache of modules unless told otherwise."""
    output.mkdir(exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 255, (70, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(output / "image.png")
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    variables |= {"HF_MODULES_CACHE": str(output / "modules"), "HF_HUB_OFFLINE": "1", "HF_HOME": str(output / "home")}
    if mode in ("with", "with training"):
        variables["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, str(PROCESS), str(source), str(output), mode]
    run = subprocess.run(
        command, capture_output=True, text=True, env=variables | environment, cwd=output, timeout=1200, check=False
    )
    assert run.returncode == 0, run.stderr[-4000:]
    return json.loads((output / "record.json").read_text())


def installed_values(folder: Path, image: Path) -> dict[str, torch.Tensor]:
    model = M2FForUniversalSegmentation.from_pretrained(folder)
    processor = M2FImageProcessor.from_pretrained(folder)
    return computed_values(model, processor, Image.open(image), training=False)


def check_values(output: Path, expected: dict[str, torch.Tensor]):
    """Equal bit by bit."""
    actual = torch.load(output / "values.pt", weights_only=True)
    assert actual.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(actual[name], expected[name])] == []


def test_every_import_is_followed_by_the_loader_of_transformers(files, tmp_path):
    """Its scanner works on the text; it must see the imports that Python sees, and no others."""
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom) and node.level]
        assert all(node.level == 1 and f"{node.module}.py" in files for node in nodes), name
        assert set(get_relative_imports(tmp_path / name)) == {node.module for node in nodes}, name
        assert "m2f." not in "".join(
            line for line in text.splitlines() if line.lstrip().startswith(("from ", "import "))
        )


def test_only_packages_that_transformers_and_torch_bring_are_asked_for(files, tmp_path):
    asked = set()
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        asked |= set(get_imports(tmp_path / name))
    # Pillow: image processors of transformers need it too.
    assert asked - sys.stdlib_module_names <= {"torch", "transformers", "numpy", "safetensors", "PIL"}
    assert "    from scipy.optimize import linear_sum_assignment" in files["matcher.py"]


def test_bundle_has_what_the_three_entries_reach_and_no_more(files):
    assert {"configuration_m2f.py", "modeling_m2f.py", "image_processing_m2f.py", "criterion.py"} <= set(files)
    assert not {"remote_code.py", "auto.py", "cli.py", "kernel_report.py", "__init__.py"} & set(files)


def test_kernel_sources_are_embedded_without_a_change(files):
    namespace: dict = {}
    exec(files["kernel_sources.py"], namespace)
    names = [file.name for file in CSRC.iterdir() if file.suffix in (".cpp", ".cu")]
    assert len(names) >= 2
    for name in names:
        assert namespace["read_source"](name) == read_source(name)


@pytest.mark.parametrize("text", ['a\\n\\\nb """ \\"""', 'ends in "', "ends in \\", "", "'\t\u00e9\n"])
def test_any_source_can_be_embedded(text, monkeypatch):
    monkeypatch.setattr("m2f.hub.remote_code.read_source", lambda name: text)
    namespace: dict = {}
    exec(bundle_files()["kernel_sources.py"], namespace)
    assert set(namespace["SOURCES"].values()) == {text}


def test_folder_is_loaded_where_m2f_cannot_be_imported_with_equal_bits(bundle, tmp_path):
    first = load_in_a_new_process(bundle, tmp_path / "first")
    assert not first["m2f"] and first["kernel"]
    assert all(module.startswith("transformers_modules.") for module in first["classes"])
    expected = installed_values(bundle, tmp_path / "first" / "image.png")
    check_values(tmp_path / "first", expected)

    saved = tmp_path / "first" / "saved"
    assert {file.name for file in saved.glob("*.py")} == set(bundle_files())
    for name, auto_map in AUTO_MAPS.items():
        assert json.loads((saved / name).read_text())["auto_map"] == auto_map
    fields = json.loads((saved / "preprocessor_config.json").read_text())
    assert (fields["tile"], fields["tile_overlap"]) == (64, 16)  # which transformers' pipeline leaves alone
    second = load_in_a_new_process(saved, tmp_path / "second")
    assert second["segments"] == first["segments"]
    check_values(tmp_path / "second", expected)


@pytest.mark.parametrize("kernels", [pytest.param("compiled", marks=needs_compiler), "no compiler", "reference"])
def test_every_kernel_comes_from_the_embedded_source_and_computes_the_same_bits(kernels, bundle, tmp_path):
    """`kernels`: compiled anew, into an empty cache; PyTorch's forms, because nothing compiles; and because they are
    asked for, of a plain Vision Transformer. The expected values, and the sources that are compiled, are the installed
    package's."""
    choices = {"compiled": {"M2F_KERNELS": "compiled"}, "reference": {"M2F_KERNELS": "reference"}}
    environment = choices.get(kernels, {"CXX": "no-such-compiler"})
    if kernels == "reference":
        bundle = saved_bundle(tmp_path / "bundle", backbone_config=backbone_fields("dinov2"))
    records = {}
    for mode in ("training", "with training"):
        cache = tmp_path / mode / "cache"
        records[mode] = load_in_a_new_process(bundle, tmp_path / mode, mode, **environment, M2F_CACHE=str(cache))
        assert any(cache.glob("*.so")) == (kernels == "compiled")
    assert [record["m2f"] for record in records.values()] == [False, True]
    compiled = [record["compiled"] for record in records.values()]
    assert compiled[0] == compiled[1] and bool(compiled[0]) == (kernels == "compiled")
    expected = torch.load(tmp_path / "with training" / "values.pt", weights_only=True)
    assert expected["gradients"].abs().sum() > 0
    check_values(tmp_path / "training", expected)


def test_installed_package_wins_and_saves_no_dangling_auto_map(bundle, tmp_path):
    record = load_in_a_new_process(bundle, tmp_path / "with", "with")
    assert all(module.startswith("m2f.") for module in record["classes"])
    saved = tmp_path / "with" / "saved"
    assert not list(saved.glob("*.py"))
    for name in AUTO_MAPS:
        assert "auto_map" not in json.loads((saved / name).read_text())
    check_values(tmp_path / "with", installed_values(saved, tmp_path / "with" / "image.png"))


def test_remote_code_and_installed_package_share_a_process(bundle, tmp_path):
    """Both orders of loading; the operator is defined once, and both compute the same."""
    code = """
import sys, torch
sys.path.insert(0, sys.argv[2])
define, defined = torch.library.custom_op, []
torch.library.custom_op = lambda name, *args, **settings: defined.append(name) or define(name, *args, **settings)
from transformers.dynamic_module_utils import get_class_from_dynamic_module as remote_class
def theirs():
    return remote_class("modeling_m2f.M2FForUniversalSegmentation", sys.argv[1]).from_pretrained(sys.argv[1]).eval()
def ours():
    from m2f import M2FForUniversalSegmentation
    return M2FForUniversalSegmentation.from_pretrained(sys.argv[1]).eval()
models = [load() for load in ((theirs, ours) if sys.argv[3] == "remote" else (ours, theirs))]
pixels = torch.randn(1, 3, 64, 96)
with torch.no_grad():
    logits = [model(pixels).masks_queries_logits for model in (*models, models[0])]
assert type(models[0]) is not type(models[1])
assert all(torch.equal(x, logits[0]) for x in logits)
labels = dict(mask_labels=[torch.ones(1, 64, 96)], class_labels=[torch.zeros(1, dtype=torch.long)])
for model in models:
    model(pixels, **labels).loss.backward()
assert defined and len(defined) == len(set(defined)), defined
"""
    for order in ("remote", "installed"):
        variables = dict(os.environ, HF_MODULES_CACHE=str(tmp_path / order), HF_HUB_OFFLINE="1")
        command = [sys.executable, "-c", code, str(bundle), str(ROOT), order]
        run = subprocess.run(command, capture_output=True, text=True, env=variables, cwd=tmp_path, check=False)
        assert run.returncode == 0, run.stderr[-4000:]


def test_auto_map_of_saved_configuration_names_present_files_only(tmp_path):
    config = small_config()
    config.auto_map = {"AutoConfig": "a/b--configuration_m2f.M2FConfig", "AutoModel": "modeling_m2f.M2FModel"}
    (tmp_path / "configuration_m2f.py").touch()
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["auto_map"] == {
        "AutoConfig": "configuration_m2f.M2FConfig"
    }
    config.save_pretrained(tmp_path / "empty")
    assert "auto_map" not in json.loads((tmp_path / "empty" / "config.json").read_text())
    assert len(config.auto_map) == 2  # the object is as it was


def test_bundle_is_for_saved_m2f_models_only(tmp_path):
    with pytest.raises(FileNotFoundError, match="no config.json"):
        write_bundle(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "mask2former"}')
    with pytest.raises(ValueError, match="model_type 'mask2former'"):
        write_bundle(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["config.json"]
    assert M2FConfig.model_type == "m2f"
