"""Names and shapes of the weights of the original's own models, all its image configurations."""

import gzip
import json

import torch
from golden_models import GOLDEN

KEYS = json.loads(gzip.decompress((GOLDEN / "state_dict_keys.json.gz").read_bytes()))


def meta_state_dict(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
