import pytest
import torch
from torch import nn

from m2f.training.weight_average import WeightAverage


def model_with(weight: float) -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 1, bias=False), nn.BatchNorm1d(1))
    with torch.no_grad():
        model[0].weight.fill_(weight)
    return model


def test_it_moves_by_the_decay_that_the_number_of_updates_allows():
    """From 0 towards 1 with decay min(0.5, (1 + n) / (10 + n)): 0.1, 2/11, ... until 0.5 is reached."""
    model = model_with(0.0)
    average = WeightAverage(model, 0.5)
    with torch.no_grad():
        model[0].weight.fill_(1.0)
    expected = 0.0
    for update in range(12):
        average.update()
        decay = min(0.5, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay)
        torch.testing.assert_close(average.averages["0.weight"], torch.full((1, 2), expected))
    assert average.updates == 12


def test_buffers_are_averaged_and_counters_are_not():
    average = WeightAverage(model_with(0.0), 0.9)
    assert set(average.averages) == {"0.weight", "1.weight", "1.bias", "1.running_mean", "1.running_var"}


def test_inside_the_block_the_model_is_the_average_and_afterwards_itself_to_the_last_bit():
    model = model_with(0.0)
    average = WeightAverage(model, 0.9)
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[0.1, 1 / 3]]))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(KeyError), average.swapped_in():
        assert torch.equal(model[0].weight, torch.zeros(1, 2))
        raise KeyError  # whatever happens inside
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_it_is_float32_for_a_model_in_half_precision():
    """In bfloat16 an average of decay 0.999 would never move: 1 + 0.001 rounds to 1."""
    model = model_with(1.0).bfloat16()
    average = WeightAverage(model, 0.999)
    average.updates = 10_000
    with torch.no_grad():
        model[0].weight.fill_(2.0)
    average.update()
    torch.testing.assert_close(average.averages["0.weight"], torch.full((1, 2), 1.001))
    with average.swapped_in():
        assert model[0].weight.dtype == torch.bfloat16


def test_it_goes_on_from_its_state():
    model = model_with(0.0)
    one, other = WeightAverage(model, 0.9), WeightAverage(model_with(5.0), 0.9)
    with torch.no_grad():
        model[0].weight.fill_(1.0)
    one.update()
    other.model = model
    other.load_state_dict(one.state_dict(), one.updates)
    for average in (one, other):
        average.update()
    assert torch.equal(one.averages["0.weight"], other.averages["0.weight"])


def test_the_state_of_another_model_is_an_error():
    state = WeightAverage(nn.Linear(2, 1), 0.9).state_dict()
    with pytest.raises(ValueError, match="another model.*0.weight"):
        WeightAverage(model_with(0.0), 0.9).load_state_dict(state, 1)
