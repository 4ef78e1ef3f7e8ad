"""Forms of `m2f bench` in other libraries: they compute what transformers' model computes, or say why they cannot run.

Where the packages of the extra `bench` are not installed, a stand-in that runs the network itself takes the library's
place.
"""

import json
import os
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import pytest
import torch
from small_models import SMALL, small_config
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

from m2f.bench.compared_models import BACKBONES, THEIRS, Form, check_form, forms_for
from m2f.bench.exported_peers import _LOADERS, ExportedModel, missing_packages
from m2f.bench.output_difference import TOLERANCE, output_differences
from m2f.cli import main

NAMES = {library: f"{THEIRS}, {library}" for library in _LOADERS}


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    config = Mask2FormerConfig(**{**SMALL, "backbone_config": small_config("swin").backbone_config})
    return Mask2FormerForUniversalSegmentation(config).eval().requires_grad_(False)


_LONG = pytest.mark.skipif("M2F_LONG_TESTS" not in os.environ, reason="takes minutes; M2F_LONG_TESTS=1 runs it")


@pytest.mark.parametrize("library", [pytest.param(x, marks=_LONG) if x == "onnxruntime" else x for x in _LOADERS])
def test_a_library_computes_what_transformers_model_does(library, network):
    if missing := missing_packages(library):
        pytest.skip(f"needs {' and '.join(missing)}, of the extra bench")
    exported = ExportedModel(network, library)
    for shape in ((1, 3, 64, 96), (2, 3, 64, 64)):
        (shares,) = output_differences({library: exported}, network, torch.randn(shape)).values()
        assert max(shares.values()) < 1e-4, shares  # rounding of float32; bfloat16 would differ by 1e-2


@pytest.fixture
def loaded(monkeypatch) -> list[torch.Size]:
    """Shapes for which a stand-in for OpenVINO was loaded; the backbone is a small one."""
    module = ModuleType("openvino")
    module.__spec__, module.__version__ = ModuleSpec("openvino", None), "3.2.1"
    shapes = []

    def load(network, pixel_values):
        shapes.append(pixel_values.shape)
        return lambda pixels: [logits.numpy() for logits in network(torch.from_numpy(pixels))]

    monkeypatch.setitem(sys.modules, "openvino", module)
    monkeypatch.setitem(_LOADERS, "openvino", load)
    fields = {"embed_dim": 24, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 3, 4]}
    monkeypatch.setitem(BACKBONES, "swin-tiny", (SwinConfig, fields, 10))
    return shapes


def bench(*words: str, form: tuple[str, ...], dtype: str = "float32", size: str = "64x64") -> int:
    options = ["--size", size, "--dtype", dtype, "--repetitions", "1", "--threads", "1", "--device", "cpu"]
    return main(["bench", *options, "--form", *form, *words])


def test_it_is_compared_and_timed_beside_the_others(loaded, tmp_path, capsys):
    out = tmp_path / "speed.json"
    words = ["--stage", "model", "end to end", "backbone", "--no-memory", "--out", str(out)]
    names = {"ours", "ours, torch-export", THEIRS, NAMES["openvino"]}
    assert bench(*words, form=tuple(names)) == 0
    results = json.loads(out.read_text())
    whole, way, part = (row["forms"] for row in results["rows"])
    assert set(whole) == set(way) == names and set(part) == {"ours", THEIRS}
    assert 0 < whole["ours, torch-export"]["difference"]["mask"] < 1e-4
    assert whole[NAMES["openvino"]]["difference"] == {"class": 0.0, "mask": 0.0}
    assert 0 < whole["ours"]["difference"]["mask"] < 1e-4 and "difference" not in whole[THEIRS]
    assert whole[NAMES["openvino"]]["times_faster"]["median"] > 0
    assert loaded == [(1, 3, 64, 64)]
    assert results["machine"]["openvino"] == "3.2.1" and results["machine"]["instructions"]
    assert "openvino 3.2.1" in capsys.readouterr().out


