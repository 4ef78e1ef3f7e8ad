"""One optimizer step of the model: the same however it is divided into batches and processes."""

import copy

import pytest
import torch
from small_models import random_targets, small_model
from transformers import Trainer, TrainingArguments

COUNTS = [3, 1, 0, 5]  # targets of the images
SIZE = (64, 64)


def same_points(count: int, num_points: int, device: torch.device) -> torch.Tensor:
    """In place of random ones, the same for every mask, so that only the arithmetic differs."""
    points = torch.rand(1, num_points, 2, generator=torch.Generator().manual_seed(num_points))
    return points.expand(count, -1, -1).to(device)


def without_randomness(monkeypatch: pytest.MonkeyPatch):
    for file in ("criterion", "point_sampling"):
        monkeypatch.setattr(f"m2f.modeling_m2f.{file}.uniform_points", same_points)


@pytest.fixture
def images(monkeypatch):
    without_randomness(monkeypatch)
    torch.manual_seed(5)
    masks, classes = random_targets([SIZE] * len(COUNTS), COUNTS)
    return torch.randn(len(COUNTS), 3, *SIZE), masks, classes


def training_model():
    return small_model("resnet").train()


def gradients_of(model) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.requires_grad}


def run(model, images, chosen: list[int], **counts) -> torch.Tensor:
    pixels, masks, classes = images
    labels = {"mask_labels": [masks[i] for i in chosen], "class_labels": [classes[i] for i in chosen]}
    loss = model(pixels[chosen], **labels, **counts).loss
    loss.backward()
    return loss.detach()


def assert_same_gradients(actual: dict, expected: dict):
    """All together within 1e-5, and each within 1e-4 of its largest entry, but for those that are 0 in exact
    arithmetic (biases before a norm, of keys)."""
    assert actual.keys() == expected.keys()
    together, difference = (
        torch.cat([x.flatten() for x in gradients])
        for gradients in (expected.values(), [actual[name] - gradient for name, gradient in expected.items()])
    )
    assert difference.norm() < 1e-5 * together.norm()
    for name, gradient in expected.items():
        limit = 1e-4 * max(gradient.abs().max(), 1e-2 * together.abs().max())
        assert (actual[name] - gradient).abs().max() < limit, name


@pytest.mark.parametrize("batches", [[[0], [1], [2], [3]], [[0, 1, 2], [3]]])
def test_accumulated_batches_equal_the_full_batch(images, batches):
    model = training_model()
    expected_loss = run(model, images, [0, 1, 2, 3])
    expected = gradients_of(model)
    model.zero_grad()
    counts = {"num_items_in_batch": sum(COUNTS), "num_images_in_batch": len(COUNTS)}
    loss = sum(run(model, images, batch, **counts) for batch in batches)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=0)
    assert_same_gradients(gradients_of(model), expected)


def test_with_the_count_of_targets_alone_equal_images_accumulate_exactly(images):
    pixels, masks, classes = images
    equal = pixels, [masks[0]] * 4, [classes[0]] * 4
    model = training_model()
    expected_loss = run(model, equal, [0, 1, 2, 3])
    expected = gradients_of(model)
    model.zero_grad()
    loss = sum(run(model, equal, [i], num_items_in_batch=torch.tensor(4 * COUNTS[0])) for i in range(4))
    torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=0)
    assert_same_gradients(gradients_of(model), expected)


WEIGHTS = [4.0, 0.25, 1.0, 2.0, 0.5]  # of the classes


def weighted_model():
    return small_model("resnet", class_weights=WEIGHTS).train()


@pytest.mark.parametrize("batches", [[[0], [1], [2], [3]], [[0, 1], [2, 3]]])
def test_accumulated_batches_equal_the_full_batch_with_class_weights(images, batches):
    """What the loss of all images at once gives, also where a mask without a pixel comes with the labels."""
    pixels, masks, classes = images
    model = weighted_model()
    expected_loss = run(model, images, [0, 1, 2, 3])
    expected = gradients_of(model)
    model.zero_grad()
    empty = torch.zeros(1, *SIZE, dtype=torch.uint8)
    given = pixels, [torch.cat([empty, m]) for m in masks], [torch.cat([torch.tensor([0]), c]) for c in classes]
    counted = [model.count_targets([given[2][i] for i in batch], [given[1][i] for i in batch]) for batch in batches]
    counts = {name: sum(count[name] for count in counted) for name in counted[0]}
    assert counts["num_items_in_batch"] == sum(COUNTS) and counts["num_images_in_batch"] == len(COUNTS)
    loss = sum(run(model, given, batch, **counts) for batch in batches)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=0)
    assert_same_gradients(gradients_of(model), expected)


