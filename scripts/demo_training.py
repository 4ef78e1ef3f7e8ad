"""Trains a small Mask2Former from random weights on a few microscope images, some minutes on a CPU, and shows what it
finds on images that it has not seen: `bash scripts/demo.sh --train`."""

import argparse
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from demo_model import build_model, build_processor, choose_threads
from nuclei_pictures import compared
from transformers import AutoModelForUniversalSegmentation, pipeline, set_seed

# Without torchvision, transformers 5.17 exports a dummy under transformers.AutoImageProcessor; this is the real class.
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.utils import logging

from m2f.data.augmentation import Compose, RandomFlip, RandomTranspose
from m2f.data.coco_instances import CocoInstances
from m2f.data.collation import Collator
from m2f.data.segment_map import Sample
from m2f.evaluation.coco_average_precision import CocoAveragePrecision
from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation
from m2f.training.parameter_groups import parameter_groups

BATCH_SIZE = 4
LEARNING_RATE = 2e-3
SHOWN_SCORE = 0.5  # instances with a lower score are not drawn; they count in the average precision


def batches(dataset: CocoInstances, seed: int) -> Iterator[list[Sample]]:
    """Samples without end, in a new order each epoch, each in one of the eight orientations: cells have no upright."""
    if len(dataset) < BATCH_SIZE:
        raise ValueError(f"{dataset.annotation_file} has {len(dataset)} images; a batch needs {BATCH_SIZE}")
    samples, generator = list(dataset), np.random.default_rng(seed)
    orient = Compose((RandomFlip("horizontal"), RandomFlip("vertical"), RandomTranspose()))
    while True:
        order = generator.permutation(len(samples))
        for start in range(0, len(order) - BATCH_SIZE + 1, BATCH_SIZE):
            yield [orient(samples[i], generator) for i in order[start : start + BATCH_SIZE]]


def train_model(model: M2FForUniversalSegmentation, data: Iterator[dict], seconds: float, steps: int | None):
    """AdamW for `seconds`, or `steps`. The learning rate follows the share that is over: it rises during the first 5%
    and falls to 0 on a cosine."""
    # One learning rate, above the paper's 1e-4 and without its x0.1 for the backbone: nothing here is pretrained.
    optimizer = torch.optim.AdamW(parameter_groups(model, LEARNING_RATE, 0.05, backbone_lr_multiplier=1.0), fused=True)
    model.train()
    start, step, done = time.monotonic(), 0, 0.0
    while done < 1:
        for group in optimizer.param_groups:  # 1e-3, so that the first step moves
            group["lr"] = LEARNING_RATE * min(1, (done + 1e-3) / 0.05) * 0.5 * (1 + math.cos(math.pi * done))
        outputs = model(**next(data))
        optimizer.zero_grad()
        outputs.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step, elapsed = step + 1, time.monotonic() - start
        done = step / steps if steps else elapsed / seconds
        if step % 50 == 1 or done >= 1:
            print(f"step {step:4d}  {elapsed:4.0f} s  loss {outputs.loss.item():6.2f}", flush=True)
    print(f"{step} steps of {BATCH_SIZE} images, {step / elapsed:.1f} steps/s on {torch.get_num_threads()} threads")


@torch.no_grad()
def evaluate(
    model: M2FForUniversalSegmentation, processor: M2FImageProcessor, dataset: CocoInstances, overlays: Path
) -> CocoAveragePrecision:
    """Predicts every image of the dataset, draws what was found, and collects it for the average precision."""
    metric = CocoAveragePrecision(dataset.annotation_file)
    model.eval()
    for entry, sample in zip(dataset.images, dataset, strict=True):
        outputs = model(**processor([sample.image], return_tensors="pt"))
        size = {"target_sizes": [(sample.image.height, sample.image.width)]}
        (found,) = processor.post_process_instance_segmentation(
            outputs, threshold=0, return_coco_annotation=True, **size
        )
        metric.process(entry.id, **found)
        (shown,) = processor.post_process_instance_segmentation(outputs, threshold=SHOWN_SCORE, **size)
        masks = [shown["segmentation"].numpy() == info["id"] for info in shown["segments_info"]]
        found = np.array(masks).reshape(-1, sample.image.height, sample.image.width)
        compared(sample.image, sample.segments.masks(), found).save(overlays / f"{entry.id}.png")
    return metric


def train_and_show(args: argparse.Namespace):
    """
    Args:
        args: data, out, seconds, steps and seed, see nuclei_demo.py.
    """
    logging.disable_progress_bar()
    set_seed(args.seed)
    overlays, folder = args.out / "overlays", args.out / "model"
    overlays.mkdir(parents=True, exist_ok=True)
    train, val = (CocoInstances(args.data / f"{split}.json", args.data / split) for split in ("train", "val"))
    processor, model = build_processor(train), build_model(train)
    print(f"Training on {len(train)} images of {args.data}, {model.num_parameters():,} parameters", flush=True)
    collate = Collator(processor)
    if not args.steps:
        choose_threads(model, collate(next(batches(train, args.seed))))
        set_seed(args.seed)
    train_model(model, map(collate, batches(train, args.seed)), args.seconds, args.steps)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)

    # What the folder gives back is what is evaluated.
    model = AutoModelForUniversalSegmentation.from_pretrained(folder)
    metric = evaluate(model, AutoImageProcessor.from_pretrained(folder), val, overlays)
    (args.out / "predictions.json").write_text(json.dumps(metric.predictions))
    segments = pipeline("image-segmentation", model=str(folder))(
        val[0].image, subtask="instance", threshold=SHOWN_SCORE
    )

    results = metric.evaluate()
    print(f"On {len(val)} images not seen in training: AP {results['AP']:.3f}, AP50 {results['AP50']:.3f}")
    print(f"overlays           {overlays}/*.png")
    print(f"COCO predictions   {args.out / 'predictions.json'}")
    print(f"model, processor   {folder}; its pipeline finds {len(segments)} instances on image {val.images[0].id}")