def test_memory_is_that_of_the_shape(loaded, capsys):
    assert bench("--peak-of", NAMES["openvino"], form=("ours",), size="64x96") == 0
    assert loaded == [(1, 3, 64, 96)] and int(capsys.readouterr().out) > 0


@pytest.mark.parametrize(
    ("library", "hidden"), [("openvino", ["openvino"]), ("onnxruntime", ["onnxruntime", "onnx", "onnxscript"])]
)
def test_what_is_missing_is_named(library, hidden, monkeypatch, capsys):
    for package in hidden:
        monkeypatch.setitem(sys.modules, package, None)
    assert bench("--dry-run", form=(NAMES[library],)) == 2
    packages = " and ".join(hidden)
    line = f"m2f bench: error: '{NAMES[library]}' needs {packages}, not installed here: pip install \"m2f[bench]\"\n"
    assert capsys.readouterr().err == line
    assert NAMES[library] not in forms_for("swin-tiny", torch.float32, "cpu")


def test_default_forms(monkeypatch):
    monkeypatch.setattr("m2f.bench.compared_models.missing_packages", lambda library: [])
    assert forms_for("swin-tiny", torch.float32, "cpu") == ["ours", THEIRS, *NAMES.values()]
    assert forms_for("swin-tiny", torch.float32, "cuda") == ["ours", THEIRS]
    assert forms_for("swin-tiny", torch.bfloat16, "cpu") == ["ours", "ours, autocast", THEIRS, f"{THEIRS}, cast"]


def test_other_types_and_devices_are_refused(loaded, capsys):
    assert bench(form=("ours", NAMES["openvino"]), dtype="bfloat16") == 2
    line = (
        "'transformers, openvino' runs in float32 on a CPU, not in bfloat16 on cpu: use --dtype float32 --device cpu"
    )
    assert capsys.readouterr().err == f"m2f bench: error: {line}\n"
    with pytest.raises(ValueError, match="not in float32 on cuda"):
        check_form(NAMES["openvino"], "swin-tiny", torch.float32, "cuda")
    check_form(NAMES["openvino"], "swin-tiny", torch.float32, "cpu")
    check_form(f"{THEIRS}, compiled", "swin-tiny", torch.bfloat16, "cuda")


def outputs(factor: float, mask_factor: float = 1.0):
    """A form whose logits are so many times -1, 0, 1, ..."""
    logits = torch.arange(-1.0, 5.0).view(1, 2, 3)
    found = {"class_queries_logits": factor * logits, "masks_queries_logits": mask_factor * logits[..., None]}
    return lambda pixel_values: SimpleNamespace(**found)


def test_differences_are_shares_of_the_largest_logit():
    found = output_differences({"a": outputs(1 + TOLERANCE / 2)}, outputs(1), torch.zeros(1))
    assert found["a"] == {"class": pytest.approx(TOLERANCE / 2, rel=1e-4), "mask": 0.0}
    for wrong, kind in ((outputs(1 + 2 * TOLERANCE), "class"), (outputs(1, float("nan")), "mask")):
        with pytest.raises(ValueError, match=f"the {kind} logits of 'b' differ"):
            output_differences({"a": outputs(1), "b": wrong}, outputs(1), torch.zeros(1))


def test_nothing_is_timed_where_outputs_differ(monkeypatch, capsys):
    forms = {THEIRS: outputs(1), "ours": outputs(1, 1.5)}
    make = lambda name, *settings: Form(forms[name], None, torch.float32)  # noqa: E731
    monkeypatch.setattr("m2f.commands.bench.make_form", make)
    monkeypatch.setattr("m2f.commands.bench.paired_seconds", lambda *works: pytest.fail("timed"))
    assert bench("--stage", "model", form=("ours",)) == 2
    line = "the mask logits of 'ours' differ from the reference's by 5.0e-01 of the largest, and 0.01 is allowed"
    assert line in capsys.readouterr().err
