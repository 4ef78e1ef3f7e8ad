"""Every choice of a training run in one flat dataclass; a field is a flag of `m2f train` and a key of a yaml file."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from m2f.image_processing.channel_counts import MOST_CHANNELS

SCHEDULES = ("poly", "multistep")
# The types of torch by their names -> of the matrix products, under Accelerate's names.
PRECISION_OF_DTYPE = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}
PRECISIONS = tuple(PRECISION_OF_DTYPE.values())
ON_BROKEN_IMAGE = ("raise", "skip")
RECIPE_BATCH_SIZE = 16  # images in a step of every configuration of the original; its learning rate belongs to it


def _option(default: Any, help: str, choices: tuple[str, ...] | None = None) -> Any:
    return field(default=default, metadata={"help": help, "choices": choices})


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """What `m2f train` does. The help of each field says what it means; defaults stand here and nowhere else.

    Raises:
        ValueError: a value out of its range, or values that contradict each other.
    """

    preset: str | None = _option(None, "published recipe, such as coco-instance-r50; other options override it")

    data: str = _option("", "the dataset: a folder or an annotation file")
    data_format: str = _option("auto", "format of the dataset; auto finds out")
    image_folder: str | None = _option(None, "where the images are, if not beside their labels")
    data_options: tuple[str, ...] = _option((), "NAME=VALUE for the reader of the format, such as ignore_index=0")
    train_split: str = _option("train", "split to train on")
    validation_data: str | None = _option(None, "the dataset to evaluate on, if it is not a split of --data")
    validation_image_folder: str | None = _option(None, "where its images are")
    validation_split: str | None = _option(
        None, "split to evaluate on; by default the one called val, valid, validation or dev; none: no evaluation"
    )
    validation_fraction: float | None = _option(
        None, "evaluate on this share of the images of --train-split, chosen by their names, and train on the others"
    )
    white_level: str | None = _option(
        None, "value that is white in images of more than 8 bits: a number, type, data or auto (--model's, or auto)"
    )
    channels: int | None = _option(
        None, "of the images; a pretrained first layer is adapted to them (--model's or --backbone's, 3 mostly)"
    )
    on_broken_image: str = _option("raise", "what an image that cannot be read does to the run", ON_BROKEN_IMAGE)

    model: str | None = _option(None, "start from this checkpoint of m2f or mask2former: folder, Hub id or nuclei")
    backbone: str | None = _option(None, "start from this pretrained backbone, a folder or Hub id")
    scratch: str | None = _option(None, "start from random weights of the model that this config.json describes")
    reset_classifier: bool = _option(False, "with --model: new class weights, for a dataset of other classes")
    num_queries: int | None = _option(None, "of a new model: most segments of an image (100)")
    drop_path_rate: float | None = _option(None, "of a new model: stochastic depth of the backbone (its own)")
    frozen_batch_norm: bool | None = _option(None, "of a new model: freeze the backbone's BatchNorm layers (yes)")
    panoptic_threshold: float | None = _option(None, "class probability that makes a query a panoptic segment (0.8)")

    augmentation: str = _option("fine-tune", "augmentation preset, named like the original's datasets; or none")
    crop_size: int | None = _option(None, "edge of the training crop in pixels, for presets with scale jitter")
    shortest_edge: int | None = _option(None, "in evaluation, images are resized to this (the augmentation's)")
    longest_edge: int | None = _option(None, "but to no more than this")

    class_weights: tuple[str, ...] = _option(
        (), "in the classification loss: numbers in the order of the classes; or NAME=NUMBER, others 1; or a file"
    )

    max_steps: int = _option(5000, "optimizer steps")
    batch_size: int = _option(8, "images of an optimizer step, over all processes and accumulated passes")
    gradient_accumulation_steps: int = _option(1, "forward and backward passes of a step; saves memory, same result")
    learning_rate: float = _option(1e-4, "of everything but the backbone")
    scale_learning_rate: bool = _option(False, f"multiply it by batch_size / {RECIPE_BATCH_SIZE}, the paper's batch")
    backbone_lr_multiplier: float | None = _option(
        None, "learning rate of the backbone, relative (0.1; with layer_decay or lora 1); 1 if it is not pretrained"
    )
    layer_decay: float | None = _option(
        None, "the backbone's learning rate falls by this factor, such as 0.8, from each block to the one before"
    )
    freeze_backbone: bool = _option(False, "leave the backbone as it is: less memory and time, the head alone learns")
    lora: int | None = _option(None, "leave the backbone as it is but for LoRA adapters of this rank, such as 8")
    lora_targets: tuple[str, ...] = _option(
        (), "where: ends of names of the backbone's layers, such as q_proj (all projections of its attention)"
    )
    mask_annealing: tuple[float, ...] = _option(
        (), "START END: between these steps, or shares up to 1 of all, masked attention is faded out layer by layer"
    )
    weight_decay: float = _option(0.05, "of AdamW; norms and embeddings do not decay")
    clip_norm: float = _option(0.01, "largest norm of the gradient of the whole model; 0: no clipping")
    schedule: str = _option("poly", "how the learning rate falls: to 0 by a power, or by steps", SCHEDULES)
    power: float = _option(0.9, "of the schedule poly")
    milestones: tuple[int, ...] = _option((), "of the schedule multistep: after these steps times gamma")
    gamma: float = _option(0.1, "of the schedule multistep")
    warmup_steps: int = _option(0, "the learning rate rises during these, linearly")
    warmup_factor: float = _option(0.001, "from this share")
    mixed_precision: str = _option("no", "of the matrix products (float32); float16 needs a GPU", PRECISIONS)
    gradient_checkpointing: bool = _option(False, "compute activations twice instead of keeping them")
    ema_decay: float = _option(0.0, "evaluate and save an average of the weights, decaying by, say, 0.999; 0: off")
    compile: bool = _option(False, "compile the model with torch.compile")

    output: str = _option("m2f_run", "folder for everything that is written")
    resume: str = _option("auto", "auto: go on from the last checkpoint in --output; or its folder; never: start anew")
    seed: int = _option(0, "of the weights, the order of the images and their augmentation")
    workers: int = _option(2, "processes that read images, per training process; 0: none")
    device: str | None = _option(None, "such as cpu or cuda:1 (a GPU if there is one)")
    cpu: bool = _option(False, "same as --device cpu")
    log_every: int = _option(20, "steps between rows of log.csv")
    evaluate_every: int = _option(500, "steps between evaluations; 0: only at the end")
    evaluation_batch_size: int = _option(1, "images evaluated together, per process")
    metric: str | None = _option(None, "number of the evaluation that decides which model is best (PQ, AP or mIoU)")
    checkpoint_every: int = _option(500, "steps between checkpoints; 0: only at the end")
    keep: int = _option(2, "checkpoints kept, the latest ones; that of the best evaluation is kept too")
    max_skipped: int = _option(25, "the run stops after this many steps in a row without a finite loss or gradient")
    samples: int = _option(4, "images that predictions are drawn of at each evaluation")
    license: str | None = _option(None, "for the model card: that of the weights, such as apache-2.0")
    dataset: tuple[str, ...] = _option((), "for the model card: names or Hub ids of what the model is trained on")
    log_with: tuple[str, ...] = _option((), "experiment trackers of Accelerate, such as tensorboard or wandb")

    def __post_init__(self):
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ValueError(f"{name} is {value}; it must be from {low} to {high}")
        for entry in dataclasses.fields(self):
            choices, value = entry.metadata["choices"], getattr(self, entry.name)
            if choices and value not in choices:
                raise ValueError(f"{entry.name} is {value!r}; it must be one of {', '.join(choices)}")
        if self.cpu and self.device not in (None, "cpu"):
            raise ValueError(f"cpu is true and device is {self.device!r}; give one of the two")
        self._check_milestones()
        self._check_backbone()
        self._check_mask_annealing()
        if self.batch_size % self.gradient_accumulation_steps:
            raise ValueError(
                f"batch_size {self.batch_size} is no multiple of gradient_accumulation_steps "
                f"{self.gradient_accumulation_steps}; batch_size counts the images of all passes of a step"
            )

    def _check_milestones(self):
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones {list(self.milestones)} must ascend")
        if self.schedule == "multistep" and (not self.milestones or self.milestones[-1] >= self.max_steps):
            raise ValueError(
                f"milestones {list(self.milestones)} must lie before the end of the run, max_steps {self.max_steps}; "
                "give --milestones that suit it, or --schedule poly"
            )
        if self.schedule != "multistep" and self.milestones:
            raise ValueError(f"milestones {list(self.milestones)} belong to schedule multistep, not {self.schedule}")

    def _check_backbone(self):
        others = [
            name for name in ("backbone_lr_multiplier", "layer_decay", "lora") if getattr(self, name) is not None
        ]
        if self.freeze_backbone and others:
            raise ValueError(
                f"freeze_backbone is true and {others[0]} is {getattr(self, others[0])}; a frozen backbone has "
                "no learning rate and no adapters: leave one of the two out"
            )
        if self.lora_targets and not self.lora:
            raise ValueError(
                f"lora_targets {list(self.lora_targets)} belong to lora, the rank of the adapters; give it"
            )

    def _check_mask_annealing(self):
        if not self.mask_annealing:
            return
        if len(self.mask_annealing) != 2 or not 0 <= self.mask_annealing[0] < self.mask_annealing[1] < float("inf"):
            raise ValueError(f"mask_annealing is {list(self.mask_annealing)}; give START and END, 0 <= START < END")
        if self.mask_annealing_steps[1] > self.max_steps:
            raise ValueError(
                f"mask_annealing ends at step {self.mask_annealing_steps[1]:g}, after the end of the run, max_steps "
                f"{self.max_steps}; the masks would not be gone then"
            )
        if self.compile:
            raise ValueError("mask_annealing changes the network in each step, and compile fixes it; leave one out")

    @property
    def mask_annealing_steps(self) -> tuple[float, float]:
        """START and END as steps; both up to 1 are shares of `max_steps`."""
        start, end = self.mask_annealing
        unit = self.max_steps if end <= 1 else 1
        return start * unit, end * unit

    @property
    def backbone_rate(self) -> float:
        """Learning rate of the backbone relative to the rest. Without one that is given, the original's, for one that
        was trained before; that of the rest where `layer_decay` lowers it anyway, and for adapters, which are new."""
        if self.backbone_lr_multiplier is not None:
            return self.backbone_lr_multiplier
        return 0.1 if self.layer_decay is None and self.lora is None else 1.0

    @property
    def scaled_learning_rate(self) -> float:
        """`learning_rate`, scaled linearly with the batch where that is asked for."""
        scale = self.batch_size / RECIPE_BATCH_SIZE if self.scale_learning_rate else 1.0
        return self.learning_rate * scale


_MANY = 2**40
_RANGES = {
    "channels": (1, MOST_CHANNELS),
    "num_queries": (1, _MANY),
    "drop_path_rate": (0, 1),
    "panoptic_threshold": (0, 1),
    "crop_size": (1, _MANY),
    "shortest_edge": (1, _MANY),
    "longest_edge": (1, _MANY),
    "max_steps": (1, _MANY),
    "batch_size": (1, _MANY),
    "gradient_accumulation_steps": (1, _MANY),
    "learning_rate": (0, float("inf")),
    "backbone_lr_multiplier": (0, float("inf")),
    "layer_decay": (0.01, 1),
    "lora": (1, 1024),  # what a configuration takes
    "weight_decay": (0, float("inf")),
    "clip_norm": (0, float("inf")),
    "power": (0, float("inf")),
    "gamma": (0, 1),
    "warmup_steps": (0, _MANY),
    "warmup_factor": (0, 1),
    "ema_decay": (0, 1),
    "seed": (0, 2**32 - 1),  # what numpy takes
    "workers": (0, 4096),
    "log_every": (1, _MANY),
    "evaluate_every": (0, _MANY),
    "evaluation_batch_size": (1, _MANY),
    "checkpoint_every": (0, _MANY),
    "keep": (1, _MANY),
    "max_skipped": (1, _MANY),
    "samples": (0, 1000),
}
