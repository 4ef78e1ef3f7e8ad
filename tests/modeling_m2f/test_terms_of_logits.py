"""The loss from logits, under transformers' names. Expected: the criterion written down plainly (plain_criterion.py),
which draws the same points in the same order for one prediction after another."""

import pytest
import torch
from plain_criterion import WEIGHTS, plain_criterion
from small_models import random_targets, small_model

from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation

SIZE = (64, 96)
NAMES = {"loss_ce": "loss_cross_entropy", "loss_mask": "loss_mask", "loss_dice": "loss_dice"}


@pytest.fixture(scope="module")
def model() -> M2FForUniversalSegmentation:
    return small_model(train_num_points=50)


@pytest.fixture(scope="module")
def labels() -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    torch.manual_seed(1)
    return random_targets([SIZE, SIZE], [3, 2])


def random_logits(count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """class logits (L, B, Q, K+1), mask embeddings (L, B, Q, C) and features (B, C, h, w) that need gradients."""
    torch.manual_seed(2)
    shapes = [(count, 2, 8, 6), (count, 2, 8, 32), (2, 32, SIZE[0] // 4, SIZE[1] // 4)]
    return tuple(torch.randn(shape).requires_grad_() for shape in shapes)


def test_get_loss_dict_is_the_weighted_plain_criterion_with_its_gradients(model, labels):
    class_logits, embeddings, features = random_logits(3)
    masks, classes = labels
    mask_logits = torch.einsum("lbqc,bchw->lbqhw", embeddings, features)
    auxiliary = model.get_auxiliary_logits(class_logits, mask_logits)
    assert len(auxiliary) == 2 and torch.equal(auxiliary[1]["masks_queries_logits"], mask_logits[1])
    torch.manual_seed(3)
    ours = model.get_loss_dict(mask_logits[-1], class_logits[-1], masks, classes, auxiliary)
    loss = model.get_loss(ours)
    gradients = torch.autograd.grad(loss, (class_logits, embeddings, features))

    class_logits, embeddings, features = random_logits(3)
    expected, total = {}, 0
    torch.manual_seed(3)
    for i, suffix in ((2, ""), (0, "_0"), (1, "_1")):
        part = slice(i, i + 1)
        value, terms = plain_criterion(class_logits[part], embeddings[part], features, classes, masks, 50)
        expected |= {NAMES[name] + suffix: WEIGHTS[name] * term for name, term in terms.items()}
        total = total + value
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(ours[name], value, msg=lambda text, name=name: f"{name}: {text}")
    plain_gradients = torch.autograd.grad(total, (class_logits, embeddings, features))
    for one, other in zip(gradients, plain_gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_terms_from_the_logits_of_a_batch_are_those_that_the_batch_was_trained_with(model, labels):
    """At random points both, so to the accuracy of as many: the mean of 20 draws."""
    torch.manual_seed(4)
    pixels = torch.randn(2, 3, *SIZE)
    masks, classes = labels
    with torch.no_grad():
        outputs = model(pixels, mask_labels=masks, class_labels=classes, output_auxiliary_logits=True)
        logits = (outputs.masks_queries_logits, outputs.class_queries_logits)
        arguments = (*logits, masks, classes, outputs.auxiliary_logits)
        drawn = [float(model.get_loss(model.get_loss_dict(*arguments))) for _ in range(20)]
        losses = [float(model(pixels, mask_labels=masks, class_labels=classes).loss) for _ in range(20)]
    error = (torch.tensor(drawn).var() / 20 + torch.tensor(losses).var() / 20) ** 0.5
    assert abs(torch.tensor(drawn).mean() - torch.tensor(losses).mean()) < 4 * error


def test_labels_of_an_image_without_targets_give_terms_that_reach_every_input(model):
    class_logits, _, _ = random_logits(1)
    mask_logits = torch.randn(2, 8, 16, 24, requires_grad=True)
    nothing = [torch.zeros(0, *SIZE, dtype=torch.uint8)] * 2, [torch.zeros(0, dtype=torch.int64)] * 2
    terms = model.get_loss_dict(mask_logits, class_logits[0], *nothing)
    assert sorted(terms) == ["loss_cross_entropy", "loss_dice", "loss_mask"]
    assert terms["loss_mask"].item() == terms["loss_dice"].item() == 0
    model.get_loss(terms).backward()
    assert (mask_logits.grad == 0).all() and class_logits.grad.abs().sum() > 0


def test_labels_of_the_size_that_was_padded_lie_on_the_padded_canvas(model):
    """Logits of 16 x 24 come from inputs of 64 x 96, which those of 50 x 90 are padded to. A mask that fills 50 x 90
    and a prediction that is certain of just that rectangle agree; stretched over 64 x 96 they would not."""
    mask = torch.ones(1, 50, 90)
    covered = torch.full((64, 96), -60.0)
    covered[:50, :90] = 60
    fine = torch.nn.functional.avg_pool2d(covered[None, None], 4)
    logits = fine.expand(1, 8, -1, -1)
    terms = model.get_loss_dict(logits, torch.zeros(1, 8, 6), [mask], [torch.zeros(1, dtype=torch.int64)])
    stretched = model.get_loss_dict(
        logits, torch.zeros(1, 8, 6), [torch.ones(1, 64, 96)], [torch.zeros(1, dtype=torch.int64)]
    )
    assert float(terms["loss_dice"]) < 0.2 * float(stretched["loss_dice"])


def test_get_loss_adds_the_terms_in_their_order_to_the_last_bit(model):
    large, small = torch.tensor(1.0), torch.tensor(2.0**-24)  # which is lost on 1 when it comes alone, not as a pair
    terms = {"loss_cross_entropy": large, **{f"loss_mask_{i}": small for i in range(29)}}
    assert float(model.get_loss(terms)) == float(sum(terms.values())) == 1


def test_get_loss_refuses_the_unweighted_terms_of_the_outputs(model):
    with pytest.raises(ValueError, match="outputs.loss is the sum of outputs.loss_dict with its weights"):
        model.get_loss({"loss_ce": torch.ones(()), "loss_mask": torch.ones(())})


def test_weights_are_transformers_and_cannot_be_set_in_vain(model):
    assert dict(model.weight_dict) == {"loss_cross_entropy": 2.0, "loss_mask": 5.0, "loss_dice": 5.0}
    with pytest.raises(TypeError):
        model.weight_dict["loss_mask"] = 1.0
