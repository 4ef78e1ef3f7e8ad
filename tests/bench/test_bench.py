"""`m2f bench`: what it compares has the same weights, what it counts is right, what it writes is whole."""

import json

import pytest
import torch
from torch import nn

from m2f.bench.compared_models import BACKBONES, forms_for, make_form
from m2f.bench.inference_stages import STAGES, make_outputs, make_processor, stage_work
from m2f.bench.matrix_rate import matrix_operations, matrix_product
from m2f.bench.paired_timing import paired_seconds, ratios
from m2f.cli import main


@pytest.fixture(scope="module")
def forms():
    return {name: make_form(name, "swin-tiny", torch.float32, "cpu") for name in ("ours", "transformers")}


def test_forms_have_the_same_weights(forms):
    pixels = torch.randn(1, 3, 64, 64)
    ours, theirs = (form(pixels) for form in forms.values())
    torch.testing.assert_close(ours.class_queries_logits, theirs.class_queries_logits, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(ours.masks_queries_logits, theirs.masks_queries_logits, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_runs_in_both_forms(forms, stage):
    for name, form in forms.items():
        assert stage_work(stage, form, name == "ours", (64, 96), 2, "cpu")() is not None


@pytest.mark.parametrize("backbone", ["dinov2-small", "dinov3-small"])
def test_a_vision_transformer_is_timed_alone_with_its_resizing_and_its_pyramid(backbone, monkeypatch, capsys):
    """Its maps are those inside the network; without resizing for patches of 14 it would refuse the input."""
    kind, fields, queries = BACKBONES[backbone]
    narrow = {**fields, "hidden_size": 24, "num_hidden_layers": 2}
    monkeypatch.setitem(BACKBONES, backbone, (kind, narrow, queries))
    form = make_form("ours", backbone, torch.float32, "cpu")
    torch.manual_seed(5)
    maps = stage_work("backbone", form, True, (64, 96), 1, "cpu")()
    torch.manual_seed(5)
    inside = form.model(torch.randn(1, 3, 64, 96), output_hidden_states=True).encoder_hidden_states
    assert [tuple(x.shape[2:]) for x in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    assert all(torch.equal(*pair) for pair in zip(maps, inside, strict=True))
    assert forms_for(backbone, torch.float32, "cpu") == ["ours"]
    assert main(["bench", "--backbone", backbone, "--form", "transformers", "--dry-run"]) == 2
    assert f"there is no 'transformers' with {backbone}" in capsys.readouterr().err


def test_parts_are_the_network(forms):
    """The decoder, called alone with the arguments that it gets inside, gives what it gives inside."""
    form = forms["ours"]
    torch.manual_seed(5)
    alone = stage_work("decoder", form, True, (64, 64), 1, "cpu")()
    torch.manual_seed(5)
    inside = form(torch.randn(1, 3, 64, 64)).transformer_decoder_last_hidden_state
    torch.testing.assert_close(alone.last_hidden_state, inside)


def test_made_outputs_are_segments():
    outputs = make_outputs((64, 96), 1, 20, 133, "cpu")
    result = make_processor(True).post_process_panoptic_segmentation(outputs, target_sizes=[(64, 96)])[0]
    assert 3 < len(result["segments_info"]) <= 20


@pytest.mark.parametrize("kernels", ["auto", "reference"])
def test_operations_are_counted_in_every_form_of_a_product(kernels, monkeypatch):
    monkeypatch.setenv("M2F_KERNELS", kernels)
    conv, fc = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 4)
    x = torch.randn(2, 3, 5, 7)
    with torch.no_grad():
        counted = matrix_operations(lambda: fc(conv(x).permute(0, 2, 3, 1)))
    assert counted == 2 * (2 * 5 * 7) * (8 * 3 * 9 + 8 * 4)


def test_own_operators_count_as_torchs(forms, monkeypatch):
    """For a map of whole windows both layers do the same products."""
    work = stage_work("backbone", forms["ours"], True, (224, 224), 1, "cpu")
    found = matrix_operations(work)
    monkeypatch.setenv("M2F_KERNELS", "reference")
    assert found == matrix_operations(work)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_product_that_is_timed_has_the_operations_it_says(dtype, monkeypatch):
    monkeypatch.setattr("m2f.bench.matrix_rate.EDGE", 64)
    assert matrix_operations(matrix_product(dtype, "cpu")) == 2 * 64**3


def test_ratios_are_of_neighbours():
    found = ratios({"a": [1.0, 2.0, 4.0], "b": [2.0, 2.0, 2.0]}, "b")
    assert found["a"] == {"min": 0.5, "median": 1.0, "max": 2.0}
    calls = []
    seconds = paired_seconds({name: lambda name=name: calls.append(name) for name in "ab"}, 3)
    assert "".join(calls) == "ab" + "ababab" and [len(values) for values in seconds.values()] == [3, 3]


def test_command_writes_numbers_and_a_plot(tmp_path, capsys):
    out = tmp_path / "speed.json"
    command = [
        "bench",
        "--size",
        "64x64",
        "--dtype",
        "float32",
        "--stage",
        "model",
        "post-processing",
        "--form",
        "ours",
        "transformers",
    ]
    assert main([*command, "--repetitions", "2", "--threads", "1", "--out", str(out)]) == 0
    results = json.loads(out.read_text())
    assert [row["stage"] for row in results["rows"]] == ["model", "post-processing"]
    model = results["rows"][0]["forms"]["ours"]
    assert set(model) == {"seconds", "times_faster", "operations", "share_of_roofline", "peak_bytes", "difference"}
    assert 1e6 < model["peak_bytes"] < 1e9
    assert out.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"
    assert "swin-tiny 64x64 batch 1 float32: model" in capsys.readouterr().out


def test_a_wrong_size_is_named(capsys):
    with pytest.raises(SystemExit):
        main(["bench", "--size", "640"])
    assert "'640' is no size; write height x width" in capsys.readouterr().err
