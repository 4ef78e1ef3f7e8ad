"""Against the original's own inference code: tests/golden/postprocess_*.npz (and those in the folder M2F_GOLDEN)."""

import os
from pathlib import Path

import numpy as np
import pytest
from post_processing_reference import make_outputs

from m2f.image_processing.image_processing_m2f import M2FImageProcessor

FOLDERS = [Path(__file__).parent.parent / "golden", *map(Path, filter(None, [os.environ.get("M2F_GOLDEN")]))]
FILES = {path.name: path for folder in FOLDERS for path in folder.glob("postprocess_*.npz")}

# What turns the image file of each golden file into its valid size; in the third its aspect ratio was not kept.
SIZES = {
    "postprocess_0.npz": {"shortest_edge": 300},
    "postprocess_1.npz": {"shortest_edge": 320},
    "postprocess_2.npz": {"shortest_edge": 200},
    "postprocess_3.npz": {"height": 256, "width": 256},
    "postprocess_4.npz": {"shortest_edge": 300},
}


@pytest.fixture(params=sorted(FILES))
def golden(request):
    with np.load(FILES[request.param]) as arrays:
        return {"name": request.param, **{name: arrays[name] for name in arrays.files}}


@pytest.fixture(params=["valid_sizes", "resize_rule"])
def case(request, golden):
    """Outputs, target sizes and processor settings; the valid size is in the outputs, or computed by the processor."""
    valid = golden["image_size"].tolist() if request.param == "valid_sizes" else None
    settings = {"thing_label_ids": list(range(int(golden["num_things"])))}
    if request.param == "resize_rule":
        settings["size"] = SIZES[golden["name"]]
    outputs = make_outputs(golden["class_logits"], golden["mask_logits"], valid)
    return outputs, [tuple(golden["target_size"].tolist())], settings


def test_golden_files_are_here():
    assert len(FILES) >= 4


def test_semantic_map(golden, case):
    outputs, target_sizes, settings = case
    result = M2FImageProcessor(**settings).post_process_semantic_segmentation(outputs, target_sizes)[0]
    assert result.shape == target_sizes[0]
    assert (result.numpy() == golden["semantic_argmax"]).mean() >= 0.9999


def test_panoptic_segments(golden, case):
    outputs, target_sizes, settings = case
    processor = M2FImageProcessor(**settings)
    result = processor.post_process_panoptic_segmentation(outputs, target_sizes=target_sizes)[0]
    segments = [(item["id"], item["label_id"], int(not item["was_fused"])) for item in result["segments_info"]]
    assert segments == [tuple(row) for row in golden["panoptic_segments"].tolist()]
    assert (result["segmentation"].numpy() != golden["panoptic_ids"]).mean() <= 1e-4


@pytest.mark.parametrize("prefix", ["instance", "thing_instance"])
def test_instances(golden, case, prefix):
    outputs, target_sizes, settings = case
    if prefix == "instance":
        settings = {**settings, "task": "instance", "thing_label_ids": None}
    result = M2FImageProcessor(**settings).post_process_instance_segmentation(
        outputs, threshold=0.0, target_sizes=target_sizes, return_binary_maps=True, top_k=int(golden["topk"])
    )[0]
    scores = [item["score"] for item in result["segments_info"]]
    np.testing.assert_allclose(scores, golden[f"{prefix}_scores"], rtol=0, atol=1e-5)
    assert [item["label_id"] for item in result["segments_info"]] == golden[f"{prefix}_classes"].tolist()
    masks = result["segmentation"].numpy().reshape(len(scores), -1)
    expected = np.unpackbits(golden[f"{prefix}_masks_packed"], axis=1)[:, : masks.shape[1]].astype(bool)
    assert ((masks & expected).sum(1) / (masks | expected).sum(1)).min() >= 0.9999
