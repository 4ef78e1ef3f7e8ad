"""Post-processing written out in float64 NumPy, pixel by pixel where that is plainer: the truth for the tests.

Source: the inference code of the original (facebookresearch/Mask2Former, mask2former/maskformer_model.py).
"""

from types import SimpleNamespace

import numpy as np
import torch


def make_outputs(class_logits, mask_logits, valid_sizes=None) -> SimpleNamespace:
    """A batch of one as the processor reads it; (Q,K+1) and (Q,h,w)."""
    outputs = SimpleNamespace(
        class_queries_logits=torch.as_tensor(class_logits, dtype=torch.float32)[None],
        masks_queries_logits=torch.as_tensor(mask_logits, dtype=torch.float32)[None],
    )
    if valid_sizes is not None:
        outputs.valid_sizes = torch.tensor([valid_sizes])
    return outputs


def class_logits_for(pairs: list[tuple[int, float]], num_labels: int) -> np.ndarray:
    """(Q,K+1) logits whose softmax gives label `pairs[q][0]` the probability `pairs[q][1]`.

    The rest goes to the no-object class, so scores below 0.5 are made of labels that share it.
    """
    logits = np.full((len(pairs), num_labels + 1), -40.0)
    for row, (label, probability) in zip(logits, pairs, strict=True):
        rest = [index for index in range(num_labels + 1) if index != label]
        others = rest[-1:] if probability > 0.5 else rest
        row[others] = np.log((1 - probability) / len(others))
        row[label] = np.log(probability)
    return logits


def random_logits(seed: int, num_queries=12, num_labels=6, size=(12, 16)) -> tuple[np.ndarray, np.ndarray]:
    """(Q,K+1) confident classes and (Q,h,w) blobs that overlap."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: size[0], : size[1]]
    centres = rng.uniform((0, 0), size, (num_queries, 2))
    radii = rng.uniform(2, 6, num_queries)
    distance = np.hypot(rows - centres[:, 0, None, None], columns - centres[:, 1, None, None])
    masks = 2.0 * (radii[:, None, None] - distance) + rng.normal(0, 0.7, (num_queries, *size))
    return (rng.normal(0, 4, (num_queries, num_labels + 1))).astype(np.float32), masks.astype(np.float32)


def bilinear(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(N,h,w) -> (N,*size): pixel centres at half integers, edges clamped (align_corners=False)."""
    for axis, length in ((1, size[0]), (2, size[1])):
        source = maps.shape[axis]
        position = np.clip((np.arange(length) + 0.5) * source / length - 0.5, 0, source - 1)
        low = np.floor(position).astype(int)
        high = np.minimum(low + 1, source - 1)
        weight = (position - low).reshape([-1 if other == axis else 1 for other in range(3)])
        maps = maps.take(low, axis) * (1 - weight) + maps.take(high, axis) * weight
    return maps


def resize(maps: np.ndarray, padded, valid, target) -> np.ndarray:
    return bilinear(bilinear(maps.astype(np.float64), padded)[:, : valid[0], : valid[1]], target)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def semantic(class_logits, mask_logits, padded, valid, target, resize_scores: bool) -> np.ndarray:
    """(K,H,W) scores."""
    classes = softmax(class_logits)[:, :-1]
    if resize_scores:
        probs = sigmoid(resize(mask_logits, padded, padded, padded))
        return bilinear(np.einsum("qc,qhw->chw", classes, probs)[:, : valid[0], : valid[1]], target)
    return np.einsum("qc,qhw->chw", classes, sigmoid(resize(mask_logits, padded, valid, target)))


def panoptic(class_logits, mask_logits, padded, valid, target, threshold, overlap, fused):
    """(H,W) ids and a list of (id, label)."""
    probs = softmax(class_logits)
    scores, labels = probs.max(-1), probs.argmax(-1)
    kept = [query for query in range(len(scores)) if labels[query] < probs.shape[1] - 1 and scores[query] > threshold]
    ids, segments, seen = np.zeros(target, int), [], {}
    if not kept:
        return ids, segments
    masks = sigmoid(resize(mask_logits[kept], padded, valid, target))
    winner = (masks * scores[kept][:, None, None]).argmax(0)
    for index, query in enumerate(kept):
        won, inside = winner == index, masks[index] >= 0.5
        if not (won.any() and inside.any() and (won & inside).any()) or won.sum() / inside.sum() < overlap:
            continue
        label = int(labels[query])
        if label in seen:
            ids[won & inside] = seen[label]
            continue
        segments.append((len(segments) + 1, label))
        ids[won & inside] = len(segments)
        if label in fused:
            seen[label] = len(segments)
    return ids, segments


def instances(class_logits, mask_logits, padded, valid, target, top_k, things):
    """(score, label, mask) sorted by score."""
    probs = softmax(class_logits)[:, :-1]
    pairs = [(probs[query, label], query, label) for query in range(len(probs)) for label in range(probs.shape[1])]
    found = []
    for score, query, label in sorted(pairs, reverse=True)[:top_k]:
        logits = resize(mask_logits[query : query + 1], padded, valid, target)[0]
        inside = logits > 0
        if label in things and inside.any():
            found.append((score * sigmoid(logits)[inside].mean(), label, inside))
    return sorted(found, key=lambda item: -item[0])
