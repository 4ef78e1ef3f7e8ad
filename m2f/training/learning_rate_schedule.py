"""The learning rate of each step, relative to the base: a function of the step alone, so that nothing is to be saved.

Source: detectron2's WarmupPolyLR (projects/DeepLab) and WarmupMultiStepLR, which the original's configurations name.
"""

from bisect import bisect_right
from dataclasses import dataclass

from m2f.training.training_options import TrainingOptions


@dataclass(frozen=True)
class LearningRateSchedule:
    """Decay times warm-up.

    Args:
        kind: "poly" falls as (1 - step / max_steps) ** power, "multistep" is multiplied by `gamma` from each of
            `milestones` on.
        max_steps: steps of the run.
        warmup_steps, warmup_factor: the warm-up rises linearly from `warmup_factor` at step 0 to 1 at `warmup_steps`.
    """

    kind: str
    max_steps: int
    power: float = 0.9
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    warmup_steps: int = 0
    warmup_factor: float = 0.001

    @classmethod
    def from_options(cls, options: TrainingOptions) -> "LearningRateSchedule":
        return cls(
            options.schedule,
            options.max_steps,
            options.power,
            options.milestones,
            options.gamma,
            options.warmup_steps,
            options.warmup_factor,
        )

    def factor(self, step: int) -> float:
        """In [0, 1], for the update after `step` others, 0 for the first, as detectron2 counts."""
        return self._warmup(step) * self._decay(step)

    def _warmup(self, step: int) -> float:
        if step >= self.warmup_steps:
            return 1.0
        share = step / self.warmup_steps
        return self.warmup_factor * (1 - share) + share

    def _decay(self, step: int) -> float:
        if self.kind == "multistep":
            return self.gamma ** bisect_right(self.milestones, step)
        return (1 - min(step / self.max_steps, 1)) ** self.power
