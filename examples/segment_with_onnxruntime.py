"""Segments a picture with what `m2f export` wrote, with numpy, onnxruntime and Pillow alone.

python segment_with_onnxruntime.py model.onnx picture.jpg segments.png

Writes the segment of each pixel, 0 for none, and prints what the segments are. For graphs of logits (--post none).
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def resized_size(height, width, size):
    if "height" in size:
        return size["height"], size["width"]
    if "max_height" in size:
        scale = min(size["max_height"] / height, size["max_width"] / width)
    elif "shortest_edge" in size:
        scale = min(size["shortest_edge"] / min(height, width), size.get("longest_edge", np.inf) / max(height, width))
    else:
        scale = size["longest_edge"] / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resize(x, size, axis):
    """Bilinear along an axis, pixels' centres at halves, as torch's interpolate."""
    at = np.clip((np.arange(size) + 0.5) * (x.shape[axis] / size) - 0.5, 0, x.shape[axis] - 1)
    low = at.astype(int)
    share = (at - low).reshape([-1 if i == axis else 1 for i in range(x.ndim)]).astype(np.float32)
    high = np.minimum(low + 1, x.shape[axis] - 1)
    return x.take(low, axis) * (1 - share) + x.take(high, axis) * share


def sigmoid(x):
    return 1 / (1 + np.exp(-np.clip(x, -80, 80)))


def prepare(image, steps):
    if steps["resize"]:
        height, width = resized_size(image.height, image.width, steps["resize"])
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    pixels = (np.asarray(image, np.float32) * np.float32(steps["scale"]) - steps["mean"]) / steps["std"]
    edge = steps["multiple_of"]
    canvas = steps["padded_size"] or {
        "height": -(-image.height // edge) * edge,
        "width": -(-image.width // edge) * edge,
    }
    padded = np.zeros((1, 3, canvas["height"], canvas["width"]), np.float32)
    padded[0, :, : image.height, : image.width] = pixels.transpose(2, 0, 1)
    return padded, np.array([[image.height, image.width]])


def find_segments(classes, masks, about):
    """Class probabilities (Q, K + 1) and mask logits (Q, H, W) to (H, W) ids and a list of (id, label, score)."""
    rules, things = about["results"], about["thing_label_ids"]
    ids, found = np.zeros(masks.shape[1:], int), []
    if rules["task"] == "semantic":
        labels = np.tensordot(classes[:, :-1].T, sigmoid(masks), 1).argmax(0)
        return labels + 1, [(label + 1, label, 1.0) for label in np.unique(labels)]
    if rules["task"] == "instance":
        order = np.argsort(-classes[:, :-1], axis=None)[: max(100, len(classes))]
        for query, label in zip(*np.unravel_index(order, classes[:, :-1].shape), strict=True):
            inside = masks[query] > 0
            score = classes[query, label] * sigmoid(masks[query])[inside].sum() / (inside.sum() + 1e-6)
            if inside.any() and score >= rules["score_threshold"]:
                found.append((score, label, inside))
        found.sort(key=lambda entry: -entry[0])
        for number, (_, _, inside) in reversed(list(enumerate(found, 1))):
            ids[inside] = number
        return ids, [(number, label, score) for number, (score, label, _) in enumerate(found, 1)]
    kept = np.flatnonzero((classes.argmax(1) < classes.shape[1] - 1) & (classes.max(1) > rules["panoptic_threshold"]))
    probs = sigmoid(masks[kept])
    winner = (probs * classes[kept].max(1)[:, None, None]).argmax(0) if len(kept) else ids
    stuff = {}
    for index, query in enumerate(kept):
        label, inside, won = classes[query].argmax(), probs[index] >= rules["mask_threshold"], winner == index
        if not (won & inside).any() or won.sum() < rules["overlap_threshold"] * inside.sum():
            continue
        fuses = things is not None and label not in things
        number = stuff.get(label, len(found) + 1) if fuses else len(found) + 1
        ids[won & inside] = number
        if number > len(found):
            found.append((number, label, classes[query].max()))
        if fuses:
            stuff[label] = number
    return ids, found


def main(graph, picture, target):
    about = json.loads(Path(graph).with_suffix(".json").read_text(encoding="utf-8"))
    image = ImageOps.exif_transpose(Image.open(picture)).convert("RGB")
    pixels, sizes = prepare(image, about["preprocessing"])
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    inputs = {"pixel_values": pixels, "sizes": sizes}
    logits, masks = session.run(None, {name: inputs[name] for name in about["inputs"]})
    exp = np.exp(logits[0] - logits[0].max(1, keepdims=True))
    masks = resize(resize(masks[0], pixels.shape[2], 1), pixels.shape[3], 2)[:, : sizes[0, 0], : sizes[0, 1]]
    masks = resize(resize(masks, image.height, 1), image.width, 2)
    ids, found = find_segments(exp / exp.sum(1, keepdims=True), masks, about)
    Image.fromarray(ids.astype(np.uint16)).save(target)
    for number, label, score in found:
        print(f"{number}\t{about['labels'][str(label)]}\t{score:.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
