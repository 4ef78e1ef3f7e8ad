"""The fine-tuning example from a dataset on the disk to a model folder, on shapes that this file writes.

It starts from a checkpoint of other classes, as a fine-tune does, and must learn: the mean loss of the last steps is
below half of that of the first ones. It comes to a third or a fourth; with a learning rate of 1e-12 it changes by 2%.
"""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from accelerate.state import AcceleratorState
from PIL import Image
from transformers import AutoModelForUniversalSegmentation
from transformers.models.auto.image_processing_auto import AutoImageProcessor

ROOT = Path(__file__).resolve().parent.parent
from shapes_dataset import NAMES, THINGS, ShapesDataset, shapes_model, shapes_processor  # noqa: E402

from m2f.data.augmentation_presets import augmentation_preset  # noqa: E402
from m2f.data.dataset_formats import open_dataset  # noqa: E402
from m2f.validation.evaluation_loop import evaluate_model  # noqa: E402

COUNTS = {"train": 8, "val": 3}
METRICS = {"instance": "AP", "panoptic": "PQ", "semantic": "mIoU"}
STEPS = 30


EXAMPLE = ROOT / "examples" / "finetune.py"


def load_example():
    spec = importlib.util.spec_from_file_location(EXAMPLE.stem, EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_example(task: str, *words):
    AcceleratorState._reset_state(reset_partial_state=True)  # which lasts for a process, and a script is one
    module = load_example()
    module.main(module.parse_args(["--task", task, *(str(word) for word in words)]))


def write_images(folder: Path, task: str, split: str) -> list[tuple[dict, list[tuple[int, np.ndarray]]]]:
    """The images as PNG; gives their COCO entries, and class and mask of their segments."""
    folder.mkdir(parents=True)
    found = []
    for number, sample in enumerate(ShapesDataset(COUNTS[split], task, seed=len(split))):
        sample.image.save(folder / f"{number}.png")
        entry = {"id": number, "file_name": f"{number}.png", "height": 64, "width": 64}
        found.append((entry, list(zip(sample.segments.class_ids.tolist(), sample.segments.masks(), strict=True))))
        if number + 1 == COUNTS[split]:
            return found


def write_instance(folder: Path, split: str):
    """COCO, with polygons."""
    content = {"images": [], "annotations": [], "categories": categories("instance")}
    for entry, segments in write_images(folder / split, "instance", split):
        content["images"].append(entry)
        for label, mask in segments:
            (top, left), (bottom, right) = (f(np.argwhere(mask), 0).tolist() for f in (np.min, np.max))
            right, bottom = right + 1, bottom + 1
            polygon = [left, top, right, top, right, bottom, left, bottom]
            shape = {"segmentation": [polygon], "area": int(mask.sum()), "iscrowd": 0}
            box = {"bbox": [left, top, right - left, bottom - top], "category_id": label + 1, "image_id": entry["id"]}
            content["annotations"].append({"id": len(content["annotations"]) + 1, **shape, **box})
    (folder / f"{split}.json").write_text(json.dumps(content))


def write_panoptic(folder: Path, split: str):
    """COCO panoptic: maps of segment ids as colours."""
    content = {"images": [], "annotations": [], "categories": categories("panoptic")}
    (folder / f"panoptic_{split}").mkdir(parents=True)
    for entry, segments in write_images(folder / split, "panoptic", split):
        ids = np.zeros((64, 64, 3), np.uint8)
        for number, (_, mask) in enumerate(segments):
            ids[mask == 1, 0] = number + 1
        Image.fromarray(ids).save(folder / f"panoptic_{split}" / entry["file_name"])
        info = [{"id": i + 1, "category_id": label + 1, "iscrowd": 0} for i, (label, _) in enumerate(segments)]
        content["images"].append(entry)
        content["annotations"].append(
            {"image_id": entry["id"], "file_name": entry["file_name"], "segments_info": info}
        )
    (folder / f"panoptic_{split}.json").write_text(json.dumps(content))


def write_semantic(folder: Path, split: str):
    """Label maps, 255 where nothing is known, and the classes' names."""
    (folder / "annotations" / split).mkdir(parents=True)
    for entry, segments in write_images(folder / "images" / split, "semantic", split):
        labels = np.full((64, 64), 255, np.uint8)
        for label, mask in segments:
            labels[mask == 1] = label
        Image.fromarray(labels).save(folder / "annotations" / split / entry["file_name"])
    (folder / "id2label.json").write_text(json.dumps(dict(enumerate(NAMES))))


def categories(task: str) -> list[dict]:
    things = THINGS[task]
    return [{"id": i + 1, "name": n, "isthing": int(things is None or i in things)} for i, n in enumerate(NAMES)]


WRITERS = {"instance": write_instance, "panoptic": write_panoptic, "semantic": write_semantic}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """Of one class more than the shapes have."""
    folder = tmp_path_factory.mktemp("checkpoint")
    names = dict(enumerate(("red", "green", "blue", "grey")))
    model = shapes_model(num_labels=4, id2label=names, label2id={name: i for i, name in names.items()})
    model.save_pretrained(folder)
    shapes_processor().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("task", WRITERS)
def test_the_example_learns_and_its_model_folder_evaluates(task, checkpoint, tmp_path, capsys):
    data, output = tmp_path / "data", tmp_path / "model"
    for split in COUNTS:
        WRITERS[task](data, split)
    words = ["--data", data, "--model", checkpoint, "--output", output, "--size", 64, "--steps", STEPS, "--cpu"]
    words += ["--batch-size", 4, "--passes", 2, "--workers", 0, "--learning-rate", 2e-3]
    run_example(task, *words, "--evaluate-every", 5)

    rows = json.loads((output / "trainer_state.json").read_text())["log_history"]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == STEPS // 5
    assert losses[-1] < 0.5 * losses[0]
    name = f"eval_{METRICS[task]}"
    assert sum(name in row for row in rows) >= STEPS // 5  # measured during training too, and the best one kept

    dataset = open_dataset(data, "val")
    assert (dataset.task, dataset.id2label, dataset.thing_label_ids) == (task, dict(enumerate(NAMES)), THINGS[task])
    model = AutoModelForUniversalSegmentation.from_pretrained(output)
    assert (model.config.task, model.config.id2label) == (task, dataset.id2label)
    processor = AutoImageProcessor.from_pretrained(output)
    assert (processor.task, dict(processor.size)) == (task, {"longest_edge": 64})
    results = evaluate_model(model, processor, dataset)
    written = json.loads((output / "eval_results.json").read_text())
    assert results[METRICS[task]] == pytest.approx(written[name], abs=1e-6)
    assert f"{METRICS[task]} {written[name]:.4f}" in capsys.readouterr().out


def test_labels_of_another_task_are_named(checkpoint, tmp_path):
    for split in COUNTS:
        write_instance(tmp_path, split)
    for task in ("panoptic", "semantic"):
        with pytest.raises(ValueError, match="has instance labels; give --task instance"):
            run_example(task, "--data", tmp_path, "--model", checkpoint, "--output", tmp_path / "model", "--cpu")


@pytest.mark.parametrize(
    ("given", "stored"), [({}, None), ({"white_level": 4095}, 4095), ({"white_level": "auto"}, None)]
)
def test_the_processor_keeps_the_white_level_of_the_data(given, stored, checkpoint, tmp_path):
    for split in COUNTS:
        write_instance(tmp_path, split)
    example, words = load_example(), ["--task", "instance", "--data", tmp_path, "--model", checkpoint, "--cpu"]
    words += ["--output", tmp_path / "model", "--data-options", json.dumps(given)]
    args = example.parse_args([str(word) for word in words])
    readers = [example.open_split(args, args.data, split) for split in COUNTS]
    trainer = example.build_trainer(args, *readers, augmentation_preset("fine-tune", 64))
    trainer.save_model()
    assert AutoImageProcessor.from_pretrained(tmp_path / "model").white_level == stored
    assert [reader.white_level for reader in readers] == [stored] * 2


def test_the_white_level_of_the_checkpoint_is_that_of_the_data(checkpoint, tmp_path):
    """As in `m2f train`: the model was trained with it."""
    for split in COUNTS:
        write_instance(tmp_path, split)
    shutil.copytree(checkpoint, tmp_path / "start")
    AutoImageProcessor.from_pretrained(checkpoint, white_level=2000).save_pretrained(tmp_path / "start")
    example, words = load_example(), ["--task", "instance", "--data", tmp_path, "--model", tmp_path / "start", "--cpu"]
    args = example.parse_args([str(word) for word in [*words, "--output", tmp_path / "model"]])
    readers = [example.open_split(args, args.data, split) for split in COUNTS]
    trainer = example.build_trainer(args, *readers, augmentation_preset("fine-tune", 64))
    assert [reader.white_level for reader in readers] == [trainer.processing_class.white_level] * 2 == [2000] * 2


def test_the_example_is_short_and_refuses_a_batch_that_passes_do_not_divide(capsys):
    assert len(EXAMPLE.read_text().splitlines()) < 150
    with pytest.raises(SystemExit):
        load_example().parse_args("--task instance --data a --model b --output c --batch-size 4 --passes 3".split())
    assert "--batch-size 4 must be a multiple of --passes 3" in capsys.readouterr().err
