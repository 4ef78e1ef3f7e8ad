"""`m2f export`, with torch's own format, which needs no other package; other formats in tests/exported."""

import json
import os

import numpy as np
import pytest
from PIL import Image
from small_models import BACKBONES, small_model

from m2f.cli import main
from m2f.exported.exported_network import ExportedNetwork
from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.inference.model_loading import load_model
from m2f.inference.segmenter import Segmenter

_LONG = pytest.mark.skipif("M2F_LONG_TESTS" not in os.environ, reason="exports again; M2F_LONG_TESTS=1 runs it")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint, pictures, and the graph that was exported of it for 64 x 96 and two images at a time."""
    folder = tmp_path_factory.mktemp("export")
    small_model("resnet", task="panoptic", thing_label_ids=[0, 1]).save_pretrained(folder / "checkpoint")
    M2FImageProcessor(
        size={"longest_edge": 96}, task="panoptic", thing_label_ids=[0, 1], panoptic_threshold=0.1
    ).save_pretrained(folder / "checkpoint")
    (folder / "pictures").mkdir()
    generator = np.random.default_rng(0)
    for name, size in (("a.png", (12, 20)), ("b.png", (20, 9)), ("c.png", (16, 24))):
        image = Image.fromarray(generator.integers(0, 255, (*size, 3), dtype=np.uint8))
        image.resize((size[1] * 5, size[0] * 5)).save(folder / "pictures" / name)
    assert export(folder, "model.pt2", "--size", "64x96", "--batch", "2") == 0
    return folder


def export(folder, target, *options):
    arguments = ["export", str(folder / "checkpoint"), str(folder / target), "--format", "torch-export"]
    return main([*arguments, "--check", str(folder / "pictures"), *options])


def test_a_graph_is_run_by_the_same_commands(folder, capsys):
    images = [str(path) for path in sorted((folder / "pictures").iterdir())]
    graph = Segmenter.from_pretrained(folder / "model.pt2")
    model, _ = load_model(folder / "checkpoint")
    wanted = Segmenter(model, graph.processor)(images)  # three images, of a graph for two
    for found, result in zip(graph(images), wanted, strict=True):
        assert (found.id_map == result.id_map).mean() > 0.999
        assert [x.label for x in found.segments] == [x.label for x in result.segments]
    assert main(["predict", images[0], "--checkpoint", str(folder / "model.pt2"), "--out", str(folder / "out")]) == 0
    assert (folder / "out" / "objects.csv").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "64x96"], "model.pt2 exists; choose another name, or give --overwrite"),
        (["--size", "64x90", "--overwrite"], "multiples of 32"),
        (["--size", "64", "--overwrite"], "no size such as 640x640"),
        (["--batch", "0", "--overwrite"], "whole number from 1 on"),
        (["--format", "onnx"], "ends with .pt2, and graphs of onnx end with .onnx"),
        (["--check", "/nowhere", "--overwrite"], "is no image and no folder with images"),
        (["--compress", "int8", "--overwrite"], "the whole network in int8 is not exported"),
        (["--compress", "int8-weights", "--overwrite"], "torch-export files are not compressed to int8-weights"),
    ],
)
def test_wrong_arguments_are_one_line_and_leave_all_as_it_was(folder, capsys, options, message):
    before = {path: path.read_bytes() for path in folder.glob("model.*")}
    try:
        code = export(folder, "model.pt2", *options)
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert {path: path.read_bytes() for path in folder.glob("model.*")} == before
    assert not list(folder.glob(".m2f-export-*"))


@pytest.mark.parametrize("channels", [pytest.param(1, marks=_LONG), 4])
def test_a_model_of_other_channels_is_exported_and_its_description_says_so(channels, tmp_path, capsys):
    fields = {**BACKBONES["resnet"], "num_channels": channels}
    model = small_model(backbone_config=fields, encoder_layers=1, decoder_layers=2, task="semantic")
    model.save_pretrained(tmp_path / "checkpoint")
    processor = M2FImageProcessor(size={"longest_edge": 64}, task="semantic", num_channels=channels)
    processor.save_pretrained(tmp_path / "checkpoint")
    image = tmp_path / "a.npy"
    np.save(image, np.random.default_rng(0).integers(0, 255, (channels, 30, 64), dtype=np.uint8))
    command = ["export", str(tmp_path / "checkpoint"), str(tmp_path / "model.pt2"), "--size", "32x64", "--batch", "1"]
    command += ["--format", "torch-export"]
    assert main(command) == 2
    assert f"the bundled pictures are RGB; give --check images of {channels} channels" in capsys.readouterr().err
    assert main([*command, "--check", str(image)]) == 0
    description = json.loads((tmp_path / "model.json").read_text())
    preprocessing = description["preprocessing"]
    assert preprocessing["channels"] == f"{channels} in the order of the image's file, channels first"
    assert preprocessing["mean"] == preprocessing["std"] == [0.5] * channels
    assert description["inputs"]["pixel_values"]["shape"] == [1, channels, 32, 64]
    graph = Segmenter.from_pretrained(tmp_path / "model.pt2")
    found, wanted = graph(image), Segmenter(model, processor)(image)
    assert found.id_map.shape == (30, 64) and (found.id_map == wanted.id_map).mean() > 0.999
    with pytest.raises(ValueError, match=f"3 channels, and {channels} (is|are) expected"):
        graph(np.random.default_rng(0).integers(0, 255, (30, 64, 3), dtype=np.uint8))


def test_a_graph_that_disagrees_is_deleted(folder, capsys, monkeypatch):
    monkeypatch.setattr("m2f.exported.exported_network.ExportedNetwork._logits", wrong_logits)
    assert export(folder, "wrong.pt2", "--size", "64x96") == 2
    error = capsys.readouterr().err
    assert "the graph disagrees with its model" in error and error.endswith("; --debug names the first layer\n")
    assert not list(folder.glob("*wrong*")) and not list(folder.glob(".m2f-export-*"))


right_logits = ExportedNetwork._logits


def wrong_logits(self, pixel_values, sizes):
    return [-x for x in right_logits(self, pixel_values, sizes)]


def test_debug_says_where_a_graph_disagrees(folder, capsys, monkeypatch):
    """The network itself is cheap here: `first_difference` has tests of its own."""
    asked = []
    monkeypatch.setattr("m2f.validation.export_check.first_difference", lambda *args: asked.append(args) or "here")
    monkeypatch.setattr("m2f.exported.exported_network.ExportedNetwork._logits", wrong_logits)
    assert export(folder, "wrong.pt2", "--size", "64x96", "--batch", "2", "--debug") == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("are needed; here")
    ((network, form, (pixel_values, sizes), limit),) = asked
    assert form.size == (64, 96) and network.form == form and limit == 1e-2
    assert pixel_values.shape == (2, 3, 64, 96) and sizes.tolist() == [[58, 96]] * 2  # a.png, 60 x 100
    assert not list(folder.glob("*wrong*"))


def test_what_a_graph_cannot_do_is_said(folder, capsys):
    network = ExportedNetwork(folder / "model.pt2")
    with pytest.raises(ValueError, match=r"the input is 96 x 96, and model\.pt2 was exported for 64 x 96"):
        network(np_zeros(96, 96))
    for arguments, message in [
        (["--shortest-edge", "64"], "leave the size out"),
        (["--dtype", "bfloat16"], "runs as torch.float32"),
    ]:
        command = ["predict", str(folder / "pictures"), "--checkpoint", str(folder / "model.pt2"), "--out"]
        assert main([*command, str(folder / "none"), *arguments]) == 2
        assert message in capsys.readouterr().err
    assert main(["export", str(folder / "model.pt2"), str(folder / "again.pt2")]) == 2
    assert "is an exported graph already" in capsys.readouterr().err
    description = folder / "model.json"
    text = description.read_text()
    description.write_text(json.dumps({**json.loads(text), "labels": {"0": "x"}}))
    try:
        assert main([*command, str(folder / "none")]) == 2
        assert "was changed after `m2f export` wrote it" in capsys.readouterr().err
    finally:
        description.write_text(text)


def np_zeros(height, width):
    import torch

    return torch.zeros(1, 3, height, width)
