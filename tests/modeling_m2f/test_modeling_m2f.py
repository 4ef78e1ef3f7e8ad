import logging
import math

import pytest
import torch
from small_models import BACKBONES, corner_mask, random_targets, small_config, small_model
from torch import nn

from m2f.modeling_m2f.checkpoint_report import CheckpointMismatchError
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation, M2FModel
from m2f.modeling_m2f.pixel_decoder import reference_points
from m2f.modeling_m2f.position_embedding import sine_position_embedding
from m2f.modeling_m2f.transformer_decoder import attention_mask


@pytest.mark.parametrize("backbone", BACKBONES)
def test_reference_row_34_every_trainable_parameter_gets_a_gradient(backbone):
    """transformers' Swin has two that never do, so distributed training waits for them. Without targets too: a process
    whose images are all empty must not hang the others."""
    for counts in ([2, 0], [0, 0]):
        model = small_model(backbone).train()
        masks, classes = random_targets([(64, 96)] * 2, counts)
        loss = model(torch.randn(2, 3, 64, 96), mask_labels=masks, class_labels=classes).loss
        assert loss.isfinite()
        loss.backward()
        assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_reference_row_27_dropout_acts_in_the_pixel_decoder_alone():
    """In transformers it also drops whole decoder layers, and crashes when it does."""
    model = small_model("resnet", dropout=0.9).train()
    for module in model.model.transformer_module.modules():
        assert not isinstance(module, nn.Dropout) and not getattr(module, "dropout", 0)
    masks, classes = random_targets([(64, 64)], [2])
    for _ in range(6):
        model(torch.randn(1, 3, 64, 64), mask_labels=masks, class_labels=classes).loss.backward()
    pixels = torch.randn(1, 3, 64, 64)
    features = [model.model.pixel_level_module(pixels, None).mask_features for _ in range(2)]
    assert not torch.equal(*features)


def test_reference_row_28_without_auxiliary_loss_three_terms_remain():
    model = small_model("resnet", use_auxiliary_loss=False)
    pixels = torch.randn(1, 3, 64, 64)
    assert model(pixels).loss is None
    masks, classes = random_targets([(64, 64)], [2])
    for more in ({}, {"output_hidden_states": True}, {"output_auxiliary_logits": True}):
        outputs = model(pixels, mask_labels=masks, class_labels=classes, **more)
        assert set(outputs.loss_dict) == {"loss_ce", "loss_mask", "loss_dice"}


def test_reference_row_29_a_tuple_with_labels_starts_with_the_loss():
    model = small_model("resnet")
    masks, classes = random_targets([(64, 64)], [2])
    pixels = torch.randn(1, 3, 64, 64)
    outputs = model(pixels, mask_labels=masks, class_labels=classes, return_dict=False)
    assert isinstance(outputs, tuple) and outputs[0].dim() == 0 and isinstance(outputs[1], dict)
    expected = model(pixels)
    assert torch.equal(outputs[2], expected.class_queries_logits)
    assert torch.equal(model(pixels, return_dict=False)[1], expected.masks_queries_logits)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mask_dtype", [torch.bool, torch.uint8, torch.float32, torch.bfloat16])
def test_reference_row_30_half_precision_models_train_with_every_kind_of_mask(dtype, mask_dtype):
    model = small_model("resnet").to(dtype).train()
    masks, classes = random_targets([(64, 64)] * 2, [3, 1])
    masks = [image.to(mask_dtype) for image in masks]
    outputs = model(torch.randn(2, 3, 64, 64, dtype=dtype), mask_labels=masks, class_labels=classes)
    assert outputs.loss.dtype == torch.float32 and outputs.loss.isfinite()
    outputs.loss.backward()


