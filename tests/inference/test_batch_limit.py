"""How many images come together where nobody says it."""

import pytest
import torch

from m2f.inference.batch_limit import BatchLimit

GIB = 2**30


def limit(monkeypatch, free: int, dtype: torch.dtype = torch.float32) -> BatchLimit:
    monkeypatch.setattr("m2f.inference.batch_limit.free_memory", lambda device: free)
    return BatchLimit("auto", torch.nn.Linear(2, 2, dtype=dtype))


def test_small_images_come_together_and_large_ones_alone(monkeypatch):
    most = limit(monkeypatch, 64 * GIB)
    assert [most((1, 3, edge, edge)) for edge in (96, 192, 384, 640, 768, 800, 4000)] == [64, 16, 4, 1, 1, 1, 1]
    assert most((1, 3, 192, 384)) == 8
    assert most(None) == 1  # to be cut into tiles


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 3), (torch.bfloat16, 7)])
def test_no_more_than_an_eighth_of_the_free_memory(dtype, most, monkeypatch):
    """1 KiB a pixel in float32: 1 GiB has room for 1 Mi pixels, an eighth of it for 131072, of 192 x 192 for 3.6."""
    found = limit(monkeypatch, GIB, dtype)
    assert found((1, 3, 192, 192)) == most and found((1, 3, 2000, 2000)) == 1
    assert limit(monkeypatch, 0)((1, 3, 64, 64)) == 1


def test_a_number_holds_for_all_sizes(monkeypatch):
    monkeypatch.setattr("m2f.inference.batch_limit.free_memory", lambda device: 0)
    most = BatchLimit(5, torch.nn.Linear(2, 2))
    assert most((1, 3, 4000, 4000)) == most((1, 3, 32, 32)) == 5


@pytest.mark.parametrize("batch_size", [0, -1, "fast", 2.5, None])
def test_other_values(batch_size):
    with pytest.raises(ValueError, match="batch_size must be at least 1, or 'auto', got"):
        BatchLimit(batch_size, torch.nn.Linear(2, 2))
