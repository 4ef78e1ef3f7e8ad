"""The training of the bundled checkpoint on two of the demo's images, with one step."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
NUCLEI = ROOT / "examples" / "nuclei"
sys.path.insert(0, str(ROOT / "scripts"))  # as for `python scripts/train_nuclei_checkpoint.py`

import train_nuclei_checkpoint as script  # noqa: E402

from m2f.data.dataset_formats import open_dataset  # noqa: E402
from m2f.inference.segmenter import Segmenter  # noqa: E402

FAST = "--max-steps 1 --batch-size 2 --warmup-steps 0 --workers 0 --samples 1 --evaluation-batch-size 3".split()


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """One image of each split, 360 x 360 pixels."""
    folder = tmp_path_factory.mktemp("data")
    for split in ("train", "val"):
        content = json.loads((NUCLEI / f"{split}.json").read_text())
        image = content["images"][0]
        objects = [entry for entry in content["annotations"] if entry["image_id"] == image["id"]]
        content |= {"images": [image], "annotations": objects}
        (folder / f"instances_{split}.json").write_text(json.dumps(content))
        (folder / split).mkdir()
        shutil.copy(NUCLEI / split / image["file_name"], folder / split)
    return folder


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    assert script.main(*script.parse_args([str(data), str(folder), *FAST])) == 0
    return folder


def test_patches_show_the_image(data, trained):
    """An edge of 360 has 3 places for patches of 192 that share 64 or more, from 0 to 168, so there are 9 of these;
    and 3 for tiles of 128 without overlap, from 0 to 232, of which every third row by row is in the last column."""
    train, val = (open_dataset(trained / "patches", split) for split in ("train", "val"))
    assert len(train) == 9 and len(val) == 3
    whole, first = open_dataset(data, "val")[0], val[0]
    ids = whole.segments.ids[:, :128, 232:]
    assert np.array_equal(np.asarray(first.image), np.asarray(whole.image)[:128, 232:])
    assert np.array_equal(first.segments.ids >= 0, ids >= 0)
    assert len(first.segments.class_ids) == len(np.unique(ids[ids >= 0]))


def test_package_is_float16_and_computes_in_float32(trained):
    tensors = load_file(trained / "nuclei" / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()} == {torch.float16}
    assert (trained / "nuclei" / "README.md").is_file()
    segmenter = Segmenter.from_pretrained(trained / "nuclei", tile=script.TILE)
    assert next(segmenter.model.parameters()).dtype == torch.float32
    assert json.loads((trained / "nuclei" / "config.json").read_text())["dtype"] == "float32"
    # One scale everywhere: a tile of 128 pixels has the 192 of a training crop.
    assert dict(segmenter.processor.size)["longest_edge"] == script.CROP


def test_goes_on_and_packages_again(data, trained, capsys):
    before = (trained / "patches" / "instances_train.json").stat().st_mtime_ns
    assert script.main(*script.parse_args([str(data), str(trained), *FAST])) == 0
    assert (trained / "patches" / "instances_train.json").stat().st_mtime_ns == before
    assert "going on from" in capsys.readouterr().err


def test_too_large_a_package_is_refused(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "LARGEST_BYTES", 1000)
    with pytest.raises(ValueError, match="bytes of weights, and a package may hold 1,000"):
        script.export(trained / "run", tmp_path / "nuclei")