def test_lists_and_padded_tensors_of_labels_give_the_same_loss():
    model, pixels = small_model("resnet"), torch.randn(2, 3, 64, 64)
    masks, classes = random_targets([(64, 64)] * 2, [3, 1])
    padded_masks = torch.nn.utils.rnn.pad_sequence(masks, batch_first=True, padding_value=7)
    padded_classes = torch.nn.utils.rnn.pad_sequence(classes, batch_first=True, padding_value=-100)
    losses = []
    for labels in ((masks, classes), (padded_masks, padded_classes), ([m.bool() for m in masks], classes)):
        torch.manual_seed(0)
        losses.append(model(pixels, mask_labels=labels[0], class_labels=labels[1]).loss)
    assert losses[0] == losses[1] == losses[2]


@torch.no_grad()
def test_reference_row_31_positions_and_locations_stay_in_float32():
    """Rounded to bfloat16, reference points of the 1/8 level are off by up to a pixel at 1024 x 2048."""
    seen = {}

    def record(module, args):
        seen["points"], seen["queries"] = args[2], args[0]

    model = small_model("resnet").to(torch.bfloat16)
    layer = model.model.pixel_level_module.decoder.encoder.layers[0]
    layer.self_attn.register_forward_pre_hook(record)
    layer.register_forward_pre_hook(lambda module, args: seen.update(hidden=args[0], position=args[1]))
    model(torch.randn(1, 3, 64, 96, dtype=torch.bfloat16))
    assert seen["points"].dtype == seen["position"].dtype == torch.float32
    # Rounded once, after the sum.
    assert torch.equal(seen["queries"], (seen["hidden"].float() + seen["position"]).bfloat16())


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("batch", [1, 2])
def test_reference_row_32_half_precision_on_a_cpu_gives_numbers(dtype, batch):
    """transformers returns NaN at batch 1: PyTorch's grid_sample reads out of bounds for strided half tensors."""
    model = small_model("swin")
    pixels = torch.randn(batch, 3, 64, 96)
    expected = model(pixels).masks_queries_logits
    actual = model.to(dtype)(pixels.to(dtype)).masks_queries_logits
    assert actual.dtype == dtype and actual.isfinite().all()
    # Only that it is the same picture; how close half precision comes depends on masks flipping in attention.
    correlation = torch.corrcoef(torch.stack([actual.float().flatten(), expected.flatten()]))[0, 1]
    assert correlation > 0.95, correlation


@torch.no_grad()
def test_reference_row_23_the_pixel_decoder_runs_in_float32_under_autocast():
    model = small_model("swin")
    seen = {}
    decoder = model.model.pixel_level_module.decoder
    decoder.encoder.layers[0].fc1.register_forward_hook(lambda module, args, out: seen.update(decoder=out.dtype))
    model.class_predictor.register_forward_hook(lambda module, args, out: seen.update(classifier=out.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(torch.randn(1, 3, 64, 96))
    assert seen == {"decoder": torch.float32, "classifier": torch.bfloat16}
    assert outputs.pixel_decoder_last_hidden_state.dtype == torch.float32


def test_reference_row_23_losses_are_taken_in_float32_under_autocast():
    model = small_model("resnet")
    masks, classes = random_targets([(64, 64)], [2])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(torch.randn(1, 3, 64, 64), mask_labels=masks, class_labels=classes)
    assert {term.dtype for term in outputs.loss_dict.values()} == {torch.float32}


@pytest.mark.parametrize("backbone", ["swin", "resnet"])
@pytest.mark.parametrize("reentrant", [True, False])
def test_reference_row_35_checkpointing_changes_no_gradient(backbone, reentrant):
    model = small_model(backbone).train()
    for module in model.modules():
        if type(module).__name__ == "SwinDropPath":
            module.drop_prob = 0.0
    masks, classes = random_targets([(64, 64)] * 2, [2, 3])
    pixels = torch.randn(2, 3, 64, 64, requires_grad=True)

    def gradients():
        model.zero_grad()
        torch.manual_seed(0)
        model(pixels, mask_labels=masks, class_labels=classes).loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters()}

    expected = gradients()
    calls = []
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    layer = model.model.transformer_module.decoder.layers[0].fc1
    layer.register_forward_hook(lambda *args: calls.append(1))
    for name, gradient in gradients().items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-5, rtol=1e-4, msg=name)
    assert len(calls) == 2  # forward, and again in backward


