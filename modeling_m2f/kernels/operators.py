"""How the kernels become operators of PyTorch, which autograd, torch.compile, torch.export, torch.func and FLOP
counters see through.

An operator's name carries a version: defining a name twice silently replaces its schema, and remote code of another
version may live in the same process. Operators are defined, and their FLOPs registered, when their files are imported,
which compiles nothing: a FLOP counter takes its formulas when it is made, and a saved program names the operators that
it needs when it is loaded.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import flop_registry, register_flop_formula

NAMESPACE = "m2f"


def define(
    name: str,
    on_cpu: Callable,
    fake: Callable,
    flops: Callable[..., int],
    on_cuda: Callable | None = None,
    autograd: tuple[Callable, Callable] | None = None,
):
    """Define the operator `name`, "m2f::..."; does nothing where it exists.

    Args:
        on_cpu, on_cuda: compute it; empty inputs are theirs to see to.
        fake: makes empty results of the same form.
        flops: from the shapes of the arguments, and `out_shape`, those of the results; as PyTorch counts, a
            multiplication and an addition are 2.
        autograd: backward and setup_context. Without, differentiating through the operator is an error.
    """
    if hasattr(getattr(torch.ops, NAMESPACE), name.split("::")[1]):
        return
    operator = torch.library.custom_op(name, on_cpu, mutates_args=(), device_types="cpu")
    operator.register_fake(fake)
    operator.register_vmap(_one_by_one(name))
    if on_cuda is not None:
        operator.register_kernel("cuda")(on_cuda)
    if autograd is not None:
        backward, setup_context = autograd
        operator.register_autograd(backward, setup_context=setup_context)
    count_flops(packet(name), flops)


def gradients_of_definition(
    definition: Callable[..., Tensor], inputs: tuple, needed: tuple[bool, ...], grad_out: Tensor
) -> tuple[Tensor | None, ...]:
    """Gradients of the inputs through plain PyTorch, None where not needed. They can be differentiated again, which
    those of a kernel cannot."""
    is_wanted = [isinstance(x, Tensor) and need is True for x, need in zip(inputs, needed, strict=True)]
    # Other views of the inputs, because one may have been made of another, or be it.
    others = [x.view_as(x) if wanted else x for x, wanted in zip(inputs, is_wanted, strict=True)]
    views = [x for x, wanted in zip(others, is_wanted, strict=True) if wanted]
    gradients = iter(torch.autograd.grad(definition(*others), views, grad_out, create_graph=True))
    return tuple(next(gradients) if wanted else None for wanted in is_wanted)


def packet(name: str) -> torch._ops.OpOverloadPacket:
    """The operator `name`, "namespace::operator", as `torch.ops` has it."""
    namespace, operator = name.split("::")
    return getattr(getattr(torch.ops, namespace), operator)


def count_flops(operator: torch._ops.OpOverloadPacket, flops: Callable[..., int]):
    """Tell PyTorch's FLOP counters how to count an operator, unless they know."""
    if operator not in flop_registry:
        register_flop_formula(operator)(flops)


def _one_by_one(name: str) -> Callable:
    """The rule of `torch.vmap`: the operator is called for each element. A kernel uses all threads for one image, so
    that nothing would be gained by putting them together."""

    def rule(info, in_dims, *arguments):
        results = [
            packet(name)(
                *(x.select(d, i) if isinstance(d, int) else x for x, d in zip(arguments, in_dims, strict=True))
            )
            for i in range(info.batch_size)
        ]
        stacked = tree_map(lambda *parts: torch.stack(parts), *results)
        return stacked, tree_map(lambda _: 0, stacked)

    return rule


def _numbers(shape) -> int:
    count = 1
    for length in shape:
        count *= length
    return count


def _linear_flops(x_shape, *others, out_shape=None, **options) -> int:
    return 2 * _numbers(out_shape) * x_shape[-1]


# Of torch's operators the one that linear.py calls, which torch's FLOP counters pass over.
if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
    count_flops(torch.ops.mkldnn._linear_pointwise, _linear_flops)