def test_more_targets_than_queries_accumulate_exactly(images):
    """With one weight for all classes; which of them are matched is not known when they are counted."""
    pixels, masks, classes = images
    crowded = pixels, [masks[3][[0, 1, 2, 3, 4] * 2], masks[1]], [classes[3][[0, 1, 2, 3, 4] * 2], classes[1]]
    model = small_model("resnet").train()
    expected_loss = run(model, crowded, [0, 1])  # 10 and 1 targets, 8 queries
    for counts in (model.count_targets(crowded[2]), {"num_items_in_batch": 11}):
        torch.testing.assert_close(run(model, crowded, [0, 1], **counts), expected_loss, rtol=1e-5, atol=0)
    counts = model.count_targets(crowded[2])
    loss = sum(run(model, crowded, [i], **counts) for i in range(2))
    torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=0)


def test_a_class_weight_scales_the_class_loss_of_its_class_and_nothing_else(images):
    """The class term alone, without "no object" and divided by 1: a sum of weight times cross-entropy."""
    pixels, masks, _ = images
    others = {"mask_weight": 0.0, "no_object_weight": 0.0, "dice_weight": 0.0}
    results = {}
    for weights in ([1, 1, 1, 1, 1], [4, 1, 1, 1, 1], [0, 1, 1, 1, 1]):
        model = small_model("resnet", class_weights=weights, **others).train()
        for label in (0, 1):
            counts = {"num_items_in_batch": 1, "class_weight_in_batch": 1.0}
            model.zero_grad()
            model(pixels[1:2], mask_labels=masks[1:2], class_labels=[[label]], **counts).loss.backward()
            results[weights[0], label] = model.class_predictor.weight.grad
    assert results[1, 0].abs().max() > 1e-3
    torch.testing.assert_close(results[4, 0], 4 * results[1, 0])
    assert results[0, 0].abs().max() == 0
    for weight in (4, 0):
        assert torch.equal(results[weight, 1], results[1, 1])


def test_counts_without_class_weights_are_an_error_or_a_warning_and_never_silent(images, monkeypatch):
    warnings = []
    monkeypatch.setattr("m2f.modeling_m2f.criterion.logger.warning", warnings.append)
    model = weighted_model()
    with pytest.raises(ValueError, match="class_weight_in_batch"):
        run(model, images, [0], num_items_in_batch=9, num_images_in_batch=4)
    with pytest.raises(ValueError, match="class_weight_in_batch is given without num_items_in_batch"):
        run(model, images, [0], class_weight_in_batch=9)
    whole = run(model, images, [0, 1, 2, 3])
    # The batch that is the step is exact, as Trainer counts it without accumulation.
    torch.testing.assert_close(run(model, images, [0, 1, 2, 3], num_items_in_batch=9), whole)
    assert not warnings
    for _ in range(2):
        run(model, images, [0], num_items_in_batch=torch.tensor(9))
    assert len(warnings) == 1 and "count_targets" in warnings[0]
    # The same for weights that are written into the buffer by hand.
    model = training_model()
    model.criterion.empty_weight[1] = 3
    with pytest.raises(ValueError, match="class_weight_in_batch"):
        run(model, images, [0], num_items_in_batch=9, num_images_in_batch=4)


class CountingTrainer(Trainer):
    """Counts images as well, which the batches' `labels` cannot tell."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        inputs = {**inputs, "num_images_in_batch": len(COUNTS)}
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)


@pytest.mark.parametrize(("trainer_class", "equal"), [(Trainer, True), (CountingTrainer, False)])
def test_trainer_accumulates_to_the_step_of_the_full_batch(images, tmp_path, trainer_class, equal):
    """transformers' own Trainer, from batches with `labels`: the parameters after one step of gradient descent."""
    pixels, masks, classes = images
    if equal:
        masks, classes = [masks[0]] * 4, [classes[0]] * 4
    rows = [
        {"pixel_values": p, "mask_labels": m, "class_labels": c}
        for p, m, c in zip(pixels, masks, classes, strict=True)
    ]

    def collate(samples):
        most = max(len(sample["class_labels"]) for sample in samples)
        class_labels = torch.full((len(samples), most), -100)
        mask_labels = torch.zeros(len(samples), most, *SIZE, dtype=torch.uint8)
        for i, sample in enumerate(samples):
            class_labels[i, : len(sample["class_labels"])] = sample["class_labels"]
            mask_labels[i, : len(sample["mask_labels"])] = sample["mask_labels"]
        pixel_values = torch.stack([sample["pixel_values"] for sample in samples])
        labels = {"mask_labels": mask_labels, "class_labels": class_labels, "labels": class_labels}
        return {"pixel_values": pixel_values, **labels}

    parameters = []
    for batch_size in (4, 1):
        model = training_model()
        arguments = TrainingArguments(
            output_dir=str(tmp_path),
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=4 // batch_size,
            max_steps=1,
            optim="sgd",
            learning_rate=1e-3,
            max_grad_norm=0.0,
            lr_scheduler_type="constant",
            remove_unused_columns=False,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
        )
        before = copy.deepcopy(model.state_dict())
        trainer_class(model=model, args=arguments, train_dataset=rows, data_collator=collate).train()
        parameters.append({name: before[name] - value for name, value in model.state_dict().items()})
    changes = {name: change for name, change in parameters[0].items() if change.abs().max() > 0}
    assert len(changes) > 50
    # Differences of parameters near 1, of which float32 keeps 6e-8.
    for name, change in changes.items():
        torch.testing.assert_close(parameters[1][name], change, rtol=1e-4, atol=3e-7)


