"""transformers' Trainer with the original's parameter groups, exact accumulation, and an evaluation that streams.

Plain `transformers.Trainer` trains the models as well, with `Collator(processor, count_labels=True)`:
- It needs no `remove_unused_columns=False`, because the readers give samples and not dicts of columns.
- `labels`, which it counts, make accumulation exact where images have equally many targets, with
  `M2FConfig.class_weights` of equal weight (a warning says so); `M2FTrainer` counts images and class weights too.
- It has one learning rate for backbone and head, and rules of its own for weight decay; `optimizers` may bring an
  optimizer with `parameter_groups`.
- It calls the collator for `eval_dataset` too, and measures the loss alone. `compute_metrics` would get masks of all
  images, gathered; leave it out and call `evaluate_model` after training, or use `M2FTrainer`.
- In several processes it needs `DatasetEpoch` among its `callbacks`.
"""

from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import EvalLoopOutput

from m2f.data.collation import Collator
from m2f.data.segmentation_dataset import SegmentationDataset
from m2f.data.training_dataset import TrainingDataset
from m2f.evaluation.streaming_metric import StreamingMetric
from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation
from m2f.training.parameter_groups import parameter_groups
from m2f.training.trainer_checks import (
    check_evaluation_data,
    check_extras,
    check_layer_decay,
    check_model,
    check_reader,
    check_settings,
    check_training_data,
)
from m2f.validation.evaluation_loop import evaluate_model
from m2f.validation.task_metric import make_metric

LOGGED_TERMS = ("loss_ce", "loss_mask", "loss_dice")  # of the last prediction
# What `get_optimizer_cls_and_kwargs` gives for optimizers that make their own groups (GaLore, LOMO, layer-wise ones).
_OWN_GROUPS = ("params", "model", "optimizer_dict")


class DatasetEpoch(TrainerCallback):
    """Tells a `TrainingDataset` the epoch, so that its augmentation changes. Accelerate's loader does so in a run of
    one process only, see `TrainingDataset`."""

    def on_epoch_begin(self, args, state, control, train_dataloader=None, **kwargs):
        set_epoch = getattr(getattr(train_dataloader, "dataset", None), "set_epoch", None)
        if set_epoch is not None:
            set_epoch(int(state.epoch or 0))