def test_reference_row_36_masks_of_the_valid_size_are_padded_like_the_pixels():
    """transformers scales masks of another size to the canvas: shifted targets, in silence."""
    model = small_model("resnet")
    pixels, sizes = torch.randn(2, 3, 64, 96), [(50, 90), (64, 70)]
    masks, classes = random_targets(sizes, [2, 3])
    mask = corner_mask((64, 96), sizes)
    padded = [nn.functional.pad(m, (0, 96 - m.shape[-1], 0, 64 - m.shape[-2])) for m in masks]
    losses = []
    for labels in (masks, padded):
        torch.manual_seed(0)
        losses.append(model(pixels, pixel_mask=mask, mask_labels=labels, class_labels=classes).loss)
    assert losses[0] == losses[1]
    with pytest.raises(ValueError, match=r"Image 1.*\(60, 70\).*\(64, 96\).*\(64, 70\)"):
        model(pixels, pixel_mask=mask, mask_labels=[masks[0], masks[1][:, :60]], class_labels=classes)


def test_reference_row_36_pixels_and_masks_of_any_size_are_padded_to_multiples_of_32():
    model = small_model("resnet")
    masks, classes = random_targets([(50, 70)], [2])
    pixels = torch.randn(1, 3, 50, 70)
    torch.manual_seed(0)
    outputs = model(pixels, mask_labels=masks, class_labels=classes)
    assert outputs.masks_queries_logits.shape[-2:] == (16, 24)
    assert outputs.valid_sizes.tolist() == [[50, 70]]
    torch.manual_seed(0)
    padded = nn.functional.pad(masks[0], (0, 26, 0, 14))
    by_hand = model(nn.functional.pad(pixels, (0, 26, 0, 14)), mask_labels=[padded], class_labels=classes)
    assert outputs.loss == by_hand.loss


def test_reference_row_37_hidden_states_and_both_attentions_are_returned_when_asked():
    model, pixels = small_model("swin"), torch.randn(2, 3, 64, 96)
    outputs = model(pixels)
    for name in ("hidden_states", "pixel_decoder_hidden_states", "attentions", "cross_attentions", "auxiliary_logits"):
        assert outputs[name] is None if name in outputs else getattr(outputs, name) is None
    outputs = model(pixels, output_hidden_states=True, output_attentions=True, output_auxiliary_logits=True)
    assert [tuple(x.shape) for x in outputs.attentions] == [(2, 4, 8, 8)] * 3
    assert [tuple(x.shape) for x in outputs.cross_attentions] == [(2, 4, 8, 6), (2, 4, 8, 24), (2, 4, 8, 96)]
    assert [tuple(x.shape) for x in outputs.transformer_decoder_hidden_states] == [(2, 8, 32)] * 4
    assert [tuple(x.shape[-2:]) for x in outputs.pixel_decoder_hidden_states] == [(2, 3), (4, 6), (8, 12)]
    assert len(outputs.encoder_hidden_states) == 4 and len(outputs.auxiliary_logits) == 3
    torch.testing.assert_close(outputs.cross_attentions[0].sum(-1), torch.ones(2, 4, 8))


@torch.no_grad()
def test_eager_attention_and_sdpa_agree():
    model, pixels = small_model("swin"), torch.randn(2, 3, 64, 96)
    model.set_attn_implementation("sdpa")
    expected = model(pixels).masks_queries_logits
    torch.testing.assert_close(model(pixels, output_attentions=True).masks_queries_logits, expected)
    model.set_attn_implementation("eager")
    torch.testing.assert_close(model(pixels).masks_queries_logits, expected)