def _run_on_rank(rank: int, chosen: list[list[int]], images, weighted: bool, folder: str, results):
    without_randomness(pytest.MonkeyPatch())
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=len(chosen)
    )
    model = torch.nn.parallel.DistributedDataParallel(weighted_model() if weighted else training_model())
    loss = run(model, images, chosen[rank])
    results[rank] = (loss, gradients_of(model.module))
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(("chosen", "weighted"), [([[0, 1], [2, 3]], True), ([[0, 1, 3], [2]], False)])
def test_two_processes_equal_one(images, chosen, weighted, tmp_path):
    """Also where one has fewer images, or images without targets, or classes have weights; every parameter has a
    gradient on both."""
    model = weighted_model() if weighted else training_model()
    expected_loss = run(model, images, [0, 1, 2, 3])
    expected = gradients_of(model)
    results = torch.multiprocessing.get_context("spawn").Manager().dict()
    torch.multiprocessing.spawn(_run_on_rank, (chosen, images, weighted, str(tmp_path), results), nprocs=2)
    torch.testing.assert_close((results[0][0] + results[1][0]) / 2, expected_loss, rtol=1e-5, atol=0)
    for rank in range(2):
        assert_same_gradients(results[rank][1], expected)


def test_index_maps_and_stacks_train_alike_with_padding_and_checkpointing(images):
    pixels, masks, classes = images
    ids = torch.full((4, max(COUNTS), *SIZE), -100, dtype=torch.int32)
    for image, image_masks in zip(ids, masks, strict=True):
        image[0] = -1
        for n, mask in enumerate(image_masks):
            image[n] = torch.where(mask.bool(), n, -1)
    class_labels = torch.nn.utils.rnn.pad_sequence(classes, batch_first=True, padding_value=-100)
    pixel_mask = torch.ones(4, *SIZE, dtype=torch.int64)
    pixel_mask[1, :, 40:] = 0
    model = training_model()
    results = []
    for mask_labels, checkpointing in ((masks, False), (list(ids), True), (ids, False)):
        if checkpointing:
            model.gradient_checkpointing_enable()
        else:
            model.gradient_checkpointing_disable()
        model.zero_grad()
        labels = classes if mask_labels is masks else class_labels
        loss = model(pixels, pixel_mask=pixel_mask, mask_labels=mask_labels, class_labels=labels).loss
        loss.backward()
        results.append((loss, gradients_of(model)))
    for loss, gradients in results[1:]:
        torch.testing.assert_close(loss, results[0][0])
        assert_same_gradients(gradients, results[0][1])


def test_padding_counts_as_background_only_where_the_configuration_says_so(images):
    """With `mask_padding=False`, as in the original: a loss that pixel_mask does not change."""
    pixels, masks, classes = images
    pixel_mask = torch.ones(4, *SIZE, dtype=torch.int64)
    pixel_mask[:, :, 32:] = 0
    for mask_padding in (True, False):
        model = small_model("resnet", mask_padding=mask_padding).train()
        losses = [
            model(pixels, pixel_mask=mask, mask_labels=masks, class_labels=classes).loss for mask in (None, pixel_mask)
        ]
        assert (losses[0] == losses[1]) != mask_padding


def test_a_training_step_under_autocast_gives_finite_gradients(images):
    pixels, masks, classes = images
    model = training_model()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(pixels, mask_labels=masks, class_labels=classes).loss
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(gradient.isfinite().all() for gradient in gradients_of(model).values())


def test_only_the_last_prediction_has_masks_unless_others_are_asked_for(images):
    pixels, masks, classes = images
    model = training_model()
    outputs = model(pixels, mask_labels=masks, class_labels=classes)
    assert outputs.masks_queries_logits.shape == (4, 8, 16, 16) and outputs.auxiliary_logits is None
    outputs = model(pixels, mask_labels=masks, class_labels=classes, output_auxiliary_logits=True)
    assert [p["masks_queries_logits"].shape for p in outputs.auxiliary_logits] == [(4, 8, 16, 16)] * 3


def test_counts_and_arguments_that_do_not_fit_are_errors(images):
    pixels, masks, classes = images
    model = training_model()
    with pytest.raises(ValueError, match="without num_items_in_batch"):
        model(pixels, mask_labels=masks, class_labels=classes, num_images_in_batch=4)
    with pytest.raises(TypeError, match="mask_label"):
        model(pixels, mask_label=masks, class_labels=classes)
