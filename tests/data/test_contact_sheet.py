"""Which images are chosen for the sheet, and what is drawn."""

from dataclasses import replace

import numpy as np
from fake_reader import ALL, LEFT, RIGHT, FakeReader, good, sample
from PIL import Image

from m2f.data.contact_sheet import choose_images, draw_contact_sheet
from m2f.data.dataset_check import check_readers
from m2f.data.image_inspection import Finding
from m2f.data.segment_overlay import distinct_colours

CLASSES = {0: "cat", 1: "dog", 2: "rare"}


def report(*samples, **options):
    return check_readers({"train": FakeReader(samples, CLASSES, **options)}, workers=1)


def names(choices) -> list[str]:
    return [choice.record.name for choice in choices]


def test_rare_class_comes_before_common_ones():
    many = [good(f"{i}", seed=i) for i in range(20)]
    many.insert(15, sample("with rare", [{0: LEFT, 1: RIGHT}], [0, 2]))
    dogs = [sample(f"dog {i}", [{0: LEFT}], [1]) for i in range(5)]
    chosen = choose_images(report(*many, *dogs), 3)
    assert (chosen[0].record.name, chosen[0].reason) == ("with rare", "rare: in 1 of 26 images")
    # It shows a cat too, so a dog is next, although there are more of them than of cats.
    assert chosen[1].reason == "dog: in 25 of 26 images"


def test_much_of_a_class_is_shown_first_then_an_even_choice():
    sizes = [sample(f"{i}", [{0: np.s_[:, : i + 1]}], [0], seed=i) for i in range(2, 8)]
    # Then of 6 5 4 3 2 the one in the middle, and of 6 5 3 2 the one a quarter into them.
    assert names(choose_images(report(*sizes), 3)) == ["7", "4", "5"]


def test_half_of_the_sheet_shows_findings_of_each_kind_the_worst_first():
    tiny = [sample(f"tiny {i}", [{0: LEFT, 1: np.s_[0, 5 + i]}], [0, 1], seed=i) for i in range(3)]
    empty = sample("empty", [{}], [])
    unknown = sample("unknown", [{0: ALL}], [9])
    chosen = choose_images(report(*tiny, empty, unknown, *(good(f"{i}", i + 50) for i in range(9))), 8)
    assert names(chosen)[:4] == ["unknown", "tiny 0", "empty", "tiny 1"]
    assert chosen[0].reason.startswith("unknown class: class 9")
    assert len(set(names(chosen))) == 8


def test_few_images_are_all_shown_once():
    everything = report(good("a"), sample("b", [{}], []), ValueError("labels are gone"))
    assert sorted(names(choose_images(everything, 24))) == ["2.png", "a", "b"]
    assert choose_images(everything, 0) == []


def test_sheet_is_filled_even_if_all_images_are_empty():
    assert len(choose_images(report(*(sample(f"{i}", [{}], []) for i in range(6))), 5)) == 5


def test_sheet_shows_labels_in_the_colour_of_their_class():
    pixels = np.asarray(draw_contact_sheet(report(good("a")), cell=80))
    cat, dog = distinct_colours(3)[:2]
    # The image is 60 x 80, its upper left corner at (6, 6 + 28); each half's rim is at its border with the other.
    np.testing.assert_array_equal(pixels[6 + 28 + 20, 6 + 39], cat)
    np.testing.assert_array_equal(pixels[6 + 28 + 20, 6 + 40], dog)
    legend = pixels[6 + 28 + 60 + 6 :]
    assert (legend == cat).all(-1).any() and (legend == dog).all(-1).any()
    assert not (legend == distinct_colours(3)[2]).all(-1).any()  # of which no segment is shown


def test_segment_of_a_finding_has_a_frame():
    tiny = sample("x", [{0: np.s_[3:4, 4:5]}], [0])
    pixels = np.asarray(draw_contact_sheet(report(tiny), cell=80))
    # The pixel covers rows and columns 30 to 39 and 40 to 49 of the image; the frame lies 4 pixels outside.
    np.testing.assert_array_equal(pixels[6 + 28 + 35, 6 + 36], (255, 140, 0))  # "darkorange"
    np.testing.assert_array_equal(pixels[6 + 28 + 26, 6 + 45], (255, 140, 0))


def test_image_that_cannot_be_read_is_crossed_out(tmp_path):
    Image.new("RGB", (80, 80), (0, 0, 200)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    broken = report(ValueError("bad polygon"), OSError("no"), paths=[tmp_path / "a.png", tmp_path / "b.png"])
    pixels = np.asarray(draw_contact_sheet(broken, cell=80))
    cells = {tuple(pixels[6 + 28 + 10, left + 40]): tuple(pixels[6 + 28 + 40, left + 40]) for left in (6, 6 + 86)}
    # Blue and grey fields, red in their middles.
    assert cells == {(0, 0, 200): (255, 0, 0), (211, 211, 211): (255, 0, 0)}


def test_image_that_killed_its_reader_is_not_opened_again(tmp_path):
    Image.new("RGB", (80, 80), (0, 0, 200)).save(tmp_path / "a.png")
    broken = report(ValueError("bad polygon"), paths=[tmp_path / "a.png"])
    findings = (Finding("dead worker", "train", "0.png", ""),)
    deadly = replace(broken, records=[replace(broken.records[0], findings=findings)])
    assert tuple(np.asarray(draw_contact_sheet(deadly, cell=80))[6 + 28 + 10, 6 + 40]) == (211, 211, 211)


def test_size_and_odd_names():
    many = [good(f"{'long/' * 40}\N{SNOWMAN} {i}.png", seed=i) for i in range(13)]
    sheet = draw_contact_sheet(check_readers({"train": FakeReader(many, {0: "\N{SNOWMAN}", 1: "dog"})}), 13, cell=40)
    assert sheet.size == (6 * 46 + 6, 3 * (30 + 28 + 6) + 6 + 2 * 14 + 6)  # one legend entry a row


def test_sheet_of_nothing():
    assert draw_contact_sheet(report()).size[0] > 0
