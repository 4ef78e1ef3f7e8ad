"""Images of four channels from their files to the report, with a model that is made for them from one of three."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from accelerate.state import AcceleratorState
from PIL import Image
from small_models import small_config

from m2f.cli import main
from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.inference.segmenter import Segmenter
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation


def m2f(*words) -> int:
    AcceleratorState._reset_state(reset_partial_state=True)  # which lasts for a process, and a command is one
    return main([*map(str, words)])


def write_split(folder: Path, split: str, count: int):
    """Rectangles in noise, in arrays of 16 bits with four channels, and every third as an RGBA picture."""
    (folder / split).mkdir(parents=True)
    images, annotations = [], []
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 60, (64, 64, 4), np.uint8)
        pixels[8:40, 8:40, 3] = 200
        name = f"{number}.png" if number % 3 == 2 else f"{number}.npy"
        if name.endswith("png"):
            Image.fromarray(pixels).save(folder / split / name)
        else:
            np.save(folder / split / name, pixels.transpose(2, 0, 1).astype(np.uint16) * 257)
        shape = {"segmentation": [[8, 8, 40, 8, 40, 40, 8, 40]], "bbox": [8, 8, 32, 32], "area": 1024, "iscrowd": 0}
        annotations.append({"id": number + 1, "image_id": number, "category_id": 1, **shape})
        images.append({"id": number, "file_name": name, "height": 64, "width": 64})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "field"}]}
    (folder / "annotations").mkdir(exist_ok=True)
    (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_split(folder, "train", 4)
    write_split(folder, "val", 3)
    return folder


@pytest.fixture(scope="module")
def rgb_model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("rgb")
    M2FForUniversalSegmentation(small_config(decoder_layers=3)).save_pretrained(folder)
    M2FImageProcessor(size={"shortest_edge": 64}).save_pretrained(folder)
    return folder


def test_four_channels_from_readers_to_report(data, rgb_model, tmp_path, capsys):
    run, results, predictions = tmp_path / "run", tmp_path / "results", tmp_path / "predictions"
    sheet = tmp_path / "sheet.png"
    assert m2f("check", data, "--channels", 4, "--sheet", sheet, "--workers", 0) == 0
    words = ["--data", data, "--model", rgb_model, "--reset-classifier", "--channels", 4, "--max-steps", 2]
    words += ["--batch-size", 2, "--workers", 0, "--crop-size", 64]
    assert m2f("train", *words, "--shortest-edge", 64, "--output", run, "--device", "cpu") == 0
    assert "mean (and standard deviation) of each channel, from 4 of 4 training images: " in capsys.readouterr().err

    processor = M2FImageProcessor.from_pretrained(run)
    pixels = np.stack([np.random.default_rng(n).integers(0, 60, (64, 64, 4), np.uint8) for n in range(4)])
    pixels[:, 8:40, 8:40, 3] = 200
    assert processor.num_channels == 4
    np.testing.assert_allclose(processor.image_mean, pixels.mean((0, 1, 2)) / 255, atol=2e-6)
    np.testing.assert_allclose(processor.image_std, pixels.std((0, 1, 2)) / 255, atol=2e-6)

    assert m2f("val", run, data, "--output", results, "--device", "cpu", "--workers", 0) == 0
    assert json.loads((results / "results.json").read_text())["images"] == 3
    assert m2f("predict", data / "val", "--checkpoint", run, "--bands", "4,1,1", "--out", predictions, "--cpu") == 0
    report = (predictions / "report.html").read_text()
    assert re.search(r"bands\D*4, 1, 1 of 4", report)
    picture = Segmenter.from_pretrained(run, device="cpu", bands=(4, 1, 1))(data / "val" / "0.npy").image
    first = np.random.default_rng(0).integers(0, 60, (64, 64, 4), np.uint8)
    assert np.asarray(picture)[20, 20].tolist() == [200, first[20, 20, 0], first[20, 20, 0]]
    capsys.readouterr()

    for command in (["predict", data / "val", "--checkpoint", rgb_model, "--out", tmp_path / "no", "--cpu"],):
        assert m2f(*command) == 1
        assert "0.npy, (4, 64, 64), has 4 channels, and 3 are expected; " in capsys.readouterr().err
    config = json.loads((run / "config.json").read_text())
    config["backbone_config"]["num_channels"] = 5
    (run / "config.json").write_text(json.dumps(config))
    for command in (["val", run, data, "--device", "cpu"], ["train", "--data", data, "--model", run, "--cpu"]):
        assert m2f(*command, "--output", tmp_path / "none") == 2
        error = capsys.readouterr().err
        assert "takes images of 5 channels" in error and "gives 4 (num_channels in preprocessor_config.json)" in error
