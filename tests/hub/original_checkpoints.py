"""Checkpoint files of the original, with the weights of the golden files, and what conversion writes."""

import json
import pickle

import torch
from golden_models import load_golden, original_state_dict

CLASSES = "sem_seg_head.predictor.class_embed"


def original_weights(name: str, num_labels: int | None = None) -> dict[str, torch.Tensor]:
    shapes = dict(load_golden(name)[1]["state_dict"])
    if num_labels is not None:
        shapes[f"{CLASSES}.weight"][0] = shapes[f"{CLASSES}.bias"][0] = num_labels + 1
    return original_state_dict(shapes)


def write_original(path, weights: dict[str, torch.Tensor]):
    if path.suffix == ".pkl":
        arrays = {name: value.numpy() for name, value in weights.items()}
        path.write_bytes(pickle.dumps({"model": arrays, "__author__": "someone"}))
    else:
        torch.save({"model": weights, "iteration": 3}, path)
    return path


def fields_of(folder, name: str = "config.json") -> dict:
    return json.loads((folder / name).read_text())
