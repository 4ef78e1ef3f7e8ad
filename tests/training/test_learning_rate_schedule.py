"""Expected values: the formulas of detectron2's WarmupMultiStepLR and WarmupPolyLR, worked out for the original's
configurations."""

import pytest

from m2f.training.learning_rate_schedule import LearningRateSchedule
from m2f.training.option_values import resolve_options


def factors(steps, **options) -> list[float]:
    schedule = LearningRateSchedule.from_options(resolve_options(options))
    return [schedule.factor(step) for step in steps]


def test_coco_falls_by_ten_at_its_milestones():
    """MAX_ITER 368750, STEPS (327778, 355092): the step after so many others is the first with the lower rate."""
    steps = (0, 327_777, 327_778, 355_091, 355_092, 368_749)
    expected = [1, 1, 0.1, 0.1, 0.01, 0.01]
    assert factors(steps, preset="coco-instance-r50") == pytest.approx(expected, rel=1e-12)


def test_poly_falls_with_the_power_of_what_is_left():
    """ADE20K, MAX_ITER 160000: (1 - 80000 / 160000) ** 0.9 = 0.5 ** 0.9 = 0.535886731268146."""
    expected = [1, 0.535886731268146, (1 / 160_000) ** 0.9]
    assert factors((0, 80_000, 159_999), preset="ade20k-semantic-r50") == pytest.approx(expected, rel=1e-12)


def test_it_never_leaves_zero_after_the_end():
    assert factors((100, 150), max_steps=100) == [0, 0]


def test_warmup_rises_linearly_and_multiplies_the_schedule():
    """detectron2's defaults, WARMUP_FACTOR 1/1000 and WARMUP_ITERS 1000: at step 500 0.001 * 0.5 + 0.5 = 0.5005."""
    warm = {"warmup_steps": 1000, "warmup_factor": 0.001}
    steps = {"max_steps": 10_000, "schedule": "multistep", "milestones": (8000,)}
    expected = [0.001, 0.5005, 0.001 * 0.001 + 0.999, 1, 1, 0.1]
    assert factors((0, 500, 999, 1000, 7999, 8000), **warm, **steps) == pytest.approx(expected, rel=1e-12)
    # WarmupPolyLR multiplies the two at the same step.
    assert factors((500,), **warm, max_steps=10_000) == pytest.approx([0.5005 * 0.95**0.9], rel=1e-12)


def test_the_originals_warmup_is_none():
    """WARMUP_FACTOR is 1.0 in its configurations."""
    assert factors((0, 5, 10), max_steps=100, power=0.0, warmup_steps=10, warmup_factor=1.0) == [1, 1, 1]