class M2FTrainer(Trainer):
    """A Trainer for `M2FForUniversalSegmentation`. All that is not said here is as in transformers.

    An optimizer step is the same however its images are divided into passes (`gradient_accumulation_steps`) and
    processes, whatever `average_tokens_across_devices` says. Evaluation goes image by image into the task's metric, at
    each image's own size; no mask is gathered, kept, or sent to another process. Its numbers are called "eval_PQ",
    "eval_AP", "eval_mIoU" and so on, see `METRICS`; there is no "eval_loss". Logs have the loss terms of the last
    prediction, unweighted: "loss_ce", "loss_mask", "loss_dice".

    The paper's recipe is `TrainingArguments(learning_rate=1e-4, weight_decay=0.05, max_grad_norm=0.01,
    lr_scheduler_type="polynomial", lr_scheduler_kwargs={"power": 0.9, "lr_end": 0.0}, ...)`;
    `ddp_find_unused_parameters=False` saves time in several processes, because every parameter gets a gradient.

    Args:
        model, args, data_collator, train_dataset, eval_dataset, processing_class: as in transformers.
            `train_dataset` is a reader of `m2f.data` or a `TrainingDataset` of one, or with a `data_collator` anything
            that it takes, if its batches have "pixel_values" and "class_labels". Without one, a `Collator` leaves
            augmented images the size that they got, and has the processor resize others.
            `eval_dataset` is a reader, or a dict of several.
            `processing_class`, the image processor, prepares and post-processes images, and is saved with the model.
        task: that the evaluation measures, one of `METRICS`; by default the one that a dataset's labels are made for.
        backbone_lr_multiplier: learning rate of the backbone, relative to the rest; by default 0.1, and 1 with
            `layer_decay`, which lowers it anyway. 1 for one that starts at random.
        layer_decay: factor in (0, 1] of the learning rate from each block of the backbone to the one before it, see
            `block_depths`. A scheduler multiplies every rate alike.
        trainer_arguments: the others of transformers' Trainer. `compute_metrics`, `compute_loss_func` and
            `preprocess_logits_for_metrics` are refused, because nothing would call them.

    Attributes:
        metric: of the last evaluation; it has a `per_class_table`.

    Raises:
        TypeError: a dataset that is no reader, or a model or processor of another kind.
        ValueError: a dataset whose classes are not the model's, an unknown `task`, a `metric_for_best_model` that is
            not measured, or arguments that do not go together; or `layer_decay` with a backbone that is frozen, or
            does not tell how deep its layers lie.
    """

    # Of transformers 5.23; 5.17 concludes the same from `num_items_in_batch`.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: nn.Module | None = None,
        args: Any = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: SegmentationDataset | dict[str, SegmentationDataset] | None = None,
        processing_class: M2FImageProcessor | None = None,
        *,
        task: str | None = None,
        backbone_lr_multiplier: float | None = None,
        layer_decay: float | None = None,
        **trainer_arguments: Any,
    ):
        check_extras(trainer_arguments)
        super().__init__(
            model, args, data_collator, train_dataset, eval_dataset, processing_class, **trainer_arguments
        )
        self.task = task
        default = 0.1 if layer_decay is None else 1.0
        self.backbone_lr_multiplier = default if backbone_lr_multiplier is None else backbone_lr_multiplier
        self.layer_decay = layer_decay
        self.metric: StreamingMetric | None = None
        self._terms: dict[str, Tensor] = {}
        self._steps_in_terms = 0
        self._counts: dict[str, Tensor] = {}
        check_model(self.model, processing_class)
        check_settings(self.args, task)
        check_layer_decay(self._our_model, layer_decay)
        config = self._our_model.config
        check_training_data(train_dataset, config, with_own_collator=data_collator is not None)
        check_evaluation_data(eval_dataset, config, self.args, task)
        if data_collator is None:
            assert processing_class is not None  # checked with the model
            self.data_collator = Collator(processing_class, keep_size=_is_augmented(train_dataset))
        self.add_callback(DatasetEpoch())

    @property
    def _our_model(self) -> M2FForUniversalSegmentation:
        """`check_model` made sure of its class; a wrapper may stand around it."""
        return cast(M2FForUniversalSegmentation, self.model)

    def train(self, *args, **kwargs):
        """As in transformers."""
        self._terms, self._steps_in_terms = {}, 0  # an earlier run may have been interrupted
        return super().train(*args, **kwargs)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """That of `args.optim`, with `parameter_groups`; a given one stays.

        Raises:
            ValueError: `args.optim` is one that makes its own groups.
        """
        if self.optimizer is None:
            model = self._our_model if model is None else model
            given = self.optimizer_cls_and_kwargs
            # Transformers' annotation is too narrow: its own `create_optimizer` hands on any module.
            optimizer_class, settings = given or self.get_optimizer_cls_and_kwargs(self.args, cast(Any, model))
            is_optimizer = isinstance(optimizer_class, type) and issubclass(optimizer_class, torch.optim.Optimizer)
            if not is_optimizer or set(_OWN_GROUPS) & set(settings):
                raise ValueError(
                    f"optim={str(self.args.optim)!r} makes its own parameter groups; give M2FTrainer such an "
                    "optimizer ready-made, as optimizers=(optimizer, None)"
                )
            rate = settings.get("lr", self.args.learning_rate)
            decay = settings.get("weight_decay", self.args.weight_decay)
            groups = parameter_groups(model, rate, decay, self.backbone_lr_multiplier, self.layer_decay)
            # The learning rate in the log is the first group's.
            groups.sort(key=lambda group: group["name"].startswith("backbone"))
            self.optimizer = optimizer_class(groups, **settings)
        return self.optimizer

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, Tensor | None]:
        """The batches of a step, and its targets on all processes; counts its images and class weights as well."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return batches, None
        model = self.accelerator.unwrap_model(self.model)
        # Ours leaves no mask without a pixel; of another nothing is known before the masks are read.
        reads_masks = not isinstance(self.data_collator, Collator)
        own = [model.count_targets(b["class_labels"], b.get("mask_labels") if reads_masks else None) for b in batches]
        sums = torch.stack([torch.stack(list(counts.values())) for counts in own]).sum(0)
        self._counts = dict(zip(own[0], self.accelerator.reduce(sums.to(device)), strict=True))
        self._steps_in_terms += 1
        return batches, self._counts["num_items_in_batch"]

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        """The batch's share of the loss of all images of the step, where `num_items_in_batch` says that it has more;
        times the number of processes, which average their gradients."""
        if num_items_in_batch is None:
            outputs = model(**inputs)
            return (outputs.loss, outputs) if return_outputs else outputs.loss
        outputs = model(**inputs, **{**self._counts, "num_items_in_batch": num_items_in_batch})
        for name in LOGGED_TERMS:
            self._terms[name] = self._terms.get(name, 0) + outputs.loss_dict[name].detach()
        loss = outputs.loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], *args, **kwargs):
        """As in transformers; beside a "loss" also the means of its terms over the same steps."""
        super().log({**logs, **self._take_terms()} if "loss" in logs else logs, *args, **kwargs)

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """What `evaluate` and `predict` measure, on the reader that `dataloader` was made for; the loader itself,
        `prediction_loss_only` and `ignore_keys` play no part. Predictions and labels are None.

        Raises:
            TypeError, ValueError: the reader does not fit, or an image cannot be read.
        """
        dataset = cast(SegmentationDataset, dataloader.dataset)  # the next line checks it
        check_reader(dataset, "the dataset to evaluate on", self._our_model.config)
        optimizer_eval = getattr(self.optimizer, "eval", None)
        if optimizer_eval is not None:  # those without a schedule, which evaluate an average of the weights
            optimizer_eval()
        self.metric = make_metric(dataset, self.task)
        results = evaluate_model(
            _InMixedPrecision(self._our_model, self.accelerator),
            cast(M2FImageProcessor, self.processing_class),  # `check_model` made sure of it
            dataset,
            self.task,
            metric=self.metric,
            batch_size=self.args.eval_batch_size,
            workers=self.args.dataloader_num_workers,
            progress=not self.args.disable_tqdm and self.is_local_process_zero(),
        )
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in results.items()}
        nothing: Any = None  # no prediction is kept, which transformers' annotation does not foresee
        return EvalLoopOutput(predictions=nothing, label_ids=None, metrics=metrics, num_samples=len(dataset))

    def _take_terms(self) -> dict[str, float]:
        """The means since the last call over the steps and all processes; every process has to call it."""
        steps, self._steps_in_terms = self._steps_in_terms, 0
        terms, self._terms = self._terms, {}
        if not terms:
            return {}
        sums = self.accelerator.reduce(torch.stack(list(terms.values())))
        return dict(zip(terms, (sums / steps).tolist(), strict=True))


class _InMixedPrecision(nn.Module):
    """A model in the precision of training, whether or not training has prepared it; the outputs are float32, so that
    post-processing is exact."""

    def __init__(self, model: nn.Module, accelerator: Accelerator):
        super().__init__()
        self.model = model
        self.accelerator = accelerator
        self.train(model.training)

    def forward(self, **inputs: Tensor) -> Any:
        with self.accelerator.autocast():
            outputs = self.model(**inputs)
        for name, value in outputs.items():
            if torch.is_tensor(value) and value.is_floating_point():
                outputs[name] = value.float()
        return outputs


def _is_augmented(dataset: Any) -> bool:
    return isinstance(dataset, TrainingDataset) and dataset.augmentation is not None
