"""What a run is put together from: accelerator, prepared model and optimizer, loader."""

import os

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, DistributedType
from torch import nn
from torch.utils.data import DataLoader

from m2f.data.augmentation_presets import AugmentationPreset, augmentation_preset
from m2f.data.collation import Collator
from m2f.data.loader_workers import leave_signals_to_the_main_process
from m2f.data.training_dataset import TrainingDataset
from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation
from m2f.training.backbone_training import prepare_backbone
from m2f.training.class_weights import class_weights_of
from m2f.training.parameter_groups import parameter_groups
from m2f.training.sample_stream import SampleStream, StreamBatches
from m2f.training.starting_point import enable_gradient_checkpointing
from m2f.training.training_options import TrainingOptions
from m2f.training.training_state import Progress, TrainingState
from m2f.training.weight_average import WeightAverage
from m2f.validation.accelerator_device import accelerator_on

NO_AUGMENTATION = "none"


def make_accelerator(options: TrainingOptions) -> Accelerator:
    """Device, precision, trackers and compilation; processes and sharding are `accelerate launch`'s business.

    Raises:
        ValueError: the precision is not to be had on the device, or a tracker is not installed.
    """
    # Every parameter gets a gradient from every batch, so that nothing has to look for unused ones.
    parallel = DistributedDataParallelKwargs(gradient_as_bucket_view=True)
    accelerator = accelerator_on(
        "cpu" if options.cpu else options.device,
        mixed_precision=options.mixed_precision,
        log_with=list(options.log_with) or None,
        project_dir=options.output,
        dynamo_backend="inductor" if options.compile else "no",
        kwargs_handlers=[parallel],
    )
    if options.mixed_precision == "fp16" and accelerator.device.type == "cpu":  # Accelerate would train in float32
        raise ValueError("mixed_precision fp16 needs a GPU; on a CPU use --dtype bfloat16 or float32")
    if len(accelerator.log_with) < len(options.log_with):  # Accelerate leaves out what is not installed
        there = [str(getattr(tracker, "value", tracker)) for tracker in accelerator.log_with]
        raise ValueError(
            f"of the trackers {', '.join(options.log_with)} only {', '.join(there) or 'none'} can be used; install "
            "the others, or leave them out of --log-with"
        )
    return accelerator


def sharding_remarks(accelerator: Accelerator) -> list[str]:
    """A line where `accelerate launch` was told to shard the model and Accelerate does not, without a word: it has
    FSDP for several processes on GPUs or other devices, and trains in plain data parallelism on CPUs."""
    is_wanted = os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"
    if not is_wanted or accelerator.distributed_type == DistributedType.FSDP:
        return []
    return [
        f"FSDP is not used, because Accelerate has it for several processes on GPUs alone; this run has "
        f"{accelerator.num_processes} on {accelerator.device.type}, each with the whole model"
    ]


def prepared_state(
    options: TrainingOptions, model: M2FForUniversalSegmentation, accelerator: Accelerator
) -> TrainingState:
    """Model and optimizer, as Accelerate wraps them.

    Raises:
        ValueError: BatchNorm layers that learn, in several processes on CPUs; class weights that do not fit; or from
            `prepare_backbone`.
    """
    if options.class_weights:  # otherwise those of the model that the run starts with, or goes on with
        model.set_class_weights(class_weights_of(options.class_weights, model.config.id2label or {}))
    prepare_backbone(options, model)
    if options.gradient_checkpointing:
        enable_gradient_checkpointing(model)
    shared_model = _with_shared_batch_norm(model, accelerator)
    groups = parameter_groups(
        shared_model,
        options.scaled_learning_rate,
        options.weight_decay,
        options.backbone_rate,
        options.layer_decay,
    )
    # With a gradient scaler, torch's fused AdamW decides by itself whether to skip, and Accelerate cannot tell.
    optimizer = torch.optim.AdamW(groups, fused=accelerator.scaler is None)
    prepared_model, prepared_optimizer = accelerator.prepare(shared_model, optimizer)
    state = TrainingState(accelerator, prepared_model, prepared_optimizer, None, Progress())
    if options.ema_decay:
        state.average = WeightAverage(state.plain_model, options.ema_decay)
    return state


def training_loader(
    options: TrainingOptions,
    stream: SampleStream,
    batches: StreamBatches,
    processor: M2FImageProcessor,
    augmentation: AugmentationPreset | None,
    device: torch.device,
) -> DataLoader:
    """Batches of this process from `batches`, on the CPU.

    Args:
        augmentation: by default the options' preset; its images keep the size that they get from it.
    """
    if augmentation is None and options.augmentation != NO_AUGMENTATION:
        augmentation = augmentation_preset(options.augmentation, options.crop_size)
    change, canvas = (augmentation.augmentation, augmentation.canvas) if augmentation else (None, None)
    return DataLoader(
        TrainingDataset(stream, change, options.seed, on_error=options.on_broken_image),
        batch_sampler=batches,
        collate_fn=Collator(processor, keep_size=change is not None, canvas=canvas),
        num_workers=options.workers,
        pin_memory=device.type == "cuda",
        worker_init_fn=leave_signals_to_the_main_process,
        # A generator of its own: making an iterator draws from the global one, whose state a checkpoint restores.
        generator=torch.Generator(),
    )


def _with_shared_batch_norm(model: nn.Module, accelerator: Accelerator) -> nn.Module:
    """BatchNorm layers that are not frozen share their statistics over processes, as the original's SyncBN."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    learning = [norm for norm in norms if norm.weight is None or norm.weight.requires_grad]
    if not learning or accelerator.num_processes == 1:
        return model
    if accelerator.device.type != "cuda":
        raise ValueError(
            f"the backbone has {len(learning)} BatchNorm layers that learn, which cannot share their statistics over "
            f"{accelerator.num_processes} processes on {accelerator.device.type}; freeze them (--frozen-batch-norm)"
        )
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)
