import pytest
import torch
from shapes_dataset import ShapesDataset, shapes_model, shapes_options, shapes_processor
from shapes_run import MODULES_WITH_POINTS, fixed_points, fresh_accelerate

from m2f.data.collation import Collator
from m2f.training.optimization_step import OptimizationStep
from m2f.training.parameter_groups import parameter_groups
from m2f.training.training_setup import make_accelerator, prepared_state


@pytest.fixture(autouse=True)
def same_points_for_any_batch(monkeypatch):
    for module in MODULES_WITH_POINTS:
        monkeypatch.setattr(f"{module}.uniform_points", fixed_points)


def state_of(model=None, **options):
    fresh_accelerate()
    options = shapes_options("unused", **options)
    state = prepared_state(options, model or shapes_model(), make_accelerator(options))
    state.model.train()
    return state


def batches(passes: int = 1) -> list[dict]:
    """The four images of a step in so many passes; they have 1, 2, 3 and 1 segments."""
    samples, collate = [ShapesDataset()[i] for i in range(4)], Collator(shapes_processor())
    size = 4 // passes
    return [collate(samples[i : i + size]) for i in range(0, 4, size)]


def names_of(number: int) -> list[str]:
    return [f"{number}-{i}.png" for i in range(4)]


def weights_of(state) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in state.plain_model.state_dict().items()}


@pytest.mark.parametrize("class_weights", [None, [4.0, 1.0, 0.25]])
def test_a_step_is_what_torch_does_with_the_whole_batch(class_weights):
    """The loss of one forward pass without counts; its gradient clipped to norm 0.5, and AdamW."""
    options = {"class_weights": ("red=4", "blue=0.25")} if class_weights else {}
    state, reference = state_of(**options), shapes_model(class_weights=class_weights).train()
    result = OptimizationStep(state, 4, 0.5)(batches(), names_of)
    (batch,) = batches()
    outputs = reference(**batch)
    outputs.loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(reference.parameters(), 0.5)
    assert result.loss == pytest.approx(outputs.loss.item(), rel=1e-6)
    assert result.gradient_norm == pytest.approx(norm.item(), rel=1e-5)
    assert result.terms == pytest.approx({name: value.item() for name, value in outputs.loss_dict.items()}, rel=1e-5)
    torch.optim.AdamW(parameter_groups(reference, 1e-3, 0.05)).step()
    for name, tensor in weights_of(state).items():
        torch.testing.assert_close(tensor, reference.state_dict()[name], atol=1e-6, rtol=0)
    assert result.skipped_because is None


@pytest.mark.parametrize(("passes", "class_weights"), [(2, ()), (4, ()), (2, ("red=4", "blue=0.25"))])
def test_accumulation_gives_the_step_of_the_whole_batch(passes, class_weights):
    """Within float32's rounding: the sums are taken in another order."""
    whole, parts = state_of(class_weights=class_weights), None
    expected = OptimizationStep(whole, 4, 0.01)(batches(), names_of)
    expected_weights = weights_of(whole)
    parts = state_of(class_weights=class_weights)
    assert parts.plain_model.config.class_weights == ([4.0, 1.0, 0.25] if class_weights else None)
    result = OptimizationStep(parts, 4, 0.01)(batches(passes), names_of)
    assert result.loss == pytest.approx(expected.loss, rel=1e-6)
    assert result.gradient_norm == pytest.approx(expected.gradient_norm, rel=1e-5)
    assert result.terms == pytest.approx(expected.terms, rel=1e-5)
    for name, tensor in weights_of(parts).items():
        # AdamW's first step moves every weight by the learning rate (1e-3), whatever the size of its gradient.
        torch.testing.assert_close(tensor, expected_weights[name], atol=2e-5, rtol=0)


