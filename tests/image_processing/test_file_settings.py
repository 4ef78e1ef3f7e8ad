"""What a processor's file says, where its caller says another thing. Expected: what the caller says, and of padding
what a processor without a `pad_size` does."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoImageProcessor
from transformers.image_utils import SizeDict

import m2f
from m2f.checkpoints.bundled_checkpoint import checkpoint_location
from m2f.image_processing.image_processing_m2f import M2FImageProcessor

IMAGE = np.zeros((120, 90, 3), np.uint8)


@pytest.fixture
def folder(tmp_path):
    """The processor of the bundled checkpoint: longest edge 192, padded to 192 x 192."""
    assert m2f.M2FImageProcessor is M2FImageProcessor
    shutil.copy(Path(checkpoint_location("nuclei")) / "preprocessor_config.json", tmp_path)
    return tmp_path


def shape(processor, **settings) -> tuple[int, int]:
    return tuple(processor(IMAGE, return_tensors="pt", **settings)["pixel_values"].shape[-2:])


GIVEN = [
    ({"size": {"height": 256, "width": 256}}, (256, 256)),  # was refused: "does not fit into pad_size"
    ({"size": {"longest_edge": 100}}, (128, 96)),  # was padded to 192 x 192 without a word
    ({"size": 300}, (416, 320)),
    ({"size": (50, 60)}, (64, 64)),
    ({"size": {"shortest_edge": 100, "longest_edge": 110}}, (128, 96)),
    ({"size": SizeDict(max_height=256, max_width=100)}, (160, 128)),
    ({"size": {"longest_edge": 150}, "size_divisor": 1}, (150, 113)),
    ({"do_resize": False}, (128, 96)),
    ({"size_divisor": 128}, (256, 256)),
    ({"size_divisibility": 128}, (256, 256)),
]


def size_in_call(size):
    """Calls take no SizeDict in every version of transformers."""
    return {**size, **({"size": dict(size["size"])} if isinstance(size.get("size"), SizeDict) else {})}


@pytest.mark.parametrize(("given", "expected"), GIVEN)
def test_a_size_of_the_caller_replaces_the_padding_of_the_file(given, expected, folder):
    for loader in (AutoImageProcessor, M2FImageProcessor):
        loaded = loader.from_pretrained(folder, **given)
        assert type(loaded) is M2FImageProcessor and shape(loaded) == expected
    loaded = M2FImageProcessor.from_pretrained(folder)
    assert shape(loaded, **size_in_call(given)) == expected
    assert shape(loaded) == (192, 192)  # the call changed nothing
    maps = loaded([IMAGE], [IMAGE[:, :, 0]], return_tensors="pt", **size_in_call(given))["mask_labels"]
    assert tuple(maps[0].shape[1:]) == expected


def test_a_pad_size_of_the_caller_holds(folder):
    pad_size = {"height": 256, "width": 320}
    loaded = M2FImageProcessor.from_pretrained(folder, pad_size=pad_size)
    assert shape(loaded) == shape(loaded, size=100) == shape(loaded, size={"longest_edge": 222}) == (256, 320)
    assert shape(M2FImageProcessor.from_pretrained(folder, size=100, pad_size=pad_size)) == (256, 320)
    loaded = M2FImageProcessor.from_pretrained(folder)
    assert shape(loaded, size=100, pad_size=pad_size) == (256, 320)
    assert shape(loaded, pad_size={"height": 192, "width": 192}, size=100) == (192, 192)
    assert shape(M2FImageProcessor(size=100, pad_size=pad_size), size=50) == (256, 320)
    with pytest.raises(ValueError, match="does not fit into pad_size 64 x 64"):
        loaded(IMAGE, size=100, pad_size={"height": 64, "width": 64})


def test_what_says_nothing_new_leaves_the_file_as_it_is(folder):
    for given in ({}, {"do_resize": True}, {"size_divisor": 32}, {"task": "panoptic"}, {"resample": 3}):
        assert shape(M2FImageProcessor.from_pretrained(folder, **given)) == (192, 192)
        assert shape(M2FImageProcessor.from_pretrained(folder), **given) == (192, 192)
    again = folder / "again"
    M2FImageProcessor.from_pretrained(folder).save_pretrained(again)
    assert json.loads((again / "preprocessor_config.json").read_text())["pad_size"] == {"height": 192, "width": 192}


def test_a_size_that_is_set_later_replaces_the_padding_too_and_is_saved_so(folder):
    assigned, changed, plain = (M2FImageProcessor.from_pretrained(folder) for _ in range(3))
    assigned.size, changed.size["longest_edge"], plain.size = SizeDict(longest_edge=256), 256, {"longest_edge": 256}
    for processor in (assigned, changed, plain):
        assert shape(processor) == (256, 192)
        processor.save_pretrained(folder / "again")
        assert shape(M2FImageProcessor.from_pretrained(folder / "again")) == (256, 192)
        # post-processing pads by the same rule: the input's size is that of this image, whose part is 256 x 192
        assert processor._prepare([(120, 90)]).canvases == [(256, 192)]
    plain.size, plain.pad_size = 90, {"height": 128, "width": 96}
    assert shape(plain) == (128, 96) and plain._prepare([(120, 90)]).canvases == [(128, 96)]


def test_a_setting_of_the_caller_wins_over_its_former_name_in_the_file(tmp_path):
    fields = {
        "image_processor_type": "Mask2FormerImageProcessor",
        "size": 800,
        "max_size": 1333,
        "size_divisibility": 64,
        "reduce_labels": True,
        "pad_and_return_pixel_mask": True,
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(fields))
    loaded = M2FImageProcessor.from_pretrained(tmp_path)
    assert dict(loaded.size) == {"shortest_edge": 800, "longest_edge": 1333} and loaded.size_divisor == 64
    for size in ({"height": 256, "width": 256}, {"longest_edge": 300}, {"shortest_edge": 300}):
        assert dict(M2FImageProcessor.from_pretrained(tmp_path, size=size).size) == size
    loaded = M2FImageProcessor.from_pretrained(tmp_path, size_divisor=16, do_reduce_labels=False, do_pad=False)
    assert (loaded.size_divisor, loaded.do_reduce_labels, loaded.do_pad) == (16, False, False)


def test_a_tile_of_the_caller_has_its_own_overlap(folder):
    """The file's tile is 128 with an overlap of 64; a tile alone overlaps by a quarter (`choose_tile`)."""
    assert M2FImageProcessor.from_pretrained(folder).tile_overlap == 64
    for tile in (100, 512, None):
        loaded = M2FImageProcessor.from_pretrained(folder, tile=tile)
        assert (loaded.tile, loaded.tile_overlap) == (tile, None)
    assert M2FImageProcessor.from_pretrained(folder, tile=100, tile_overlap=10).tile_overlap == 10
