"""M2FTrainer on the shapes dataset."""

from shapes_dataset import ShapesDataset, shapes_model, shapes_processor
from torch import nn
from transformers import TrainingArguments

from m2f.training.m2f_trainer import M2FTrainer

COUNT = 8  # images, of one to three targets each


def arguments(output, batch_size: int = 4, passes: int = 1, **others) -> TrainingArguments:
    fields = {
        "max_steps": 2,
        "learning_rate": 1e-2,
        "optim": "sgd",
        "max_grad_norm": 0.0,
        "lr_scheduler_type": "constant",
        "save_strategy": "no",
        "logging_steps": 1,
    }
    return TrainingArguments(
        output_dir=str(output),
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=2,
        gradient_accumulation_steps=passes,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        **{**fields, **others},
    )


def make_trainer(args: TrainingArguments, model: nn.Module | None = None, **others) -> M2FTrainer:
    """With one learning rate for all, as plain Trainer has it."""
    fields = {
        "train_dataset": ShapesDataset(COUNT),
        "processing_class": shapes_processor(),
        "backbone_lr_multiplier": 1,
    }
    return M2FTrainer(model or shapes_model(), args, **{**fields, **others})
