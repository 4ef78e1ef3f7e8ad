import json
import random

import numpy as np
import torch

from m2f.training.random_state import random_state, set_random_state


def draw() -> tuple:
    # A normal number leaves half of a pair behind, which is part of the state too.
    return random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(3).tolist()


def test_every_generator_goes_on_from_what_json_kept():
    draw()
    device = torch.device("cpu")
    text = json.dumps(random_state(device))
    expected = [draw() for _ in range(3)]
    draw()
    set_random_state(json.loads(text), device)
    assert [draw() for _ in range(3)] == expected
