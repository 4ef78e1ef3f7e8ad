"""The tile of a checkpoint and of a user: what is taken, what is refused, and that it is kept in files."""

import json

import numpy as np
import pytest

from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.image_processing.tile_setting import check_tile, choose_tile


def test_overlap():
    assert (check_tile(None, None), check_tile(256, None), check_tile(256, 0), check_tile(256, 128)) == (0, 64, 0, 128)


WRONG = [
    ((31, None), "at least 32"),
    ((0, None), "at least 32"),
    ((256, 129), "0 to 128"),
    ((256, -1), "0 to 128"),
    ((None, 5), "no tile"),
    ((128.0, None), "tile must be a whole number of pixels, got 128.0"),
    ((128, "32"), "tile_overlap must be a whole number of pixels, got '32'"),
    ((True, None), "tile must be a whole number"),
]


@pytest.mark.parametrize(("values", "message"), WRONG)
def test_wrong_values(values, message):
    with pytest.raises(ValueError, match=message):
        check_tile(*values)
    with pytest.raises(ValueError, match=message):
        M2FImageProcessor(tile=values[0], tile_overlap=values[1])


@pytest.mark.parametrize(
    ("asked", "default", "expected"),
    [
        ((None, None), (None, None), (None, 0)),
        ((None, None), (128, 48), (128, 48)),
        ((None, None), (128, None), (128, 32)),
        ((None, 16), (128, 48), (128, 16)),
        ((256, None), (128, 48), (256, 64)),  # the checkpoint's overlap belongs to its tile
        ((256, 0), (128, 48), (256, 0)),
        ((0, None), (128, 48), (None, 0)),
        ((0, None), (None, None), (None, 0)),
    ],
)
def test_what_a_user_asks_for_goes_before_the_checkpoint(asked, default, expected):
    assert choose_tile(*asked, *default) == expected


def test_an_overlap_needs_a_tile():
    for tile, default in ((None, (None, None)), (0, (128, 48))):
        with pytest.raises(ValueError, match=r"an overlap of tiles is given \(16\) but no tile"):
            choose_tile(tile, 16, *default)


def test_fields_are_saved_and_old_files_have_none(tmp_path):
    M2FImageProcessor(tile=128, tile_overlap=48).save_pretrained(tmp_path / "new")
    loaded = M2FImageProcessor.from_pretrained(tmp_path / "new")
    assert (loaded.tile, loaded.tile_overlap) == (128, 48)
    M2FImageProcessor().save_pretrained(tmp_path / "old")
    assert not {"tile", "tile_overlap"} & set(json.loads((tmp_path / "old" / "preprocessor_config.json").read_text()))
    loaded = M2FImageProcessor.from_pretrained(tmp_path / "old")
    assert (loaded.tile, loaded.tile_overlap) == (None, None)


def test_a_file_with_a_wrong_tile_is_refused(tmp_path):
    M2FImageProcessor(tile=128).save_pretrained(tmp_path)
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "tile": 8}))
    with pytest.raises(ValueError, match="tiles of 8 pixels are too small"):
        M2FImageProcessor.from_pretrained(tmp_path)


def test_the_processor_itself_cuts_nothing():
    image = np.random.default_rng(0).integers(0, 256, (100, 300, 3), np.uint8)
    plain, tiled = (M2FImageProcessor(size=64, **fields)(image) for fields in ({}, {"tile": 64}))
    assert np.array_equal(plain["pixel_values"][0], tiled["pixel_values"][0])
