import json
import statistics
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from m2f.data.dataset_formats import open_dataset
from m2f.data.dataset_summary import describe

NUCLEI = Path(__file__).parents[2] / "examples" / "nuclei"


def test_the_bundled_images():
    """The json has 201 annotations for 8 images; how many each image has is counted here."""
    annotations = json.loads((NUCLEI / "val.json").read_text())["annotations"]
    counts = sorted(Counter(entry["image_id"] for entry in annotations).values())
    text = describe(open_dataset(NUCLEI, "val"))
    assert "coco-instance, split 'val', instance labels: 8 images\n" in text
    assert "360 x 360 to 360 x 360 (height x width)" in text
    middle = statistics.median(counts)
    assert f"segments  201; in an image at least {counts[0]}, median {middle:g}, at most {counts[-1]}" in text
    assert "ignored   0.00% of the pixels" in text
    assert "classes   1, of which 1 things" in text
    assert "       0      201        8  nucleus" in text


@pytest.fixture
def small():
    """Three images with the classes 0, 1 and none; a fourth of all pixels is ignored; class 2 is nowhere."""
    maps = [np.array([[0, 0, 1, 1]]), np.array([[1, 1, 255, 255]]), np.array([[255] * 2] * 2)]
    rows = [{"image": Image.new("RGB", m.shape[::-1]), "label": Image.fromarray(m.astype(np.uint8))} for m in maps]
    return open_dataset(datasets.Dataset.from_list(rows), id2label=["sky", "road", "car"])


def test_counts_and_shares(small):
    lines = describe(small).split("\n")
    assert lines[0] == "datasets, split 'train', semantic labels: 3 images"
    assert lines[1].split() == "sizes 1 x 4 to 1 x 4 (height x width)".split()  # the areas are all 4
    assert lines[2].split() == "segments 3; in an image at least 0, median 1, at most 2".split()
    assert lines[3].split() == "ignored 50.00% of the pixels".split()
    assert lines[4].split() == "classes 3, of which 0 things; segments, images with one, name:".split()
    expected = [["0", "1", "1", "sky"], ["1", "2", "2", "road"], ["2", "0", "0", "car"]]
    assert [line.split() for line in lines[5:]] == expected


def test_a_limit_reads_images_spread_over_the_dataset(small):
    seen = []
    reader = type(small)
    original = reader.__getitem__
    small_reader = type("Counting", (reader,), {"__getitem__": lambda self, i: seen.append(i) or original(self, i)})
    small.__class__ = small_reader
    assert "3 images (2 of them read)" in describe(small, limit=2)
    assert seen == [0, 2]
    assert "of them read" not in describe(small, limit=9)
    with pytest.raises(ValueError, match="limit must be at least 1 or None, got 0"):
        describe(small, limit=0)


def test_unreadable_images_are_errors():
    rows = datasets.Dataset.from_list([{"image": Image.new("RGB", (2, 2)), "label": Image.new("L", (3, 3))}])
    with pytest.raises(ValueError, match="row 0"):
        describe(open_dataset(rows))
