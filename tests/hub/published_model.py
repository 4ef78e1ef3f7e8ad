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
    "images": 3,
    "seconds": 1.5,
    "results": {"panoptic": {"PQ": 0.515, "PQ_things": 0.5}, "semantic": {"mIoU": 0.61, "pixel_accuracy": None}},
    "per_class": {"panoptic": [{"class": "a|b", "PQ": 0.25}, {"class": "nuclei", "PQ": None}]},
}


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
