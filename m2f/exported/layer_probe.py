"""The result of every layer as an output of a graph: the first in which a library differs from the model."""

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from m2f.exported.graph_form import FORMATS, GraphForm
from m2f.exported.graph_runtimes import open_graph
from m2f.exported.graph_writers import trace_network, write_graph
from m2f.exported.portable_network import PortableNetwork


@dataclass(frozen=True)
class ProbeForm(GraphForm):
    """A form whose outputs are layers' results."""

    layers: int = 0

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(f"layer_{i}" for i in range(self.layers))


class LayerProbe(nn.Module):
    """
    Args:
        network: whose layers, modules without others in them, are to be seen.
    """

    def __init__(self, network: PortableNetwork):
        super().__init__()
        self.network = network
        self.names: list[str] = []  # of the last call

    def forward(self, pixel_values: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
        """What the layers give, in the order in which they are done, and at the end what the network gives."""
        found: list[tuple[str, Tensor]] = []
        layers = [(name, module) for name, module in self.network.model.named_modules() if not list(module.children())]

        def watch(name: str):
            return lambda _, given, result: _add(found, name, given, result)

        handles = [module.register_forward_hook(watch(name)) for name, module in layers]
        try:
            results = self.network(pixel_values, sizes)
        finally:
            for handle in handles:
                handle.remove()
        found += zip(self.network.form.outputs, results, strict=True)
        self.names = [name for name, _ in found]
        return tuple(result for _, result in found)


def _add(found: list[tuple[str, Tensor]], name: str, given: tuple, result: object):
    if isinstance(result, Tensor) and result.is_floating_point() and not any(result is x for x in given):
        found.append((name, result.clone()))  # a layer behind it may write into it


def first_difference(network: PortableNetwork, form: GraphForm, inputs: Sequence[Tensor], limit: float) -> str:
    """Exports the network once more with the results of its layers, and says where they leave those of the model.

    Args:
        inputs: of the graph.
        limit: difference that is allowed, as share of a result's largest number.
    """
    probe = LayerProbe(network).eval()
    with torch.no_grad():
        wanted = probe(*inputs)
    names = probe.names
    probed = ProbeForm(**asdict(form), layers=len(names))
    program = trace_network(probe, probed)
    assert probe.names == names, "the model takes other layers while it is traced"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"probe{FORMATS[form.format]}"
        write_graph(program, probed, path)
        found = open_graph(path, probed)(inputs)
    return _first_beyond(names, found, wanted, limit)


def _first_beyond(names: Sequence[str], found: Sequence[Tensor], wanted: Sequence[Tensor], limit: float) -> str:
    most, calls = 0.0, Counter[str]()
    for name, theirs, ours in zip(names, found, wanted, strict=True):
        calls[name] += 1
        difference = relative_difference(theirs, ours)
        if difference > limit:
            call = f" (call {calls[name]})" if calls[name] > 1 else ""
            return (
                f"the first layer that differs is {name}{call}, by {difference:.1e} of its largest number; those "
                f"before it by {most:.1e} at most"
            )
        most = max(most, difference)
    return f"no layer differs: all {len(names)} are within {most:.1e} of their largest number"


def relative_difference(found: Tensor, wanted: Tensor) -> float:
    """As share of the largest number that is wanted; NaN counts as infinitely far."""
    difference = float((found.float() - wanted.float()).abs().max() / wanted.float().abs().max().clamp(min=1e-6))
    return difference if difference == difference else float("inf")
