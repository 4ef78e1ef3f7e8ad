"""Rows of one small image and its label map."""

import datasets
import numpy as np
from PIL import Image

IMAGE = Image.fromarray(np.arange(60, dtype=np.uint8).reshape(4, 5, 3))
LABELS = np.array([[1, 1, 255, 0, 0], [2, 2, 0, 0, 0], [2, 2, 0, 1, 1], [0, 0, 0, 0, 0]], np.uint8)
BLOB = (LABELS == 2).astype(np.uint8)


def rows_of(**columns) -> datasets.Dataset:
    rows = zip(*columns.values(), strict=True)
    return datasets.Dataset.from_list([dict(zip(columns, row, strict=True)) for row in rows])


# Class and number of the instance: two cats, a dog with the number of the first cat, background.
CLASSES = np.array([[1, 1, 0, 2, 2], [1, 1, 0, 2, 2], [0, 0, 0, 0, 0], [1, 1, 255, 255, 0]], np.uint8)
NUMBERS = np.array([[1, 1, 0, 1, 1], [1, 1, 0, 1, 1], [0, 0, 0, 0, 0], [2, 2, 0, 0, 0]], np.uint8)


def channels(third: int = 0) -> Image.Image:
    return Image.fromarray(np.dstack([CLASSES, NUMBERS, np.full_like(CLASSES, third)]))
