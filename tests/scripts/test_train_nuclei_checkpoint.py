"""The training of the bundled checkpoint on two of the demo's images, with one step."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from pycocotools import mask as rle_masks
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
NUCLEI = ROOT / "examples" / "nuclei"
sys.path.insert(0, str(ROOT / "scripts"))  # as for `python scripts/train_nuclei_checkpoint.py`

import card_nuclei_checkpoint as card  # noqa: E402
import train_nuclei_checkpoint as script  # noqa: E402
from nuclei_card_text import NUMBERS  # noqa: E402
from nuclei_pictures import save_within  # noqa: E402

from m2f.data.dataset_formats import open_dataset  # noqa: E402
from m2f.hub.model_card import check_card  # noqa: E402
from m2f.inference.segmenter import Segmenter  # noqa: E402

FAST = "--max-steps 1 --batch-size 2 --warmup-steps 0 --workers 0 --samples 1 --evaluation-batch-size 3".split()


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """One image of each split, 360 x 360 pixels."""
    folder = tmp_path_factory.mktemp("data")
    for split in ("train", "val"):
        content = json.loads((NUCLEI / f"{split}.json").read_text())
        image = content["images"][0]
        objects = [entry for entry in content["annotations"] if entry["image_id"] == image["id"]]
        content |= {"images": [image], "annotations": objects}
        (folder / f"instances_{split}.json").write_text(json.dumps(content))
        (folder / split).mkdir()
        shutil.copy(NUCLEI / split / image["file_name"], folder / split)
    return folder


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    card.EXAMPLES = data  # one image in place of eight
    assert script.main(*script.parse_args([str(data), str(folder), *FAST])) == 0
    return folder


def test_patches_show_the_image(data, trained):
    """An edge of 360 has 3 places for patches of 192 that share 64 or more, from 0 to 168, so there are 9 of these;
    and 3 for tiles of 128 without overlap, from 0 to 232, of which every third row by row is in the last column."""
    train, val = (open_dataset(trained / "patches", split) for split in ("train", "val"))
    assert len(train) == 9 and len(val) == 3
    whole, first = open_dataset(data, "val")[0], val[0]
    ids = whole.segments.ids[:, :128, 232:]
    assert np.array_equal(np.asarray(first.image), np.asarray(whole.image)[:128, 232:])
    assert np.array_equal(first.segments.ids >= 0, ids >= 0)
    assert len(first.segments.class_ids) == len(np.unique(ids[ids >= 0]))


def test_package_is_float16_and_computes_in_float32(trained):
    tensors = load_file(trained / "nuclei" / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()} == {torch.float16}
    segmenter = Segmenter.from_pretrained(trained / "nuclei")
    assert next(segmenter.model.parameters()).dtype == torch.float32
    assert json.loads((trained / "nuclei" / "config.json").read_text())["dtype"] == "float32"
    # One scale everywhere: a tile of 128 pixels has the 192 of a training crop.
    assert dict(segmenter.processor.size)["longest_edge"] == script.CROP
    assert (segmenter.tile, segmenter.tile_overlap) == (script.TILE, script.TILE_OVERLAP)
    # And one canvas, which the backbone's position embeddings are for: a narrow image is padded.
    inputs = segmenter.processor(Image.new("RGB", (40, 100)), return_tensors="pt")
    assert inputs["pixel_values"].shape[2:] == (script.CROP, script.CROP)


def test_package_names_no_place_of_this_machine(trained):
    for file in (trained / "nuclei").rglob("*"):
        if file.suffix in (".md", ".json", ".yaml"):
            assert str(trained) not in file.read_text(encoding="utf-8"), file
    assert "\ndata: patches\n" in (trained / "nuclei" / "training_options.yaml").read_text()


def test_card_has_the_numbers_of_m2f_val(trained):
    """Both splits are the same image here. Random weights find nothing."""
    check_card(trained / "nuclei")
    text = ModelCard.load(trained / "nuclei" / "README.md").text
    for name in ("val", "examples"):
        record = json.loads((trained / "measured" / name / "results.json").read_text())
        assert record["settings"]["tile"] == script.TILE and record["images"] == 1
    numbers = record["results"]["instance"]
    shown = " | ".join("-" if numbers[name] is None else f"{numbers[name]:.4f}" for name in NUMBERS[:-1])
    assert f"| validation split: 1 | {shown} |" in text
    assert f"| `examples/nuclei`, split val: 1 | {shown} |" in text
    assert "| seed | 0 |" in text and "| steps | 1 of 2 crops of 192 pixels |" in text
    assert "python scripts/train_nuclei_checkpoint.py DATA FOLDER" in text
    assert "(card/failure_1.jpg)" in text and (trained / "nuclei" / "card" / "failure_1.jpg").is_file()
    assert "It sees 128 pixels at a time, enlarged to 192." in text


def test_panoptic_quality_and_failures(data, tmp_path):
    """By hand: all instances found give 1; of N nuclei, N - 1 found exactly give (N - 1) / (N - 1 + 1/2)."""
    dataset = open_dataset(data, "val")
    masks = list(dataset[0].segments.masks() > 0)
    name = dataset.images[0].id
    assert card.panoptic_quality(dataset, {name: masks})[1] == [pytest.approx(1)]
    whole, each = card.panoptic_quality(dataset, {name: masks[1:]})
    assert whole == each[0] == pytest.approx((len(masks) - 1) / (len(masks) - 0.5))
    assert card.panoptic_quality(dataset, {})[0] == 0
    lines = card.draw_failures(dataset, {name: masks[1:]}, each, tmp_path)
    assert f"{len(masks)} nuclei, {len(masks) - 1} found" in lines[0]
    assert (tmp_path / "card" / "failure_1.jpg").stat().st_size <= card.FAILURE_BYTES


def test_instances_that_are_shown(tmp_path):
    """Those with a score of 0.5 or more, the best first and on top."""
    small, large = np.zeros((4, 4), np.uint8, order="F"), np.ones((4, 4), np.uint8, order="F")
    small[1:3, 1:3] = 1
    entries = [
        {"image_id": 7, "score": score, "segmentation": {"size": [4, 4], "counts": rle["counts"].decode()}}
        for score, rle in (
            (0.5, rle_masks.encode(large)),
            (0.9, rle_masks.encode(small)),
            (0.49, rle_masks.encode(large)),
        )
    ]
    (tmp_path / "instances.json").write_text(json.dumps(entries))
    found = card.shown_instances(tmp_path)
    assert list(found) == [7] and [mask.sum() for mask in found[7]] == [4, 16]
    assert np.bincount(card.as_segments(found[7], (4, 4))["segmentation"].ravel()).tolist() == [0, 4, 12]


def test_pictures_are_made_smaller_until_they_fit(tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (500, 2000, 3), np.uint8))
    save_within(noise, tmp_path / "x.jpg", 30_000)
    with Image.open(tmp_path / "x.jpg") as picture:
        assert (tmp_path / "x.jpg").stat().st_size <= 30_000 and picture.width == pytest.approx(
            4 * picture.height, 0.1
        )


def test_goes_on_and_packages_again(data, trained, capsys):
    before = (trained / "patches" / "instances_train.json").stat().st_mtime_ns
    assert script.main(*script.parse_args([str(data), str(trained), *FAST])) == 0
    assert (trained / "patches" / "instances_train.json").stat().st_mtime_ns == before
    assert "going on from" in capsys.readouterr().err


def test_too_large_a_package_is_refused(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "LARGEST_BYTES", 1000)
    with pytest.raises(ValueError, match="bytes of weights, and a package may hold 1,000"):
        script.export(trained / "run", tmp_path / "nuclei")
