"""The kernels and the loss within torch.func, forward-mode differentiation and second derivatives. Expected values are
those of the plain forms, of small differences, or of the same thing computed in another of PyTorch's ways."""

import contextlib

import pytest
import torch
from ms_deform_attn_inputs import make_inputs
from small_models import random_targets, small_model
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.func import functional_call, grad, grad_and_value, hessian, jacrev, jvp, stack_module_state, vjp, vmap

from m2f.modeling_m2f.kernels.c_arguments import pointer
from m2f.modeling_m2f.kernels.masked_attention import MASKED_ATTENTION, masked_attention
from m2f.modeling_m2f.kernels.ms_deform_attn import ms_deform_attn
from m2f.modeling_m2f.kernels.ms_deform_attn_reference import ms_deform_attn_reference
from m2f.modeling_m2f.kernels.readable_memory import is_readable
from m2f.modeling_m2f.kernels.window_attention import WINDOW_ATTENTION, window_attention, window_attention_reference
from m2f.modeling_m2f.mask_losses import matched_mask_losses
from m2f.modeling_m2f.point_sampling import PointChoice
from m2f.modeling_m2f.prepare_targets import prepare_targets

pytest_plugins = ("kernel_fixtures",)
pytestmark = pytest.mark.usefixtures("compiled_kernel")

SHAPES = [(3, 4), (2, 2)]


def deformable(definition=ms_deform_attn):
    """The operator as a function of its four tensors, and these."""
    value, _, *others = make_inputs(SHAPES, batch=2, queries=3, heads=2, head_dim=3, points=2)
    return lambda value, *others: definition(value, SHAPES, *others), (value, *others)


def windows(definition=window_attention):
    draw = torch.Generator().manual_seed(0)
    sizes = [(2, 20, 3, 2, 3), (3, 2, 3), (2, 9, 9)]
    inputs = [torch.randn(size, generator=draw, dtype=torch.float64).requires_grad_() for size in sizes]
    WINDOW_ATTENTION.runs_on(torch.device("cpu"), torch.float32, head_dim=3, window=3)  # compiles
    return lambda *inputs: definition(*inputs, 5, 4, 1), inputs


OPERATORS = {
    "deformable attention": (deformable, ms_deform_attn_reference),
    "window attention": (windows, window_attention_reference),
}


@pytest.mark.parametrize("name", OPERATORS)
class TestOperators:
    def test_grad(self, name):
        """`setup_context` was missing."""
        make, definition = OPERATORS[name]
        function, inputs = make()
        expected = torch.autograd.grad(make(definition)[0](*inputs).square().sum(), inputs)
        found = grad(lambda *x: function(*x).square().sum(), tuple(range(len(inputs))))(*[x.detach() for x in inputs])
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other)

    def test_jvp_is_not_zero(self, name):
        """It was, without a word. The product with a tangent is that of the transposed with a cotangent."""
        function, inputs = OPERATORS[name][0]()
        inputs = [x.detach() for x in inputs]
        tangents = [torch.randn_like(x) for x in inputs]
        out, tangent = jvp(function, tuple(inputs), tuple(tangents))
        cotangent = torch.randn_like(out)
        back = vjp(function, *inputs)[1](cotangent)
        expected = sum((x * y).sum() for x, y in zip(back, tangents, strict=True))
        torch.testing.assert_close((tangent * cotangent).sum(), expected)
        assert abs(expected) > 1e-3
        with forward_ad.dual_level():
            duals = [forward_ad.make_dual(x, y) for x, y in zip(inputs, tangents, strict=True)]
            torch.testing.assert_close(forward_ad.unpack_dual(function(*duals)).tangent, tangent)

    def test_vmap_over_each_argument(self, name):
        function, inputs = OPERATORS[name][0]()
        for i, x in enumerate(inputs):
            several = torch.stack([x.detach(), 2 * x.detach()])
            dims = tuple(0 if j == i else None for j in range(len(inputs)))
            found = vmap(function, dims)(*(several if j == i else y for j, y in enumerate(inputs)))
            expected = [function(*(x if j == i else y for j, y in enumerate(inputs))) for x in several]
            torch.testing.assert_close(found, torch.stack(expected))

    def test_second_derivatives(self, name):
        """Of the gradient that the kernel gives; were an error, which left half of PyTorch's tools without a way."""
        function, inputs = OPERATORS[name][0]()
        first = torch.autograd.grad(function(*inputs).square().sum(), inputs, create_graph=True)
        plain, _ = OPERATORS[name][0](OPERATORS[name][1])
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            wanted = torch.autograd.grad(plain(*inputs).square().sum(), inputs, create_graph=True)
            expected = torch.autograd.grad(sum(x.square().sum() for x in wanted), inputs)
        found = torch.autograd.grad(sum(x.square().sum() for x in first), inputs)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other)
            assert one.abs().max() > 1e-3

    def test_second_derivatives_where_one_input_is_made_of_another(self, name):
        """An input's gradient is that of its own place, not of what others were made of."""
        function, inputs = OPERATORS[name][0]()
        last = inputs[-1]

        def of_one(last):
            return function(inputs[0] + last.mean(), *inputs[1:-1], last)

        expected = torch.autograd.grad(of_one(last).square().sum(), last)
        found = torch.autograd.grad(of_one(last).square().sum(), last, create_graph=True)
        torch.testing.assert_close(found, expected)
        assert torch.autograd.gradgradcheck(of_one, (last,), atol=1e-4, fast_mode=True)


