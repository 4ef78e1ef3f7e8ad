"""Target sizes that no memory holds: torch says `can't allocate memory: you tried to allocate ... bytes`, or the
system ends the process."""

import builtins
import re
import sys

import numpy as np
import pytest
import torch
from post_processing_reference import make_outputs, random_logits

from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.image_processing.target_memory import check_target_memory, clear_memory_errors

METHODS = ("semantic", "panoptic", "instance")
CPU = torch.device("cpu")


@pytest.mark.parametrize("task", METHODS)
@pytest.mark.parametrize("size", [(10**6, 10**6), (2**31, 2**31), (1, 2**62), (2**64, 3), (10**400, 10**400)])
def test_a_target_that_no_memory_holds_is_one_clear_line(task, size, monkeypatch):
    monkeypatch.setattr("m2f.image_processing.post_processing_mixin.within_memory", None)  # no work before
    processor = M2FImageProcessor(task=task, thing_label_ids=[0])
    for valid in ((41, 57), None):
        outputs = make_outputs(*random_logits(0), valid)
        with pytest.raises(ValueError) as caught:
            getattr(processor, f"post_process_{task}_segmentation")(outputs, target_sizes=[size])
        message = str(caught.value)
        assert f"{size[0]} x {size[1]}" in message and "target_sizes" in message and "\n" not in message
        assert re.search(r"need \d+ bytes .*GiB are free. Pass smaller target_sizes", message)


@pytest.mark.parametrize(
    ("method", "arguments", "pixel_bytes"),
    [
        ("semantic", {}, 8),  # int64 labels
        ("semantic", {"return_segmentation_scores": True}, 8 + 6 * 4),  # and a float32 score of 6 classes
        ("panoptic", {}, 4),  # int32 ids
        ("instance", {}, 4),
    ],
)
def test_a_batch_needs_the_memory_of_all_its_results(method, arguments, pixel_bytes, monkeypatch):
    outputs = make_outputs(*random_logits(0), (41, 57))
    for name, value in vars(outputs).items():
        setattr(outputs, name, value.repeat_interleave(2, 0))
    post_process = getattr(M2FImageProcessor(thing_label_ids=[0]), f"post_process_{method}_segmentation")
    needed = pixel_bytes * (90 * 125 + 40 * 50)
    monkeypatch.setattr("m2f.image_processing.target_memory._free_host_memory", lambda: needed)
    assert len(post_process(outputs, target_sizes=[(40, 50), (90, 125)], **arguments)) == 2
    monkeypatch.setattr("m2f.image_processing.target_memory._free_host_memory", lambda: needed - 1)
    with pytest.raises(ValueError, match=f"90 x 125 .* {needed} bytes"):
        post_process(outputs, target_sizes=[(40, 50), (90, 125)], **arguments)


def test_without_psutil_the_memory_of_the_machine_is_the_limit(monkeypatch):
    """As in remote code, and on Windows what a process can address."""
    real_import = builtins.__import__

    def without_psutil(name, *arguments, **keywords):
        if name == "psutil":
            raise ImportError
        return real_import(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without_psutil)
    monkeypatch.delitem(sys.modules, "psutil", raising=False)
    check_target_memory([(100, 100)], 4, CPU)
    with pytest.raises(ValueError, match="1000000 x 1000000"):
        check_target_memory([(10**6, 10**6)], 1000, CPU)
    monkeypatch.delattr("os.sysconf")
    with pytest.raises(ValueError, match="1000000 x 1000000"):
        check_target_memory([(10**6, 10**6)], 1000, CPU)


def test_memory_that_runs_out_on_the_way_names_the_size(monkeypatch):
    """From the real allocators of torch, NumPy and Python; other errors pass."""
    outputs, processor = make_outputs(*random_logits(0), (41, 57)), M2FImageProcessor(thing_label_ids=[0])
    for allocate in (lambda: torch.empty(2**60), lambda: np.empty(2**57), lambda: bytearray(2**62)):
        monkeypatch.setattr(
            "m2f.image_processing.post_processing_mixin.panoptic_segments", lambda *_, allocate=allocate: allocate()
        )
        with pytest.raises(MemoryError, match="post-processing at the target size 7 x 9 .*Pass smaller target_sizes"):
            processor.post_process_panoptic_segmentation(outputs, target_sizes=[(7, 9)])
    for error in (RuntimeError("another"), torch.OutOfMemoryError("CUDA out of memory")):
        with pytest.raises(type(error), match=str(error)), clear_memory_errors((7, 9)):
            raise error
