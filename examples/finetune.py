"""Fine-tunes a Mask2Former on data of your own, with M2FTrainer: the task's metric after every so many steps, the best
model kept, and an early end where nothing gets better. The data may be of any format that `open_dataset` reads.

    python examples/finetune.py --task instance --data my_coco --model CHECKPOINT --output my_model

In several processes: `accelerate launch examples/finetune.py ...`.
"""

import argparse
import json

from transformers import AutoModelForUniversalSegmentation, EarlyStoppingCallback, TrainingArguments, set_seed

from m2f.data.augmentation_presets import AugmentationPreset, augmentation_preset
from m2f.data.collation import Collator
from m2f.data.dataset_formats import open_dataset
from m2f.data.segmentation_dataset import SegmentationDataset
from m2f.data.training_dataset import TrainingDataset
from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.training.m2f_trainer import M2FTrainer
from m2f.validation.label_check import label_fields

# Task -> the number that the best model is chosen by, which classes have too, and others that are shown.
METRICS = {"instance": ("AP", "AP50"), "panoptic": ("PQ", "PQ_th", "PQ_st"), "semantic": ("mIoU", "pACC")}
PER_CLASS = {"instance": "AP", "panoptic": "PQ", "semantic": "IoU"}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", required=True, choices=METRICS, help="what the labels are made for")
    parser.add_argument("--data", required=True, help="a folder, an annotation file, or a dataset's name on the Hub")
    parser.add_argument("--validation-data", help="the same for evaluation, if it is elsewhere")
    parser.add_argument("--train-split", default="train")
    parser.add_argument("--validation-split", default="val")
    parser.add_argument("--data-options", type=json.loads, default={}, help="of open_dataset, as json")
    parser.add_argument("--model", required=True, help="checkpoint to start from, a folder or a name on the Hub")
    parser.add_argument("--output", required=True, help="folder for the best model and the checkpoints")
    parser.add_argument("--size", type=int, default=640, help="edge of the training crop, longest edge in evaluation")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--batch-size", type=int, default=8, help="images of a step on each process")
    parser.add_argument("--passes", type=int, default=1, help="that a step is divided into; saves memory, same result")
    parser.add_argument("--learning-rate", type=float, default=1e-4, help="a tenth of it for the backbone")
    parser.add_argument("--evaluate-every", type=int, default=500, help="steps; a checkpoint is written as well")
    parser.add_argument("--patience", type=int, default=5, help="evaluations without a better one before the end")
    parser.add_argument("--workers", type=int, default=4, help="processes that read images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16")
    parser.add_argument("--cpu", action="store_true", help="even if there is a GPU")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --output")
    args = parser.parse_args(argv)
    if args.passes < 1 or args.batch_size % args.passes:
        parser.error(f"--batch-size {args.batch_size} must be a multiple of --passes {args.passes}")
    return args


def open_split(args: argparse.Namespace, path: str, split: str) -> SegmentationDataset:
    dataset = open_dataset(path, split, **args.data_options)
    if dataset.task != args.task:
        raise ValueError(f"{path} has {dataset.task} labels; give --task {dataset.task}")
    return dataset


def training_arguments(args: argparse.Namespace) -> TrainingArguments:
    """The paper's recipe: AdamW with weight decay 0.05, gradients clipped to 0.01, and a rate that falls to 0."""
    return TrainingArguments(
        output_dir=args.output,
        max_steps=args.steps,
        per_device_train_batch_size=args.batch_size // args.passes,
        gradient_accumulation_steps=args.passes,
        per_device_eval_batch_size=1,
        learning_rate=args.learning_rate,
        weight_decay=0.05,
        max_grad_norm=0.01,
        lr_scheduler_type="polynomial",
        lr_scheduler_kwargs={"power": 0.9, "lr_end": 0.0},
        eval_strategy="steps",
        eval_steps=args.evaluate_every,
        save_strategy="steps",
        save_steps=args.evaluate_every,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model=f"eval_{METRICS[args.task][0]}",
        logging_steps=min(20, args.evaluate_every),
        dataloader_num_workers=args.workers,
        ddp_find_unused_parameters=False,
        report_to="none",
        seed=args.seed,
        bf16=args.bf16,
        use_cpu=args.cpu,
    )


def make_processor(args: argparse.Namespace, dataset: SegmentationDataset, size: dict[str, int]) -> M2FImageProcessor:
    """The checkpoint's, for the dataset's labels. It keeps the value that is white (--data-options '{"white_level":
    4095}'), with which the model is to be used afterwards; images of 8 bits need none."""
    fields = {} if dataset.white_level is None else {"white_level": dataset.white_level}
    return M2FImageProcessor.from_pretrained(
        args.model, task=dataset.task, thing_label_ids=dataset.thing_label_ids, size=size, **fields
    )


def build_trainer(
    args: argparse.Namespace,
    train: SegmentationDataset,
    validation: SegmentationDataset,
    preset: AugmentationPreset,
) -> M2FTrainer:
    # A classifier for other classes starts at random; all else comes from the checkpoint.
    model = AutoModelForUniversalSegmentation.from_pretrained(
        args.model, **label_fields(train), ignore_mismatched_sizes=True
    )
    processor = make_processor(args, train, preset.processor_size)
    for dataset in (train, validation):
        dataset.white_level = processor.white_level  # with which the model will be used
    return M2FTrainer(
        model,
        training_arguments(args),
        Collator(processor, keep_size=True, canvas=preset.canvas),
        TrainingDataset(train, preset.augmentation, args.seed),
        validation,
        processor,
        callbacks=[EarlyStoppingCallback(args.patience)],
    )


def main(args: argparse.Namespace):
    set_seed(args.seed)
    train = open_split(args, args.data, args.train_split)
    validation = open_split(args, args.validation_data or args.data, args.validation_split)
    trainer = build_trainer(args, train, validation, augmentation_preset("fine-tune", args.size))
    trainer.train(resume_from_checkpoint=args.resume)
    trainer.save_model()
    trainer.save_state()
    metrics = trainer.evaluate()
    trainer.save_metrics("eval", metrics)
    if trainer.is_world_process_zero():
        name = PER_CLASS[args.task]
        for row in trainer.metric.per_class_table():
            print(f"{row['name']:24} {name} {row[name]:.3f}")
        shown = ", ".join(f"{number} {metrics[f'eval_{number}']:.4f}" for number in METRICS[args.task])
        print(f"best model: {args.output}, {shown}")


if __name__ == "__main__":
    main(parse_args())
