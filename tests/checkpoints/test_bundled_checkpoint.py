"""The checkpoint that comes with the package: how it is named, and what its folder holds."""

import json
import re
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file

from m2f.checkpoints.bundled_checkpoint import DEFAULT_CHECKPOINT, bundled_names, checkpoint_location
from m2f.cli import main
from m2f.data.dataset_formats import open_dataset
from m2f.hub.model_card import check_card
from m2f.inference.segmenter import Segmenter
from m2f.training.option_values import resolve_options
from m2f.training.starting_point import starting_model

ROOT = Path(__file__).resolve().parents[2]
NUCLEI = ROOT / "examples" / "nuclei"
FOLDER = ROOT / "m2f" / "checkpoints" / "nuclei"


@pytest.fixture
def elsewhere(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_names(elsewhere):
    assert bundled_names() == ["nuclei"] == [DEFAULT_CHECKPOINT]
    for name in (None, "nuclei", Path("nuclei")):
        assert checkpoint_location(name) == str(FOLDER)
    for name in ("user/nuclei", "./nuclei", "nuclei/", str(elsewhere)):
        assert checkpoint_location(name) == name


def test_a_checkpoint_here_comes_before_the_bundled_one_but_not_before_the_default(elsewhere):
    """As a folder comes before a Hub id; a folder of images is no checkpoint."""
    (elsewhere / "nuclei").mkdir()
    assert checkpoint_location("nuclei") == str(FOLDER)
    (elsewhere / "nuclei" / "config.json").write_text("{}")
    assert checkpoint_location("nuclei") == "nuclei"
    assert checkpoint_location(None) == str(FOLDER)


def test_a_package_without_its_data_says_so(elsewhere, monkeypatch):
    monkeypatch.setattr("m2f.checkpoints.bundled_checkpoint._FOLDER", elsewhere)
    for name in (None, "nuclei"):
        with pytest.raises(FileNotFoundError, match="nuclei is not in .*install it again"):
            checkpoint_location(name)
    assert bundled_names() == []


def test_predict_val_and_train_know_the_name(elsewhere, capsys):
    """What they write or load comes from the bundled weights; tests/scripts/test_nuclei_demo.py has the numbers."""
    image = NUCLEI / "val" / "03b9306f44e9b895.png"
    assert main(["predict", str(image), "--output", "out", "--device=cpu"]) == 0
    assert json.loads((elsewhere / "out" / "settings.json").read_text())["settings"]["checkpoint"] == "nuclei"
    assert len(json.loads((elsewhere / "out" / "predictions.json").read_text())["annotations"]) > 5
    assert main(["val", "nuclei", str(NUCLEI), "--output", "numbers"]) == 0
    assert json.loads((elsewhere / "numbers" / "results.json").read_text())["images"] == 8
    weights = dict(Segmenter.from_pretrained(device="cpu").model.named_parameters())
    model = starting_model(resolve_options({"model": "nuclei"}), open_dataset(NUCLEI, "train"))
    for name, tensor in model.named_parameters():
        assert torch.equal(tensor, weights[name]) and tensor.dtype == torch.float32, name
    with pytest.raises(FileNotFoundError, match="there is no checkpoint folder"):
        Segmenter.from_pretrained("./nuclei")


def test_weights_are_small():
    """At most 16 MB; float16 in the file, float32 to compute with."""
    tensors = load_file(FOLDER / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()} == {torch.float16}
    assert (FOLDER / "model.safetensors").stat().st_size <= 16_000_000
    assert json.loads((FOLDER / "config.json").read_text())["dtype"] == "float32"
    assert sum(file.stat().st_size for file in (FOLDER / "card").iterdir()) <= 400_000


def test_images_of_any_shape_are_segmented():
    """The backbone has position embeddings, which are for one size of input."""
    segment = Segmenter.from_pretrained(device="cpu")
    for size in ((1, 1), (40, 300), (130, 127)):
        assert segment(Image.new("RGB", size[::-1])).size == size


def test_the_card_says_what_is_needed():
    """Command, seed, hardware, numbers by size, PQ, failures, limits, licence, dataset."""
    check_card(FOLDER)  # among others: every picture is there
    card = ModelCard.load(FOLDER / "README.md")
    assert card.data.license == "apache-2.0" and card.data.datasets == ["BBBC038 (2018 Data Science Bowl, stage 1)"]
    assert {result.metric_type for result in card.data.eval_results} == {"mask_ap", "mask_ap_50"}
    for text in (
        "python scripts/train_nuclei_checkpoint.py DATA FOLDER",
        "| seed | ",
        "| machine | ",
        "m2f val nuclei DATA --split val",
        "| images | AP | AP50 | AP75 | APs | APm | APl | PQ |",
        "## Failures",
        "card/failure_1.jpg",
        "card/curves.png",
        "## Limits",
        "CC0",
    ):
        assert text in card.text, text


def test_no_file_names_a_place_of_the_machine_that_trained_it():
    for file in FOLDER.rglob("*"):
        if file.suffix in (".md", ".json", ".yaml"):
            assert not re.search(r"/(home|root|tmp|work|Users)/", file.read_text(encoding="utf-8")), file


def test_convert_knows_the_name(elsewhere, capsys):
    assert main(["convert", "nuclei", "stock", "--to", "transformers", "--dry-run"]) == 0
    assert not list(elsewhere.iterdir())
