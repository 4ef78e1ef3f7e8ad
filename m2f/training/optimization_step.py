"""One update of the weights: passes, agreement of all processes that all is finite, clipping, step."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, send_to_device
from torch import Tensor, nn

from m2f.training.training_state import TrainingState

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class StepResult:
    """What one step did.

    Args:
        loss: of all images of the step; None if the step was skipped before its loss was known.
        terms: the loss terms, unweighted, by the model's names.
        gradient_norm: before clipping.
        skipped_because: None, or why the weights did not change.
        overflowed: whether that is an overflow in fp16, with which its gradient scaler finds the largest scale.
    """

    loss: float | None = None
    terms: dict[str, float] = field(default_factory=dict)
    gradient_norm: float | None = None
    skipped_because: str | None = None
    overflowed: bool = False


class OptimizationStep:
    """Does steps. The loss of a step is that of all of its images at once, for any number of passes and processes.

    Args:
        state: model and optimizer.
        batch_size: images of a step, over all processes.
        clip_norm: largest norm of the gradient; 0 for any.
    """

    def __init__(self, state: TrainingState, batch_size: int, clip_norm: float):
        self.state = state
        self.batch_size = batch_size
        self.clip_norm = clip_norm or float("inf")

    def __call__(self, batches: Sequence[Batch], names_of: Callable[[int], Sequence[str]]) -> StepResult:
        """One step.

        Args:
            batches: of each pass, on this process.
            names_of: gives the names of the images of a pass on this process.

        Raises:
            ValueError: a batch does not fit the model, or the batches do not make up the step.
        """
        accelerator, optimizer = self.state.accelerator, self.state.optimizer
        counts = self._counts(batches)
        sums: dict[str, Tensor] = {}
        for number, batch in enumerate(batches):
            batch = send_to_device(dict(batch), accelerator.device, non_blocking=True)
            is_last = number == len(batches) - 1
            with nullcontext() if is_last else accelerator.no_sync(self.state.model):
                reason = self._one_pass(batch, counts, names_of(number), sums)
            if reason is not None:
                optimizer.zero_grad()
                return StepResult(skipped_because=reason)
        norm, reason = self._update()
        if reason is not None:
            own = [name for number in range(len(batches)) for name in names_of(number)]
            reason = f"{reason}, at {', '.join(gather_object(own))}"
        loss, *terms = accelerator.reduce(torch.stack(list(sums.values()))).tolist()
        overflowed = reason is not None and accelerator.scaler is not None
        return StepResult(loss, dict(zip(list(sums)[1:], terms, strict=True)), norm, reason, overflowed)

    def _counts(self, batches: Sequence[Batch]) -> dict[str, Tensor]:
        """Of the whole step, on all processes. The masks are not read: the collator leaves none without a pixel."""
        images = sum(len(batch["class_labels"]) for batch in batches) * self.state.accelerator.num_processes
        if images != self.batch_size:
            raise ValueError(f"the step has {images} images, and its batch_size is {self.batch_size}")
        own = [self.state.plain_model.count_targets(batch["class_labels"]) for batch in batches]
        sums = torch.stack([torch.stack(list(counts.values())) for counts in own]).sum(0)
        return dict(zip(own[0], self.state.accelerator.reduce(sums), strict=True))

    def _one_pass(
        self, batch: Batch, counts: dict[str, Tensor], names: Sequence[str], sums: dict[str, Tensor]
    ) -> str | None:
        """Forward and backward; adds the loss and its terms to `sums`. Gives the reason where no update may follow."""
        outputs, error = self._forward(batch, counts)
        is_finite = outputs is not None and bool(outputs.loss.isfinite())
        if not _everywhere(is_finite, self.state.accelerator):
            return self._reason(batch, outputs, error, names)
        # Gradients are averaged over processes, and the sum is wanted.
        self.state.accelerator.backward(outputs.loss * self.state.accelerator.num_processes)
        for name, value in {"loss": outputs.loss, **outputs.loss_dict}.items():
            value = value.detach().double()
            sums[name] = sums[name] + value if name in sums else value
        return None

    def _forward(self, batch: Batch, counts: dict[str, Tensor]):
        """(outputs, None), or (None, error) where the model refuses; whether that is for numbers that are not finite
        is found out after all processes agreed to stop, because the others wait for this one."""
        try:
            return self.state.model(**batch, **counts), None
        except ValueError as error:
            return None, error

    def _reason(self, batch: Batch, outputs, error: ValueError | None, names: Sequence[str]) -> str:
        """Which terms and images are not finite, on any process."""
        finite = _finite_images(self.state.model, batch)
        if error is not None and all(finite):
            raise error
        found = []
        if outputs is not None and not bool(outputs.loss.isfinite()):
            terms = [name for name, value in outputs.loss_dict.items() if not bool(value.isfinite())]
            found.append(f"not finite: {', '.join(terms) or 'their weighted sum'}")
        if error is not None:
            found.append("not finite: the class or mask logits")
        if not found:
            return "; ".join(gather_object([]))
        blamed = [name for name, is_finite in zip(names, finite, strict=True) if not is_finite] or list(names)
        return "; ".join(gather_object([f"{found[0]}, at {', '.join(blamed)}"]))

    def _update(self) -> tuple[float, str | None]:
        """The gradient's norm, and why the weights stay as they are, if they do."""
        accelerator, optimizer = self.state.accelerator, self.state.optimizer
        norm = accelerator.clip_grad_norm_(self.state.model.parameters(), self.clip_norm)
        norm = float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
        reason = None
        if accelerator.scaler is not None:
            optimizer.step()  # skips by itself where a gradient is not finite, and lowers its scale
            if optimizer.step_was_skipped:
                scale = accelerator.scaler.get_scale()
                reason = f"the gradient overflows in fp16; its scale is {scale:g} from now on"
        elif norm == norm and abs(norm) != float("inf"):
            optimizer.step()
        else:
            reason = f"not finite: the gradient (norm {norm}), while the loss is"
        optimizer.zero_grad()
        return norm, reason


def _everywhere(flag: bool, accelerator: Accelerator) -> bool:
    """Whether it is so on every process, so that all go the same way."""
    if accelerator.num_processes == 1:
        return flag
    wrong = torch.tensor(float(not flag), device=accelerator.device)
    return not accelerator.reduce(wrong).item()


@torch.no_grad()
def _finite_images(model: nn.Module, batch: Batch) -> list[bool]:
    """Whether an image's predictions are finite, without its labels."""
    outputs = model(pixel_values=batch["pixel_values"], pixel_mask=batch["pixel_mask"])
    logits = (outputs.class_queries_logits, outputs.masks_queries_logits)
    return torch.stack([tensor.isfinite().flatten(1).all(1) for tensor in logits]).all(0).tolist()
