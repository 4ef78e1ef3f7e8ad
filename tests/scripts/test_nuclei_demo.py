"""The demo as it is, and its training on a few of its images, with a few steps."""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from transformers import AutoConfig, set_seed

ROOT = Path(__file__).resolve().parents[2]
NUCLEI = ROOT / "examples" / "nuclei"
sys.path.insert(0, str(ROOT / "scripts"))  # as for `python scripts/nuclei_demo.py`

from demo_model import build_model, build_processor  # noqa: E402
from demo_training import BATCH_SIZE, batches, train_model  # noqa: E402
from nuclei_demo import card_average_precision, parse_args, table_lines  # noqa: E402

from m2f.data.coco_instances import CocoInstances  # noqa: E402
from m2f.data.collation import Collator  # noqa: E402


@pytest.fixture(scope="module")
def small_data(tmp_path_factory) -> Path:
    """As many training images as a batch has, and two for validation."""
    folder = tmp_path_factory.mktemp("nuclei")
    for split in ("train", "val"):
        content = json.loads((NUCLEI / f"{split}.json").read_text())
        content["images"] = content["images"][: BATCH_SIZE if split == "train" else 2]
        kept = {image["id"] for image in content["images"]}
        content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] in kept]
        (folder / f"{split}.json").write_text(json.dumps(content))
        (folder / split).mkdir()
        for image in content["images"]:
            shutil.copy(NUCLEI / split / image["file_name"], folder / split)
    return folder


def run_demo(*words: str | Path) -> str:
    """What `nuclei_demo.py` prints."""
    command = [sys.executable, ROOT / "scripts" / "nuclei_demo.py", *words]
    result = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=600, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def train_demo(data: Path, out: Path) -> str:
    return run_demo("--train", "--steps", "1", "--data", data, "--out", out)


@pytest.fixture(scope="module")
def run(small_data, tmp_path_factory) -> tuple[str, Path]:
    """What the demo printed when it trained, and its folder."""
    out = tmp_path_factory.mktemp("demo") / "out"
    return train_demo(small_data, out), out


def test_bundled_checkpoint_gives_what_its_card_says(tmp_path):
    """On the bundled images, within 0.01. The numbers of the card come from `m2f val` of the same weights."""
    printed = run_demo("--out", tmp_path / "out")
    found = re.search(r"^AP ([0-9.]+), AP50 ([0-9.]+) \(the model card says AP ([0-9.]+)\)$", printed, re.MULTILINE)
    stated = card_average_precision()
    assert stated > 0 and float(found[3]) == pytest.approx(stated, abs=0.0005)  # three digits are printed
    assert float(found[1]) == pytest.approx(stated, abs=0.01)
    for path in ("report.html", "overlays", "predictions.json"):
        path = tmp_path / "out" / "predictions" / path
        assert str(path) in printed and path.exists()
    names = {image["file_name"] for image in json.loads((NUCLEI / "val.json").read_text())["images"]}
    rows = [line.split() for line in printed.splitlines()]
    assert {row[0] for row in rows if len(row) == 4 and row[0].endswith(".png")} == names


