"""Which images are held out, and that the parts are what the reader gives."""

import hashlib
import pickle

import numpy as np
import pytest
from fake_reader import FakeReader, good
from small_datasets import MAKERS

from m2f.data.dataset_formats import open_dataset
from m2f.data.held_out_images import hold_out

NAMES = [f"{number}.png" for number in range(1000)]


def reader(names=NAMES):
    return FakeReader([good(name) for name in names])


def names_of(part):
    return [part.name_of(index) for index in range(len(part))]


def test_each_image_is_on_one_side_by_the_hash_of_its_name():
    """SHA-256, the first 8 bytes as a share of all; written out here in another way."""
    kept, held = hold_out(reader(), 0.1)
    assert sorted(names_of(kept) + names_of(held)) == sorted(NAMES)
    expected = [n for n in NAMES if int(hashlib.sha256(n.encode()).hexdigest()[:16], 16) * 10 < 16**16]
    assert names_of(held) == expected
    assert 70 < len(held) < 130  # 100 on the average, 9.5 the standard deviation
    assert (kept.split, held.split) == ("train", "train-held-out")


def test_an_image_stays_on_its_side():
    kept, held = hold_out(reader(), 0.1)
    for names in (NAMES[::-1], NAMES[:200], [*NAMES, *(f"new{i}.png" for i in range(100))]):
        _, other = hold_out(reader(names), 0.1)
        assert {*names_of(other)} & {*NAMES} == {*names_of(held)} & {*names}
    assert {*names_of(held)} < {*names_of(hold_out(reader(), 0.2)[1])}
    for one, other in (("x\\é.png", "x/é.png"), ("e\u0301.png", "\u00e9.png")):  # ways to write the same
        sides = [name in names_of(hold_out(reader([*NAMES, name]), 0.5)[1]) for name in (one, other)]
        assert sides[0] == sides[1]


def test_parts_give_the_samples_of_the_reader():
    whole = reader()
    whole.category_ids = [3, 7]
    whole.white_level = None
    for part in hold_out(whole, 0.3):
        assert part[1].name == part.name_of(1) and part.image_path(1) is None
        assert (part.id2label, part.thing_label_ids) == (whole.id2label, None)
        assert (part.task, part.format, part.category_ids) == ("instance", "fake", [3, 7])
        assert not hasattr(part, "label_values") and not hasattr(part, "annotation_ids")
        assert names_of(pickle.loads(pickle.dumps(part))) == names_of(part)
        part.white_level = "data"
    assert whole.white_level == "data"


@pytest.mark.parametrize("kind", MAKERS)
def test_every_format_can_be_divided(tmp_path, kind):
    MAKERS[kind](tmp_path)
    whole = open_dataset(tmp_path, format=kind if kind == "instance-maps" else "auto")
    with pytest.raises(ValueError, match="two images of different names are needed"):
        hold_out(whole, 0.5)
    twice = hold_out(reader(), 0.5)[0]
    twice.dataset, twice.indices = whole, [0]
    np.testing.assert_array_equal(twice[0].segments.ids, whole[0].segments.ids)
    assert twice.id2label == whole.id2label


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan"), float("inf")])
def test_other_fractions_are_refused(fraction):
    with pytest.raises(ValueError, match="validation_fraction is .*; above 0 and below 1 is needed"):
        hold_out(reader(), fraction)


def test_a_fraction_that_leaves_nothing_names_one_that_does():
    """Of 0.png to 3.png, the least hash is 0.2505 of all and the greatest 0.9336."""
    for fraction, words in ((0.001, "holds none of them out"), (0.999, "holds all of them out")):
        with pytest.raises(ValueError, match=f"of the 4 images of split 'train' {words}: .*; from ") as error:
            hold_out(reader(NAMES[:4]), fraction)
        low, high = (float(word) for word in str(error.value).split("; from ")[1].split()[0:3:2])
        for named in (low, high):
            assert all(len(part) for part in hold_out(reader(NAMES[:4]), named))
    with pytest.raises(ValueError, match="of the 0 images .* holds none of them out"):
        hold_out(reader([]), 0.5)
