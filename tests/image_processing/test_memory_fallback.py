"""Post-processing that runs out of memory. A CPU never raises torch.OutOfMemoryError; here the chunks do."""

import pytest
import torch
from post_processing_reference import make_outputs, random_logits

from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.image_processing.memory_fallback import CHUNKS, within_memory
from m2f.image_processing.plain_masks import resize_masks

PROCESSOR = M2FImageProcessor(thing_label_ids=[0, 1, 2])
METHODS = {
    "semantic": lambda outputs: PROCESSOR.post_process_semantic_segmentation(outputs, [(90, 125)])[0],
    "instance": lambda outputs: PROCESSOR.post_process_instance_segmentation(outputs, 0.2, target_sizes=[(90, 125)])[
        0
    ],
    "panoptic": lambda outputs: PROCESSOR.post_process_panoptic_segmentation(outputs, 0.5, target_sizes=[(90, 125)])[
        0
    ],
}


@pytest.fixture
def warnings(monkeypatch):
    found = set()  # logger.warning_once gives each once
    monkeypatch.setattr("m2f.image_processing.memory_fallback.logger.warning_once", found.add)
    return found


def equal(one, other) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    return torch.equal(one["segmentation"], other["segmentation"]) and one["segments_info"] == other["segments_info"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("room", [5, 1, 0])
def test_smaller_chunks_then_the_cpu_give_the_same_result(method, room, warnings, monkeypatch):
    """`room` masks fit; with 0, none do but on the CPU."""
    monkeypatch.setenv("M2F_KERNELS", "reference")
    outputs = make_outputs(*random_logits(0), (41, 57))
    expected = METHODS[method](outputs)
    sizes, moved = [], []
    # Two of the three chunk sizes hold all 12 masks of this small image; make the second hold 4.
    monkeypatch.setattr("m2f.image_processing.memory_fallback.CHUNKS", (CHUNKS[0], 4 * 4 * 90 * 125, 1))

    def resize_where_there_is_room(maps, geometry):
        sizes.append(len(maps))
        if len(maps) > room and not moved:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return resize_masks(maps, geometry)

    def cpu(tensor):
        moved.append(tensor)
        return tensor

    monkeypatch.setattr("m2f.image_processing.plain_masks.resize_masks", resize_where_there_is_room)
    monkeypatch.setattr(torch.Tensor, "cpu", cpu)
    assert equal(METHODS[method](outputs), expected)
    assert len(warnings) == 1 and "Out of memory" in warnings.pop()
    first = sizes[0]
    tried = {5: [first, 4], 1: [first, 4, 1], 0: [first, 4, 1, first]}[room]
    changes = [size for size, before in zip(sizes, [0, *sizes], strict=False) if size != before]
    assert changes[: len(tried)] == tried and bool(moved) == (room == 0)


def test_there_is_no_warning_where_memory_suffices(warnings):
    for method in METHODS.values():
        method(make_outputs(*random_logits(0), (41, 57)))
    assert not warnings


def test_the_chunks_shrink_to_one_mask_and_other_errors_pass():
    asked = []

    def fail(class_logits, mask_logits, chunk_bytes):
        asked.append(chunk_bytes)
        raise torch.OutOfMemoryError("no memory")

    with pytest.raises(torch.OutOfMemoryError):
        within_memory(fail, torch.empty(1), torch.empty(1))
    assert asked == [*CHUNKS, CHUNKS[0]] and CHUNKS[-1] == 1 and sorted(CHUNKS, reverse=True) == list(CHUNKS)

    def break_down(*arguments):
        asked.append(arguments)
        raise RuntimeError("another error")

    asked.clear()
    with pytest.raises(RuntimeError, match="another error"):
        within_memory(break_down, torch.empty(1), torch.empty(1))
    assert len(asked) == 1