def test_table_has_images_without_nuclei(tmp_path):
    """Two areas of 10 and 30 have the median 20; scores of 0.5 and 1 the mean 0.75."""
    images = [{"id": 1, "file_name": "b.png"}, {"id": 2, "file_name": "a.png"}]
    annotations = [{"image_id": 1, "area": 10, "score": 0.5}, {"image_id": 1, "area": 30, "score": 1.0}]
    (tmp_path / "predictions.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    rows = [line.split() for line in table_lines(tmp_path / "predictions.json")]
    assert rows[1:] == [["a.png", "0", "-", "-"], ["b.png", "2", "20", "0.750"]]


def test_prints_the_average_precision_and_where_everything_is(run):
    printed, out = run
    assert "On 2 images not seen in training: AP 0." in printed
    for path in (out / "overlays", out / "predictions.json", out / "model"):
        assert str(path) in printed and path.exists()


def test_predictions_are_coco_results_of_the_validation_images(run, small_data):
    """pycocotools reads them, and refuses results of images that the ground truth lacks."""
    predictions = json.loads((run[1] / "predictions.json").read_text())
    truth = COCO(str(small_data / "val.json"))
    assert predictions  # after one step masks are still random, not yet empty
    truth.loadRes(predictions)
    assert {prediction["image_id"] for prediction in predictions} <= set(truth.getImgIds())
    for prediction in predictions:
        assert prediction["category_id"] == 1 and 0 <= prediction["score"] <= 1
        assert prediction["segmentation"]["size"] == [360, 360]


def test_overlays_show_image_truth_and_prediction_in_a_row(run, small_data):
    ids = {image["id"] for image in json.loads((small_data / "val.json").read_text())["images"]}
    files = list((run[1] / "overlays").iterdir())
    assert {int(file.stem) for file in files} == ids
    for file in files:
        with Image.open(file) as image:
            assert image.size == (3 * 360, 360 + 16)  # 16 for the titles


def test_model_folder_names_task_and_label(run):
    config = AutoConfig.from_pretrained(run[1] / "model")
    assert (config.model_type, config.task, config.id2label) == ("m2f", "instance", {0: "nucleus"})


def test_same_steps_give_the_same_predictions(run, small_data, tmp_path):
    train_demo(small_data, tmp_path)
    assert (tmp_path / "predictions.json").read_bytes() == (run[1] / "predictions.json").read_bytes()


def test_bundled_splits_share_no_image():
    names = [
        {image["file_name"] for image in json.loads((NUCLEI / f"{split}.json").read_text())["images"]}
        for split in ("train", "val")
    ]
    assert [len(split) for split in names] == [32, 8]
    assert not names[0] & names[1]


def test_the_seed_decides_the_weights(small_data):
    train = CocoInstances(small_data / "train.json", small_data / "train")
    collate = Collator(build_processor(train))

    def weights(seed: int) -> list[torch.Tensor]:
        set_seed(seed)
        model = build_model(train)
        train_model(model, map(collate, batches(train, seed)), seconds=0, steps=2)
        return [parameter.detach() for parameter in model.parameters()]

    first, second, other = weights(1), weights(1), weights(2)
    assert all(map(torch.equal, first, second))
    assert not all(map(torch.equal, first, other))


def test_batches_go_through_all_images_in_changing_order_and_orientation():
    val = CocoInstances(NUCLEI / "val.json", NUCLEI / "val")
    samples = list(itertools.chain.from_iterable(itertools.islice(batches(val, 0), 16 // BATCH_SIZE)))
    names = [sample.name for sample in samples]
    assert sorted(names[:8]) == sorted(names[8:]) == sorted(image.file_name for image in val.images)
    assert names[:8] != names[8:]
    orientations = {sample.image.tobytes() for sample in samples}
    assert len(orientations) > 8


def test_too_few_images_for_a_batch_are_refused(small_data):
    train = CocoInstances(small_data / "train.json", small_data / "train")
    train.images = train.images[1:]
    with pytest.raises(ValueError, match="has 3 images; a batch needs 4"):
        next(batches(train, 0))


def test_training_ends_when_its_time_is_over(small_data, capsys):
    train = CocoInstances(small_data / "train.json", small_data / "train")
    collate = Collator(build_processor(train))
    start = time.monotonic()
    train_model(build_model(train), map(collate, batches(train, 0)), seconds=2, steps=None)
    assert 2 <= time.monotonic() - start < 30  # the last step may be slow
    assert "steps of 4 images" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--seconds", "0"], ["--steps", "0"]])
def test_no_time_to_train_is_refused(arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["nuclei_demo.py", *arguments])
    with pytest.raises(SystemExit):
        parse_args()
    assert "must be above 0" in capsys.readouterr().err
