"""A saved model with all that a push needs, and the Hub that it goes to."""

import json
from pathlib import Path

from small_models import small_model

from m2f.hub.model_card import CardFacts, write_card
from m2f.image_processing.image_processing_m2f import M2FImageProcessor

FACTS = {"license": "apache-2.0", "datasets": ("user/nuclei",), "base_model": "none"}
# What `m2f val --output` writes, in a small form.
RESULTS = {
    "program": "m2f val",
    "finished": True,
    "dataset": {"format": "coco-panoptic", "split": "val", "images": 3},
    "versions": {"torch": "2.13.0", "transformers": "5.23.0"},
    "machine": {"device": "cpu", "processor": "Fast One", "threads": 4, "processes": 1},
    "images": 3,
    "seconds": 1.5,
    "results": {"panoptic": {"PQ": 0.515, "PQ_things": 0.5}, "semantic": {"mIoU": 0.61, "pixel_accuracy": None}},
    "per_class": {"panoptic": [{"class": "a|b", "PQ": 0.25}, {"class": "nuclei", "PQ": None}]},
}

# And `m2f train`, for the model that it keeps.
TRAINING_RESULTS = {
    "step": 40,
    "metric": "AP",
    "results": {"AP": 0.25, "AP50": 0.5, "APs": None},
    "task": "instance",
    "dataset": {"format": "coco-instance", "split": "val", "images": 3},
    "images": 3,
    "seconds": 6.0,
    "per_class": [{"class_id": 0, "name": "cell", "AP": 0.25}],
    "machine": {"device": "GPU 9000", "processor": "Fast One", "threads": 1, "processes": 2, "torch": "2.13.0"},
}


def save_training(folder: Path) -> Path:
    """What a run leaves beside the model that matters to its card."""
    (folder / "results.json").write_text(json.dumps(TRAINING_RESULTS))
    (folder / "training_options.yaml").write_text("model: user/start\nmax_steps: 40\n")
    (folder / "log.csv").write_text("step,images_per_second\n20,3.0\n40,5.0\n60,4.0\n")
    (folder / "samples").mkdir()
    for name in ("samples/step-00000020.png", "samples/step-00000040.png", "curves.png"):
        (folder / name).write_bytes(name.encode())
    return folder


def save_model(folder: Path, with_card: bool = True) -> Path:
    small_model("swin", id2label={i: f"class {i}" for i in range(5)}).save_pretrained(folder)
    M2FImageProcessor(size={"shortest_edge": 64, "longest_edge": 128}).save_pretrained(folder)
    if with_card:
        write_card(folder, CardFacts(**FACTS))
    return folder


def save_results(folder: Path, **changes) -> Path:
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps({**RESULTS, **changes}))
    return folder
