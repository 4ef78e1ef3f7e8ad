"""`m2f predict` in a process that notes when each of its steps runs: `predict_process.py ARGUMENT ...` loads the model
and then does what each line of standard input says, in json:

{"images": [...], "output": folder, "step": "predict" or "summary"}

and prints a line of json: the steps' `spans`, step -> [[start, end], ...] in seconds of the machine's clock, and how
many `segments` a summary found. A first image, which is not counted, should be sent ahead.
"""

import argparse
import json
import sys
import time
from collections import defaultdict
from pathlib import Path

import torch

from m2f.commands.predict import add_arguments, load_segmenter, predict_images, result_settings
from m2f.inference.image_sources import ImageSource
from m2f.inference.prediction_folder import PredictionFolder
from m2f.inference.prediction_summary import write_summary
from m2f.inference.task_decoding import TaskDecoder
from m2f.inference.tiled_instances import TiledInstances
from m2f.inference.view_segmentation import ViewSegmentation
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation

# Steps of an image; none calls another.
STEPS = {
    "read": (ImageSource, "read"),
    "prepare": (ViewSegmentation, "prepare"),
    "model": (M2FForUniversalSegmentation, "forward"),
    "decode": (TaskDecoder, "decode"),
    "merge tiles": (TiledInstances, "segments"),
    "write": (PredictionFolder, "write"),
}
_spans: dict[str, list[tuple[float, float]]] = defaultdict(list)


def watch(step: str, owner: type, method: str):
    """Have every call of a method noted, of whatever thread."""
    plain = getattr(owner, method)

    def watched(*args, **kwargs):
        start = time.monotonic()
        try:
            return plain(*args, **kwargs)
        finally:
            _spans[step].append((start, time.monotonic()))

    setattr(owner, method, watched)


def serve(arguments: list[str]):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    # The images come with each line.
    args = parser.parse_args([*arguments, "--cpu", "-"])
    settings = result_settings(args)
    segmenter = load_segmenter(args, torch.device("cpu"))
    for line in sys.stdin:
        task = json.loads(line)
        folder = PredictionFolder(Path(task["output"]), settings)
        entries = folder.entries([ImageSource(image, Path(image).name) for image in task["images"]])
        _spans.clear()
        answer: dict = {}
        if task["step"] == "predict":
            predict_images(segmenter, folder, entries, show_progress=False)
        else:
            summary = write_summary(folder, entries, segmenter.id2label, segmenter.things)
            if summary.failed:
                raise RuntimeError(f"images have no result: {summary.failed}")
            answer["segments"] = summary.object_count
        print(json.dumps({**answer, "spans": _spans}), flush=True)


if __name__ == "__main__":
    for step, (owner, method) in STEPS.items():
        watch(step, owner, method)
    serve(sys.argv[1:])