def test_attention_mask_keeps_foreground_and_resets_empty_rows():
    embedding = torch.tensor([[[1.0], [-1.0], [0.0]]])  # (1, 3, 1)
    features = torch.tensor([[[2.0], [-3.0], [0.0], [-1.0]]])  # (1, 4, 1)
    # sigmoid(logit) < 0.5 is masked: logits (2,-3,0,-1), (-2,3,0,1), (0,0,0,0)
    expected = [[True, False, True, False], [False, True, True, True], [True, True, True, True]]
    assert attention_mask(embedding, features, None)[0, 0].tolist() == expected
    # with the third cell padding, the first query's only foreground is the first cell; a query without foreground in
    # the image sees all of the image and nothing of the padding
    valid = torch.tensor([[False, True, False, True]])
    expected = [[False, True, False, True], [False, True, False, True], [False, True, False, True]]
    assert attention_mask(embedding, features, valid)[0, 0].tolist() == expected


def test_position_embedding_against_the_formula():
    """DETR's formula, written out: normalised coordinate times 2 pi over 10000^(2i / (C/2)), sine and cosine in turn,
    rows before columns."""
    height, width, channels = 3, 5, 8
    embedding = sine_position_embedding((height, width), channels, torch.device("cpu"))[0].view(
        height, width, channels
    )
    for row, column, half in [(0, 0, 0), (2, 4, 0), (1, 3, 1), (2, 0, 1)]:
        coordinate = ((row + 1) / (height + 1e-6), (column + 1) / (width + 1e-6))[half] * 2 * math.pi
        angles = [coordinate / 10000 ** (2 * i / 4) for i in range(2)]
        expected = [f(angle) for angle in angles for f in (math.sin, math.cos)]
        actual = embedding[row, column, half * 4 : half * 4 + 4]
        torch.testing.assert_close(actual, torch.tensor(expected), atol=1e-6, rtol=1e-6)


def test_reference_points_are_cell_centres_on_every_level():
    points = reference_points([(1, 2), (2, 4)], torch.device("cpu"))
    assert points.shape == (1, 10, 2, 2)
    assert points[0, 1].tolist() == [[0.75, 0.5]] * 2 and points[0, 2 + 5].tolist() == [[0.375, 0.75]] * 2


@pytest.mark.parametrize(
    ("name", "std"),
    # Standard deviations of a fresh Swin-T model of the original.
    [
        ("pixel_level_module.decoder.input_projections.0.0.weight", 0.0442),
        ("pixel_level_module.decoder.input_projections.1.0.weight", 0.0559),
        ("pixel_level_module.decoder.input_projections.2.0.weight", 0.0666),
        ("pixel_level_module.decoder.adapter_1.0.weight", 0.1018),
        ("pixel_level_module.decoder.mask_projection.weight", 0.0625),
        ("pixel_level_module.decoder.encoder.layers.0.fc1.weight", 0.0395),
        ("pixel_level_module.decoder.encoder.layers.0.fc2.weight", 0.0395),
        ("pixel_level_module.decoder.encoder.layers.0.fc1.bias", 0.0362),
        ("pixel_level_module.decoder.encoder.layers.0.fc2.bias", 0.0183),
        ("pixel_level_module.decoder.level_embed", 1.0),
        ("transformer_module.decoder.layers.0.self_attn.q_proj.weight", 0.0442),
        ("transformer_module.decoder.layers.0.cross_attn.in_proj_weight", 0.0442),
        ("transformer_module.decoder.layers.0.fc1.bias", 0.0361),
        ("transformer_module.decoder.layers.0.fc2.bias", 0.0126),
        ("transformer_module.decoder.mask_predictor.mask_embedder.0.0.weight", 0.0361),
        ("transformer_module.queries_features.weight", 1.0),
        ("transformer_module.queries_embedder.weight", 1.0),
        ("transformer_module.level_embed.weight", 1.0),
        ("class_predictor.weight", 0.0360),
        ("class_predictor.bias", 0.0344),
    ],
)
def test_reference_row_24_initialisation_is_the_originals(fresh_swin_t, name, std):
    for state in fresh_swin_t:
        tensor = state[name if name.startswith("class_predictor") else f"model.{name}"]
        # 5 standard errors of a standard deviation estimated from n values, uniform or normal
        assert abs(tensor.std().item() / std - 1) < 5 / math.sqrt(2 * tensor.numel()) + 0.005