def test_operators_without_a_derivative_say_so():
    query, cells = torch.randn(1, 3, 8, requires_grad=True), torch.randn(1, 5, 8)
    assert MASKED_ATTENTION.runs_on(query.device, query.dtype, head_dim=4)
    attended = masked_attention(query, cells, cells, torch.ones(1, 1, 3, 5, dtype=torch.bool), 2)
    with pytest.raises(RuntimeError, match="masked_attention_v1.*no autograd formula"):
        attended.sum().backward()
    x = torch.randn(1, 3, 64, 64, requires_grad=True)
    with pytest.raises(RuntimeError, match="convolve_3x3_weight_gradient_v1.*no autograd formula"):
        torch.ops.m2f.convolve_3x3_weight_gradient_v1(x, torch.randn(1, 4, 64, 64)).sum().backward()


def operator_inputs():
    keep = torch.ones(1, 1, 3, 5, dtype=torch.bool)
    cells = torch.randn(1, 5, 8)
    yield torch.ops.m2f.masked_attention_v1, (torch.randn(1, 3, 8), cells, cells, keep, 2)
    yield torch.ops.m2f.convolve_3x3_v2, (torch.randn(1, 3, 64, 64), torch.randn(4, 3, 3, 3))
    yield torch.ops.m2f.convolve_3x3_weight_gradient_v1, (torch.randn(1, 3, 64, 64), torch.randn(1, 4, 64, 64))


def test_operators_are_good_citizens():
    for operator, inputs in operator_inputs():
        torch.library.opcheck(operator.default, inputs)
        several = [torch.stack([x, x.flip(1)]) if i == 0 else x for i, x in enumerate(inputs)]
        found = vmap(operator, (0, *(None for _ in inputs[1:])))(*several)
        torch.testing.assert_close(found[1], operator(several[0][1], *inputs[1:]))


def test_memory_is_read_of_plain_tensors_alone():
    """What every kernel's caller asks; and the last gate, at which an address is taken."""
    x = torch.randn(3)
    assert is_readable(x, torch.nn.Parameter(x), None)

    class Other(torch.Tensor):
        pass

    for other in (x.as_subclass(Other), x.to("meta"), x.to_sparse(), torch._neg_view(x)):
        assert not is_readable(x, other)
        with pytest.raises(TypeError, match="no plain tensor"):
            pointer(other)
    with FakeTensorMode() as mode:
        assert not is_readable(x)
    assert not is_readable(mode.from_tensor(x))
    seen = []

    def look(y):
        seen.append(is_readable(x) or is_readable(y))
        return y

    grad(lambda y: look(y).sum())(x)
    vmap(look)(x)
    jvp(look, (x,), (x,))
    torch.jit.trace(look, x, check_trace=False)
    torch.fx.experimental.proxy_tensor.make_fx(look)(x)
    with forward_ad.dual_level():
        look(x)
    assert len(seen) == 6 and not any(seen)
    assert is_readable(x)


# The whole model


@pytest.fixture(scope="module", params=["resnet", "swin"])
def model(request):
    return small_model(request.param, train_num_points=32).requires_grad_(True)


def labelled():
    torch.manual_seed(0)
    masks, classes = random_targets([(64, 64)] * 2, [3, 2])
    mask = torch.ones(2, 64, 64, dtype=torch.int64)
    mask[1, 48:] = 0
    labels = {"mask_labels": masks, "class_labels": classes}
    return {"pixel_values": torch.randn(2, 3, 64, 64), "pixel_mask": mask, **labels}


def test_gradients_of_the_loss_are_those_of_backward(model):
    """At the same random points. Rounding: plain matrix products in place of oneDNN's."""
    inputs, parameters = labelled(), dict(model.named_parameters())

    def loss(parameters):
        torch.manual_seed(1)
        return functional_call(model, parameters, (), inputs).loss

    model.train()
    try:
        found, value = grad_and_value(loss)(parameters)
        model.zero_grad()
        expected = loss(parameters)
        expected.backward()
    finally:
        model.eval()
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=0)
    largest = max(p.grad.abs().max() for p in parameters.values())
    for name, p in parameters.items():
        assert (found[name] - p.grad).abs().max() < 1e-4 * largest, name


