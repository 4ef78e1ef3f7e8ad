"""Fine-tunes a Mask2Former on label maps of your own, with transformers' plain Trainer, and measures the mean IoU at
the end. The data may be of any format that `open_dataset` reads.

    python examples/finetune_semantic.py --data my_folder --model CHECKPOINT --output my_model

In several processes: `accelerate launch examples/finetune_semantic.py ...`. The other two examples use M2FTrainer,
which also measures during training and keeps the best model.
"""

import argparse
import json

import torch
from transformers import AutoModelForUniversalSegmentation, Trainer, TrainingArguments, set_seed

from m2f.data.augmentation_presets import AugmentationPreset, augmentation_preset
from m2f.data.collation import Collator
from m2f.data.dataset_formats import open_dataset
from m2f.data.segmentation_dataset import SegmentationDataset
from m2f.data.training_dataset import TrainingDataset
from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.training.evaluation_loop import evaluate_model, make_metric
from m2f.training.label_check import check_labels, label_fields
from m2f.training.m2f_trainer import DatasetEpoch
from m2f.training.parameter_groups import parameter_groups


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a folder, or a dataset's name on the Hub")
    parser.add_argument("--train-split", default="train")
    parser.add_argument("--validation-split", default="val")
    parser.add_argument("--data-options", type=json.loads, default={}, help="of open_dataset, as json")
    parser.add_argument("--model", required=True, help="checkpoint to start from, a folder or a name on the Hub")
    parser.add_argument("--output", required=True, help="folder for the model and the checkpoints")
    parser.add_argument("--size", type=int, default=640, help="edge of the training crop, longest edge in evaluation")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--batch-size", type=int, default=8, help="images of a step on each process")
    parser.add_argument("--passes", type=int, default=1, help="that a step is divided into; saves memory")
    parser.add_argument("--learning-rate", type=float, default=1e-4, help="a tenth of it for the backbone")
    parser.add_argument("--save-every", type=int, default=500, help="steps between checkpoints")
    parser.add_argument("--workers", type=int, default=4, help="processes that read images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16")
    parser.add_argument("--cpu", action="store_true", help="even if there is a GPU")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --output")
    args = parser.parse_args(argv)
    if args.passes < 1 or args.batch_size % args.passes:
        parser.error(f"--batch-size {args.batch_size} must be a multiple of --passes {args.passes}")
    return args


def open_split(args: argparse.Namespace, split: str) -> SegmentationDataset:
    dataset = open_dataset(args.data, split, **args.data_options)
    if dataset.task != "semantic":
        raise ValueError(f"{args.data} has {dataset.task} labels; use examples/finetune_{dataset.task}.py")
    return dataset


def training_arguments(args: argparse.Namespace) -> TrainingArguments:
    """The paper's recipe: gradients clipped to 0.01, and a learning rate that falls to 0."""
    return TrainingArguments(
        output_dir=args.output,
        max_steps=args.steps,
        per_device_train_batch_size=args.batch_size // args.passes,
        gradient_accumulation_steps=args.passes,
        max_grad_norm=0.01,
        lr_scheduler_type="polynomial",
        lr_scheduler_kwargs={"power": 0.9, "lr_end": 0.0},
        save_steps=args.save_every,
        save_total_limit=2,
        logging_steps=min(20, args.save_every),
        dataloader_num_workers=args.workers,
        ddp_find_unused_parameters=False,
        report_to="none",
        seed=args.seed,
        bf16=args.bf16,
        use_cpu=args.cpu,
    )


def build_trainer(args: argparse.Namespace, train: SegmentationDataset, preset: AugmentationPreset) -> Trainer:
    # A classifier for other classes starts at random; all else comes from the checkpoint.
    model = AutoModelForUniversalSegmentation.from_pretrained(
        args.model, **label_fields(train), ignore_mismatched_sizes=True
    )
    processor = M2FImageProcessor.from_pretrained(
        args.model, task=train.task, thing_label_ids=train.thing_label_ids, size=preset.processor_size
    )
    optimizer = torch.optim.AdamW(parameter_groups(model, args.learning_rate, weight_decay=0.05))
    return Trainer(
        model,
        training_arguments(args),
        # Trainer counts the targets of a step in "labels", so that passes add up to the whole batch.
        Collator(processor, keep_size=True, canvas=preset.canvas, count_labels=True),
        TrainingDataset(train, preset.augmentation, args.seed),
        processing_class=processor,
        optimizers=(optimizer, None),
        callbacks=[DatasetEpoch()],
    )


def main(args: argparse.Namespace):
    set_seed(args.seed)
    train, validation = (open_split(args, split) for split in (args.train_split, args.validation_split))
    check_labels(validation.id2label, train.id2label, f"split {validation.split!r}")
    trainer = build_trainer(args, train, augmentation_preset("fine-tune", args.size))
    trainer.train(resume_from_checkpoint=args.resume)
    trainer.save_model()
    trainer.save_state()
    metric = make_metric(validation)
    results = evaluate_model(
        trainer.model, trainer.processing_class, validation, metric=metric, workers=args.workers, progress=True
    )
    trainer.save_metrics("eval", results)
    if trainer.is_world_process_zero():
        for row in metric.per_class_table():
            print(f"{row['name']:24} IoU {row['IoU']:.3f}")
        print(f"model: {args.output}, mIoU {results['mIoU']:.4f}, pixel accuracy {results['pACC']:.4f}")


if __name__ == "__main__":
    main(parse_args())