def test_the_gradient_is_clipped_to_the_norm_and_zero_clips_nothing():
    for clip_norm, shrinks in ((0.01, True), (0.0, False)):
        state = state_of()
        norms = []
        step = state.optimizer.step
        state.optimizer.step = lambda state=state, norms=norms, step=step: (
            norms.append(torch.nn.utils.get_total_norm([p.grad for p in state.model.parameters()]).item()),
            step(),
        )
        result = OptimizationStep(state, 4, clip_norm)(batches(), names_of)
        assert norms[0] == pytest.approx(0.01 if shrinks else result.gradient_norm, rel=1e-3)


def test_a_loss_that_is_not_finite_names_term_and_images_and_changes_nothing(monkeypatch):
    state = state_of()
    before = weights_of(state)
    forward = state.model.forward

    def with_bad_dice(**batch):
        outputs = forward(**batch)
        if "mask_labels" in batch:
            outputs.loss_dict["loss_dice_1"] = outputs.loss_dict["loss_dice_1"] * float("nan")
            outputs.loss = outputs.loss + float("nan")
        return outputs

    monkeypatch.setattr(state.model, "forward", with_bad_dice)
    result = OptimizationStep(state, 4, 0.01)(batches(2), lambda number: names_of(number)[:2])
    assert result.loss is None and not result.overflowed
    assert result.skipped_because == "not finite: loss_dice_1, at 0-0.png, 0-1.png"
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights_of(state).items())
    assert all(parameter.grad is None for parameter in state.model.parameters())


def test_an_image_whose_predictions_are_not_finite_is_named_alone(monkeypatch):
    """The matcher refuses such a cost, and the model says so with a ValueError."""
    state = state_of()
    predict = state.model.class_predictor.forward

    def with_one_bad_image(hidden):
        logits = predict(hidden).clone()
        logits[..., 2, :, :] = float("inf")  # (B, Q, K + 1), or all predictions of a batch at once
        return logits

    monkeypatch.setattr(state.model.class_predictor, "forward", with_one_bad_image)
    result = OptimizationStep(state, 4, 0.01)(batches(), names_of)
    assert result.skipped_because == "not finite: the class or mask logits, at 0-2.png"


def test_labels_that_do_not_fit_are_an_error_and_no_skipped_step():
    (batch,) = batches()
    batch["class_labels"][0, 0] = 9
    with pytest.raises(ValueError, match="9"):
        OptimizationStep(state_of(), 4, 0.01)([batch], names_of)


def test_batches_that_do_not_make_up_the_step_are_an_error():
    with pytest.raises(ValueError, match="2 images.*batch_size is 4"):
        OptimizationStep(state_of(), 4, 0.01)(batches(2)[:1], names_of)


def test_a_gradient_that_is_not_finite_changes_nothing(monkeypatch):
    state = state_of()
    before = weights_of(state)
    state.plain_model.class_predictor.weight.register_hook(lambda gradient: gradient * float("inf"))
    result = OptimizationStep(state, 4, 0.01)(batches(), names_of)
    assert result.skipped_because.startswith("not finite: the gradient") and "0-3.png" in result.skipped_because
    assert result.loss > 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights_of(state).items())


def test_an_overflow_in_fp16_is_told_from_other_skipped_steps():
    """The gradient scaler skips by itself, and halves its scale of 1e38, with which every gradient overflows."""
    fresh_accelerate()
    options = shapes_options("unused")
    accelerator = make_accelerator(options)
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1e38)
    accelerator.native_amp, accelerator.state._mixed_precision = True, "fp16"
    state = prepared_state(options, shapes_model(), accelerator)
    state.model.train()
    assert not state.optimizer.defaults["fused"]
    before = weights_of(state)
    result = OptimizationStep(state, 4, 0.01)(batches(), names_of)
    assert result.overflowed and "overflows in fp16; its scale is 5e+37" in result.skipped_because
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights_of(state).items())
    accelerator.scaler.update(1.0)
    result = OptimizationStep(state, 4, 0.01)(batches(), names_of)
    assert result.skipped_because is None and not result.overflowed
    assert any(not torch.equal(tensor, before[name]) for name, tensor in weights_of(state).items())