def test_vmap_over_images_and_over_models(model):
    images = torch.randn(3, 3, 64, 64)
    other = small_model(model.config.backbone_config.model_type, seed=1)
    for context in (contextlib.nullcontext, torch.no_grad):
        with context():
            found = vmap(lambda image: model(image[None]).masks_queries_logits[0])(images)
            torch.testing.assert_close(found, model(images).masks_queries_logits, atol=1e-4, rtol=1e-4)
            parameters, buffers = stack_module_state([model, other])

            def run(*state):
                return functional_call(model, state, (images[:1],)).class_queries_logits

            found = vmap(run)(parameters, buffers)
            torch.testing.assert_close(found[1], other(images[:1]).class_queries_logits, atol=1e-4, rtol=1e-4)


def test_the_loss_within_vmap_says_what_to_do_instead(model):
    inputs = labelled()
    labels = {name: inputs[name][:1] for name in ("mask_labels", "class_labels")}
    with pytest.raises(RuntimeError, match="loss cannot be computed inside torch.vmap.*Loop over"):
        vmap(lambda image: model(image[None], **labels).loss)(inputs["pixel_values"])


def test_forward_mode_of_the_model_is_its_transposed_backward_mode(model):
    pixels, tangent = torch.randn(2, 1, 3, 64, 64).unbind()

    def run(x):
        return model(x).class_queries_logits

    out, found = jvp(run, (pixels,), (tangent,))
    cotangent = torch.randn_like(out)
    back = vjp(run, pixels)[1](cotangent)[0]
    torch.testing.assert_close((found * cotangent).sum(), (back * tangent).sum(), rtol=1e-3, atol=1e-4)


# Second derivatives of the mask losses


def mask_total(importance_ratio: float):
    """The mask losses' total as a function of embeddings and features, with the same points in every call."""
    torch.manual_seed(0)
    masks, classes = random_targets([(32, 32)], [2])
    place = {"given_size": (32, 32), "canvas": (32, 32), "padding_counts": True}
    targets = prepare_targets(masks, classes, [(32, 32)], num_classes=5, num_queries=4, device="cpu", **place)
    matches = [[(torch.tensor([1, 3]), torch.tensor([0, 1]))]]

    def total(embeddings, features):
        torch.manual_seed(0)
        points = PointChoice(40, 3.0, importance_ratio)
        return matched_mask_losses(embeddings, features, targets, matches, points, torch.tensor([2.0, 3.0]))[0]

    return total, torch.randn(1, 1, 4, 3), torch.randn(1, 3, 8, 8)


@pytest.mark.parametrize("which", [0, 1])
def test_autograd_has_no_silent_second_derivative_of_the_mask_losses(which):
    """They were 0. Where the loss is the number itself, its factor is a constant; where it is squared, it is not."""
    total, *inputs = mask_total(0.75)
    inputs[which].requires_grad_()
    for loss in (total(*inputs), total(*inputs).square()):
        (first,) = torch.autograd.grad(loss, inputs[which], create_graph=True)
        with pytest.raises(RuntimeError, match="no second derivative of the mask losses.*torch.func"):
            torch.autograd.grad(first.square().sum(), inputs[which])
    (first,) = torch.autograd.grad(total(*inputs), inputs[which], create_graph=True)
    assert torch.equal(first, torch.autograd.grad(total(*inputs), inputs[which])[0])


def test_torch_func_has_second_derivatives_of_the_mask_losses():
    """Small differences of the gradient, at points that do not depend on the masks: those that do jump."""
    total, embeddings, features = mask_total(0.0)
    direction, step = torch.randn_like(embeddings), 1e-2

    def first(x):
        return grad(total)(x, features)

    differences = (first(embeddings + step * direction) - first(embeddings - step * direction)) / (2 * step)
    for second in (hessian(total)(embeddings, features), jacrev(jacrev(total))(embeddings, features)):
        found = torch.tensordot(second, direction, 4)
        torch.testing.assert_close(found, differences, rtol=2e-2, atol=1e-2)
    assert differences.abs().max() > 0.1
    # All points, and the gradient itself, are those of autograd.
    total, embeddings, features = mask_total(0.75)
    expected = torch.autograd.grad(total(embeddings.requires_grad_(), features), embeddings)[0]
    torch.testing.assert_close(grad(total)(embeddings.detach(), features), expected, rtol=1e-4, atol=1e-5)
    found = jvp(lambda x: total(x, features), (embeddings.detach(),), (direction,))[1]
    torch.testing.assert_close(found, (expected * direction).sum(), rtol=1e-4, atol=1e-4)
