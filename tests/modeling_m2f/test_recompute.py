"""Activations that are computed again instead of kept: the same gradients, less memory."""

import copy

import pytest
import torch
from backbone_cases import backbone_fields
from small_models import BACKBONES, corner_mask, random_targets, small_model
from transformers.modeling_layers import GradientCheckpointingLayer

from m2f.modeling_m2f.recompute import recompute_decoders, recompute_feedforward, recomputed

pytest_plugins = ("kernel_fixtures",)


def gradients(model, pixels, **outputs_of) -> dict[str, torch.Tensor]:
    model.zero_grad()
    torch.manual_seed(1)  # of dropped paths
    outputs = model.model(pixels)
    (
        outputs.pixel_decoder_last_hidden_state.square().sum() + outputs.encoder_last_hidden_state.square().sum()
    ).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def kept_bytes(work) -> int:
    """Bytes of the different tensors that autograd keeps for the backward pass."""
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = work()
    del result
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("backbone", ["swin", "convnext", "resnet"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradients_are_those_of_kept_activations(backbone, dropout):
    pixels = torch.randn(2, 3, 64, 96)
    keeping, feedforward, decoders = (
        small_model(backbone, recompute_feedforward=value, dropout=dropout).train() for value in (False, True, True)
    )
    recompute_decoders(decoders)
    wanted = gradients(keeping, pixels)
    largest = max(float(gradient.abs().max()) for gradient in wanted.values())
    for found in (gradients(feedforward, pixels), gradients(decoders, pixels)):
        assert found.keys() == wanted.keys() and len(found) > 50
        for name, gradient in wanted.items():
            # Of some, such as the bias of keys, the gradient is 0 but for rounding.
            atol = max(1e-4 * float(gradient.abs().max()), 1e-7 * largest)
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=atol)


@pytest.mark.parametrize("backbone", ["swin", "dinov3_vit"])
@pytest.mark.parametrize("sizes", [None, [(128, 96), (70, 128)]])
def test_gradients_of_all_outputs_are_those_of_kept_activations_in_float64(backbone, sizes):
    """With and without padding; of the input too, and with the backbone frozen."""
    fields = backbone_fields("dinov3_vit") if backbone == "dinov3_vit" else dict(BACKBONES[backbone])
    mask = None if sizes is None else corner_mask((128, 128), sizes)
    found = []
    for recompute in (True, False):
        model = small_model(backbone_config=fields, recompute_feedforward=recompute).double().train()
        if recompute:
            recompute_decoders(model)
        for frozen in (False, True):
            if frozen:
                model.model.pixel_level_module.freeze_backbone()
            model.zero_grad()
            pixels = torch.randn(2, 3, 128, 128, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
            outputs = model(pixels.requires_grad_(not frozen), pixel_mask=mask, output_auxiliary_logits=True)
            every = [outputs, *outputs.auxiliary_logits]
            sum(
                x["masks_queries_logits"].square().mean() + x["class_queries_logits"].square().mean() for x in every
            ).backward()
            gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
            assert any("encoder.layers.0.self_attn" in name for name in gradients) and len(gradients) > 100
            found.append({**gradients, "pixels": pixels.grad} if not frozen else gradients)
    for again, kept in zip(found[:2], found[2:], strict=True):
        torch.testing.assert_close(again, kept, rtol=1e-9, atol=1e-12)


@pytest.mark.usefixtures("cpu_kernels")  # PyTorch's forms keep more
def test_less_is_kept():
    pixels = torch.randn(1, 3, 128, 128)
    ours, keeping = (small_model("swin", recompute_feedforward=value).train() for value in (True, False))
    bytes_of_all = kept_bytes(lambda: keeping(pixels))
    assert kept_bytes(lambda: ours(pixels)) < 0.8 * bytes_of_all
    recompute_decoders(ours)
    assert kept_bytes(lambda: ours(pixels)) < 0.52 * bytes_of_all
    assert kept_bytes(lambda: ours.eval()(pixels)) == kept_bytes(lambda: keeping.eval()(pixels))


def test_less_is_kept_behind_a_frozen_backbone():
    """More is where the pyramid, the pixel decoder's or its encoder's layers are left out: 0.42 to 0.62."""
    pixels, kept = torch.randn(1, 3, 128, 128), []
    for value in (True, False):
        model = small_model(backbone_config=backbone_fields("dinov3_vit"), recompute_feedforward=value).train()
        model.freeze_backbone()
        kept.append(kept_bytes(lambda model=model: model(pixels)))
    assert kept[0] < 0.36 * kept[1]


def test_a_copy_runs_its_own_weights():
    model = small_model("swin").train()
    other = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if name.endswith("mlp.fc1.bias"):
                parameter.fill_(torch.nan)
    pixels = torch.randn(1, 3, 64, 64)
    assert other.model(pixels).encoder_last_hidden_state.isnan().all()
    assert model.model(pixels).encoder_last_hidden_state.isfinite().all()


def replica_of(model: torch.nn.Module) -> torch.nn.Module:
    """What `torch.nn.parallel.replicate` makes for another GPU: modules are shallow copies that share what is no
    module, parameter or buffer; parameters are tensors of the replica's own."""
    replicas = {module: module._replicate_for_data_parallel() for module in model.modules()}
    for module, replica in replicas.items():
        for name, child in module._modules.items():
            if child is not None:
                setattr(replica, name, replicas[child])
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            setattr(replica, name, None if tensor is None else tensor.detach().clone())
    return replicas[model]


@torch.no_grad()
def test_a_replica_of_data_parallel_runs_its_own_weights():
    level = small_model(backbone_config=backbone_fields("dinov2")).train().model.pixel_level_module
    replica, pixels = replica_of(level), torch.randn(1, 3, 64, 64)
    expected = level.feature_maps(pixels)
    torch.testing.assert_close(replica.feature_maps(pixels), expected)
    replica.encoder.encoder.layer[1].mlp.fc2.bias.fill_(torch.nan)
    assert replica.feature_maps(pixels)[0].isnan().all()
    torch.testing.assert_close(level.feature_maps(pixels), expected)


def test_a_checkpointed_layer_computes_its_feedforward_once_more_and_not_twice():
    model = small_model("swin").train()
    calls = []
    layer = model.model.pixel_level_module.decoder.encoder.layers[0]
    layer.fc1.register_forward_hook(lambda *_: calls.append(1))
    pixels, (masks, classes) = torch.randn(1, 3, 64, 64), random_targets([(64, 64)], [2])
    for enable in (model.gradient_checkpointing_disable, model.gradient_checkpointing_enable):
        enable()
        calls.clear()
        model(pixels, mask_labels=masks, class_labels=classes).loss.backward()
        assert len(calls) == 2
    del calls[:]
    with torch.no_grad():
        model(pixels)
    assert len(calls) == 1


def test_random_numbers_are_the_same_again():
    module, x = torch.nn.Dropout(0.5).train(), torch.ones(1000, requires_grad=True)
    y = recomputed(module, lambda t: module(t) * t, x, random=True)
    y.sum().backward()
    # d/dx (m x^2) = 2 m x at x = 1, with m the mask of the forward pass.
    torch.testing.assert_close(x.grad, 2 * y.detach())


def test_layers_without_a_feedforward_of_their_own_are_left_alone():
    backbone = small_model("convnext").model.pixel_level_module.encoder
    recompute_feedforward(backbone)
    assert not any("forward" in vars(module) for module in backbone.modules())


class Layer(GradientCheckpointingLayer):
    """Stands for a layer of a backbone."""

    def __init__(self):
        super().__init__()
        self.mlp = torch.nn.Linear(4, 4)

    def forward(self, x):
        return self.mlp(x)


def test_a_copy_of_a_feedforward_alone_runs_its_own_weights():
    """Adapters (PEFT's modules_to_save) put a module in its place that holds it and a copy that is trained."""
    layer, x = Layer().train(), torch.randn(2, 4)
    recompute_feedforward(torch.nn.Sequential(layer))
    original, trained = layer.mlp, copy.deepcopy(layer.mlp)
    torch.nn.init.zeros_(trained.weight)
    torch.nn.init.ones_(trained.bias)
    layer.mlp = torch.nn.Sequential(original, trained)
    assert vars(trained)["forward"].layer is layer
    assert torch.equal(layer(x), torch.ones(2, 4))
    assert torch.equal(original(x), torch.nn.functional.linear(x, original.weight, original.bias))
