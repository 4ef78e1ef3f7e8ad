"""The first layer in which a graph leaves its model: a network of four layers, one of them wrong in graphs alone."""

import pytest
import torch
from torch import nn

from m2f.exported.graph_form import GraphForm
from m2f.exported.layer_probe import first_difference, relative_difference
from m2f.modeling_m2f.kernels.portable_graph import is_portable

FORM = GraphForm("torch-export", (64, 64), 1, padding=False)


class WrongInGraphs(nn.Module):
    def forward(self, x):
        return x * 1.5 if is_portable() else x * 1


class Network(nn.Module):
    """As a PortableNetwork: logits of four layers, of which the first is called twice."""

    def __init__(self, third: nn.Module, last: float = 1.0):
        super().__init__()
        torch.manual_seed(0)
        self.form, self.last = FORM, last
        layers = {"convolution": nn.Conv2d(3, 3, 3, padding=1), "pass": nn.Identity(), "third": third}
        self.model = nn.ModuleDict({**layers, "linear": nn.Linear(64, 2)})

    def forward(self, pixel_values, sizes=None):
        x = self.model["pass"](self.model["convolution"](self.model["convolution"](pixel_values)))
        x = self.model["linear"](self.model["third"](x))
        return x, x * (self.last if is_portable() else 1.0)


@pytest.fixture(scope="module")
def inputs():
    return [torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))]


def test_the_first_layer_that_differs_is_named(inputs):
    found = first_difference(Network(WrongInGraphs()), FORM, inputs, 1e-2)
    assert found.startswith("the first layer that differs is third, by 5.0e-01 of its largest number; those before it")
    assert float(found.split(" by ")[-1].split()[0]) < 1e-5


def test_results_count_as_the_last_layer_and_calls_are_counted(inputs):
    found = first_difference(Network(nn.ReLU(), last=1.2), FORM, inputs, 1e-2)
    assert found.startswith("the first layer that differs is masks_queries_logits, by 2.0e-01")
    assert first_difference(Network(nn.ReLU()), FORM, inputs, 1e-2).startswith("no layer differs: all 6 are within ")
    model = Network(nn.ReLU())
    model.model["convolution"] = Twice()
    assert "differs is convolution (call 2), by" in first_difference(model, FORM, inputs, 1e-2)


class Twice(nn.Module):
    """Wrong in graphs where its input is a convolution's result, whose numbers are small."""

    def forward(self, x):
        return x * 0.1 + 0.5 * (x.abs().amax() < 1 if is_portable() else 0)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_what_is_no_number_is_infinitely_far(broken):
    assert relative_difference(torch.tensor([1.0, broken]), torch.ones(2)) == float("inf")
    assert relative_difference(torch.tensor([1.0, 2.5]), torch.tensor([1.0, 2.0])) == 0.25
