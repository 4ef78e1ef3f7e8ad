"""A fixture for tests that run with several numbers of threads, which name this file as a plugin."""

import pytest
import torch


@pytest.fixture(params=[1, 3])
def thread_count(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)