@pytest.fixture(scope="module")
def fresh_swin_t():
    """State of a fresh model, and of one whose missing weights `from_pretrained` made, which is another code path."""
    swin_t = {"model_type": "swin", "embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24]}
    config = type(small_config())(backbone_config=swin_t, num_labels=133)
    torch.manual_seed(0)
    loaded = M2FForUniversalSegmentation.from_pretrained(None, config=config, state_dict={})
    return M2FForUniversalSegmentation(config).state_dict(), loaded.state_dict()


def test_reference_row_24_swin_starts_as_in_the_original(fresh_swin_t):
    """Attention 0.0261 over all layers and a table that is not zero; transformers has 0.0200 and 0."""
    for state in fresh_swin_t:
        projections = [
            x.flatten() for n, x in state.items() if n.endswith(("q_proj.weight", "k_proj.weight")) and "swin" in n
        ]
        tables = [x.flatten() for n, x in state.items() if n.endswith("relative_position_bias_table")]
        assert abs(torch.cat(projections).std().item() - 0.0261) < 2e-4
        assert abs(torch.cat(tables).std().item() - 0.0199) < 5e-4


def test_sampling_offsets_start_on_rays_and_attention_uniform(fresh_swin_t):
    for state in fresh_swin_t:
        prefix = "model.pixel_level_module.decoder.encoder.layers.0.self_attn."
        assert state[prefix + "sampling_offsets.weight"].abs().sum() == 0
        assert state[prefix + "attention_weights.weight"].abs().sum() == 0
        offsets = state[prefix + "sampling_offsets.bias"].view(8, 3, 4, 2)
        # head 0 looks right, head 2 down, head 3 down and left; point p at distance p + 1
        torch.testing.assert_close(offsets[0, 0], torch.tensor([[1.0, 0], [2, 0], [3, 0], [4, 0]]), atol=1e-5, rtol=0)
        torch.testing.assert_close(offsets[2, 1, 0], torch.tensor([0.0, 1]), atol=1e-5, rtol=0)
        torch.testing.assert_close(offsets[3, 2, 1], torch.tensor([-2.0, 2]), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((3, 64, 64), ["(3, 64, 64)", "(batch, 3, height, width)"]),
        ((2, 3, 64), ["(2, 3, 64)"]),
        ((1, 4, 64, 64), ["(1, 4, 64, 64)"]),
        ((1, 3, 0, 64), ["(1, 3, 0, 64)"]),
    ],
)
def test_pixels_of_a_wrong_shape_are_named(shape, words):
    with pytest.raises(ValueError) as error:
        small_model("resnet")(torch.zeros(shape))
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_pixels_that_are_not_finite_are_named(value):
    pixels = torch.zeros(3, 3, 64, 64)
    pixels[1, 0, 5, 5] = value
    with pytest.raises(ValueError, match=r"image \[1\]"):
        small_model("resnet")(pixels)


