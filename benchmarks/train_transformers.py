"""transformers' Mask2Former trained with the options of `m2f train`, for `compare_training.py`.

    python benchmarks/train_transformers.py --config recipe.yaml --data DATA --model START --max-steps 500 \
        --beside OURS --output OUT

while `m2f train --output OURS` with the same options runs: it trains for as long as that does.

Images, their order and augmentation, parameter groups, schedule and clipping are those of `m2f train`; model and loss
are transformers', and the labels have the form that these take, a float mask for each segment. At the end the weights
are loaded into our model and measured as ours are, with our post-processing: its own works at 384x384 and would lower
the numbers.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, set_seed

from m2f.commands.train import make_processor, open_datasets
from m2f.commands.train_arguments import add_option_arguments, options_from_arguments
from m2f.data.augmentation_presets import augmentation_preset
from m2f.data.collation import Collator
from m2f.data.training_dataset import TrainingDataset
from m2f.image_processing.label_values import PADDING_LABEL
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation
from m2f.training.learning_rate_schedule import LearningRateSchedule
from m2f.training.parameter_groups import parameter_groups
from m2f.training.sample_stream import SampleStream, StreamBatches
from m2f.training.training_log import CsvLog, read_rows
from m2f.training.training_options import TrainingOptions
from m2f.validation.evaluation_loop import evaluate_model

_MOST = 4  # times the steps of `m2f train`, should there be time for them


def their_model(folder: str) -> Mask2FormerForUniversalSegmentation:
    """With the weights of our checkpoint."""
    ours = M2FForUniversalSegmentation.from_pretrained(folder)
    known = Mask2FormerConfig().to_dict()
    fields = {name: value for name, value in ours.config.to_dict().items() if name in known and name != "model_type"}
    model = Mask2FormerForUniversalSegmentation(Mask2FormerConfig(**fields))
    missing = model.load_state_dict(ours.state_dict(), strict=False).missing_keys
    if missing:
        raise ValueError(f"transformers' model would keep random weights: {missing}")
    return model


def our_model(theirs: Mask2FormerForUniversalSegmentation, folder: str) -> M2FForUniversalSegmentation:
    """With the weights of transformers' model, for the evaluation; padding is seen as it was in training."""
    ours = M2FForUniversalSegmentation.from_pretrained(folder, mask_padding=False)
    ours.load_state_dict(theirs.state_dict(), strict=False)
    return ours


def batches(options: TrainingOptions, dataset, processor) -> torch.utils.data.DataLoader:
    steps = _MOST * options.max_steps
    stream = SampleStream(dataset, options.seed, steps * options.batch_size)
    preset = augmentation_preset(options.augmentation, options.crop_size)
    return torch.utils.data.DataLoader(
        TrainingDataset(stream, preset.augmentation, options.seed, on_error=options.on_broken_image),
        batch_sampler=StreamBatches(options.batch_size, 1, 1, 0, 0, steps),
        collate_fn=Collator(processor, form="masks", keep_size=True, canvas=preset.canvas),
        num_workers=options.workers,
    )


def as_lists(batch: dict) -> dict:
    """Labels as transformers' image processor gives them."""
    rows = [classes != PADDING_LABEL for classes in batch["class_labels"]]
    masks = [masks[row].float() for masks, row in zip(batch["mask_labels"], rows, strict=True)]
    classes = [classes[row] for classes, row in zip(batch["class_labels"], rows, strict=True)]
    return {**batch, "mask_labels": masks, "class_labels": classes}


def share_done(folder: Path, max_steps: int) -> float:
    """Of the training of `m2f train` in a folder, by its log."""
    log = folder / "log.csv"
    rows = read_rows(log) if log.is_file() else []
    return int(rows[-1]["step"]) / max_steps if rows else 0.0


def train(options: TrainingOptions, model, loader, log: CsvLog, beside: Path) -> dict[str, float]:
    """Until the training in the folder `beside` is done; the learning rate is the one that it has at the same time."""
    groups = parameter_groups(model, options.learning_rate, options.weight_decay, options.backbone_lr_multiplier)
    optimizer = torch.optim.AdamW(groups, fused=True)
    rates = [group["lr"] for group in optimizer.param_groups]
    schedule = LearningRateSchedule.from_options(options)
    model.train()
    start, losses = time.perf_counter(), []
    for step, batch in enumerate(loader):
        done = share_done(beside, options.max_steps)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * schedule.factor(options.max_steps * min(done, 1 - 1 / options.max_steps))
        loss = model(**as_lists(batch)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), options.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        elapsed = time.perf_counter() - start
        if len(losses) == options.log_every or done >= 1:
            log.append({"step": step + 1, "seconds": round(elapsed, 1), "loss": sum(losses) / len(losses)})
            print(f"step {step + 1} {elapsed:.0f} s loss {sum(losses) / len(losses):.3f}", flush=True)
            losses = []
        if done >= 1:
            return {"steps": step + 1, "training_seconds": elapsed}
    raise ValueError(f"{len(loader)} steps took {elapsed:.0f} s, and the training in {beside} is not done yet")


def main(args: argparse.Namespace):
    options = options_from_arguments(args)
    output = Path(options.output)
    output.mkdir(parents=True, exist_ok=True)
    set_seed(options.seed)
    dataset, validation = open_datasets(options)
    model = their_model(options.model)
    ours = M2FForUniversalSegmentation.from_pretrained(options.model)
    processor = make_processor(options, ours, None, print)
    loader = batches(options, dataset, processor)
    found = train(options, model, loader, CsvLog(output / "log.csv", 0), args.beside)
    model.save_pretrained(output)
    results = evaluate_model(our_model(model, options.model).eval(), processor, validation)
    (output / "results.json").write_text(json.dumps({**found, **results}, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_option_arguments(parser)
    parser.add_argument("--beside", type=Path, required=True, help="folder of the training to keep up with")
    parser.usage = None
    main(parser.parse_args())