def test_pixel_masks_that_do_not_fit_are_named():
    model, pixels = small_model("resnet"), torch.zeros(2, 3, 64, 64)
    with pytest.raises(ValueError, match=r"\(2, 64, 32\).*\(2, 64, 64\)"):
        model(pixels, pixel_mask=torch.ones(2, 64, 32))
    shifted, holed, empty = torch.ones(3, 2, 64, 64)
    shifted[1, 0] = 0
    holed[1, 5, 5] = 0
    empty[1] = 0
    for mask in (shifted, holed, empty):
        with pytest.raises(ValueError, match=r"image \[1\].*top left"):
            model(pixels, pixel_mask=mask)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m, c: (m, [c[0], c[1] + 5]), ["Image 1", "outside 0..4", "num_labels=5"]),
        (lambda m, c: (m, [c[0] - 5, c[1]]), ["Image 0", "outside 0..4"]),
        (lambda m, c: (m, [c[0][:1], c[1]]), ["Image 0", "(2, 64, 64)", "(1,)"]),
        (lambda m, c: ([m[0], m[1][0]], c), ["Image 1", "(64, 64)"]),
        (lambda m, c: (m[:1], c), ["2 images", "1 mask_labels"]),
        (lambda m, c: (m, [c[0].float(), c[1]]), ["Image 0", "torch.float32", "integers"]),
        (lambda m, c: (m, None), ["class_labels is missing"]),
        (lambda m, c: (None, c), ["mask_labels is missing"]),
    ],
)
def test_labels_that_do_not_fit_are_named(change, words):
    masks, classes = change(*random_targets([(64, 64)] * 2, [2, 1]))
    with pytest.raises(ValueError) as error:
        small_model("resnet")(torch.zeros(2, 3, 64, 64), mask_labels=masks, class_labels=classes)
    assert all(word in str(error.value) for word in words), error.value


def test_more_targets_than_queries_warn_once_and_match_the_best(caplog):
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    model = small_model("resnet")
    masks, classes = random_targets([(64, 64)], [12])
    for _ in range(2):
        outputs = model(torch.randn(1, 3, 64, 64), mask_labels=masks, class_labels=classes)
    logger.removeHandler(caplog.handler)
    assert outputs.loss.isfinite()
    warnings = [record.getMessage() for record in caplog.records if "12 targets" in record.getMessage()]
    assert len(warnings) == 1 and "8 queries" in warnings[0]


def test_a_checkpoint_that_is_cut_off_is_an_error(tmp_path):
    model = small_model("resnet")
    model.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    content = weights.read_bytes()
    for length in (len(content) // 2, 100, 4, 0):
        weights.write_bytes(content[:length])
        with pytest.raises(OSError, match="damaged"):
            M2FForUniversalSegmentation.from_pretrained(tmp_path)


def test_a_foreign_checkpoint_is_an_error_that_lists_every_name(tmp_path):
    from safetensors.torch import load_file, save_file

    model = small_model("resnet")
    model.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    state = load_file(weights)
    gone = ["model.transformer_module.level_embed.weight", "model.pixel_level_module.decoder.level_embed"]
    bent = "model.transformer_module.queries_features.weight"
    for name in gone:
        state.pop(name)
    state["something.else"] = torch.zeros(2)
    state[bent] = torch.zeros(3, 32)
    save_file(state, weights, metadata={"format": "pt"})
    with pytest.raises(CheckpointMismatchError) as error:
        M2FForUniversalSegmentation.from_pretrained(tmp_path, ignore_mismatched_sizes=True)
    assert all(name in str(error.value) for name in [*gone, "something.else", "Missing (2)", "Unexpected (1)"])
    with pytest.raises(CheckpointMismatchError) as error:
        M2FForUniversalSegmentation.from_pretrained(tmp_path)
    assert all(name in str(error.value) for name in [*gone, "something.else", bent])
    M2FForUniversalSegmentation.from_pretrained(tmp_path, allow_partial=True, ignore_mismatched_sizes=True)


def test_a_checkpoint_without_heads_is_a_start_for_a_new_task(tmp_path):
    model = small_model("swin")
    model.model.save_pretrained(tmp_path / "base")
    started = M2FForUniversalSegmentation.from_pretrained(tmp_path / "base", num_labels=3)
    assert torch.equal(
        started.model.transformer_module.queries_features.weight,
        model.model.transformer_module.queries_features.weight,
    )
    model.save_pretrained(tmp_path / "full")
    M2FModel.from_pretrained(tmp_path / "full")
    other = M2FForUniversalSegmentation.from_pretrained(
        tmp_path / "full", id2label={0: "a", 1: "b"}, ignore_mismatched_sizes=True
    )
    assert other.class_predictor.out_features == 3 and other.criterion.empty_weight.tolist() == pytest.approx(
        [1, 1, 0.1]
    )


@torch.no_grad()
def test_compiled_and_exported_models_compute_the_same():
    model, pixels = small_model("resnet"), torch.randn(1, 3, 64, 96)
    expected = model(pixels).masks_queries_logits
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")(pixels).masks_queries_logits
    torch.testing.assert_close(compiled, expected, atol=1e-5, rtol=1e-4)
    exported = torch.export.export(model, (pixels,)).module()(pixels).masks_queries_logits
    torch.testing.assert_close(exported, expected, atol=1e-5, rtol=1e-4)


def test_pre_norm_normalises_before_each_block():
    model = small_model("resnet", pre_norm=True)
    layer = model.model.transformer_module.decoder.layers[0]
    # Blocks that add nothing but a constant leave the input's scale alone only if no norm follows them.
    for last in (layer.cross_attn.out_proj, layer.self_attn.out_proj, layer.fc2):
        nn.init.zeros_(last.weight)
        nn.init.ones_(last.bias)
    seen = []
    for block in (layer.cross_attn, layer.self_attn, layer.fc1):
        block.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    hidden, features = 5 + torch.randn(1, 8, 32), torch.randn(1, 6, 32)
    keep = torch.ones(1, 1, 8, 6, dtype=torch.bool)
    out, _, _ = layer(hidden, torch.zeros(1, 8, 32), features, torch.zeros(1, 6, 32), keep)
    torch.testing.assert_close(out, hidden + 3)
    for x in seen:
        torch.testing.assert_close(x.mean(-1), torch.zeros(1, 8), atol=1e-5, rtol=0)


def test_class_weights_come_from_the_configuration_and_only_then_from_the_checkpoint(tmp_path, monkeypatch):
    """Files of transformers' and of the original's models hold the buffer `criterion.empty_weight`, into which people
    write weights by hand."""
    warnings = []
    monkeypatch.setattr("m2f.modeling_m2f.criterion.logger.warning", warnings.append)

    def loaded(**fields):
        warnings.clear()
        model = M2FForUniversalSegmentation.from_pretrained(tmp_path, **fields)
        return model.criterion.empty_weight.tolist(), model.config.class_weights

    small_model().save_pretrained(tmp_path)
    assert loaded() == (pytest.approx([1, 1, 1, 1, 1, 0.1]), None)
    weights = [1, 2, 3, 4, 5]
    assert loaded(class_weights=weights) == (pytest.approx([*weights, 0.1]), weights)
    assert not warnings
    assert loaded(no_object_weight=0.5) == (pytest.approx([1, 1, 1, 1, 1, 0.5]), None)
    assert "0.1" in warnings[0] and "0.5" in warnings[0]
    by_hand = small_model()
    by_hand.criterion.empty_weight[2] = 7
    by_hand.save_pretrained(tmp_path)
    assert loaded() == (pytest.approx([1, 1, 7, 1, 1, 0.1]), [1, 1, 7, 1, 1])
    assert len(warnings) == 1 and "class_weights" in warnings[0]
    assert loaded(class_weights=weights) == (pytest.approx([*weights, 0.1]), weights)
    by_hand.set_class_weights(weights)
    by_hand.save_pretrained(tmp_path)
    assert loaded() == (pytest.approx([*weights, 0.1]), weights) and not warnings
    with pytest.raises(ValueError, match="5 entries.*3 labels"):
        loaded(num_labels=3, ignore_mismatched_sizes=True)
    assert loaded(num_labels=3, class_weights=None, ignore_mismatched_sizes=True)[1] is None
