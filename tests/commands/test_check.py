"""`m2f check` on the bundled images and on broken copies of them."""

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from evaluation_data import write_instances
from fake_reader import LEFT, FakeReader, good, sample
from PIL import Image

from m2f.cli import main
from m2f.commands.check import report_lines
from m2f.commands.messages import print_lines
from m2f.data.contact_sheet import draw_contact_sheet
from m2f.data.dataset_check import check_readers
from m2f.data.dataset_formats import open_dataset
from m2f.data.held_out_images import hold_out
from m2f.data.image_inspection import Finding

NUCLEI = Path(__file__).parents[2] / "examples" / "nuclei"


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def broken(tmp_path) -> Path:
    """A copy of the bundled data of which two images, one label and one json are damaged."""
    folder = shutil.copytree(NUCLEI, tmp_path / "nuclei")
    images = sorted((folder / "train").iterdir())
    images[0].unlink()
    images[1].write_bytes(images[1].read_bytes()[:1000])
    shutil.copy(images[2], folder / "val" / "copy.png")
    content = json.loads((folder / "train.json").read_text())
    content["annotations"][-1]["segmentation"]["counts"] = "zzzz"
    (folder / "train.json").write_text(json.dumps(content))
    val = json.loads((folder / "val.json").read_text())
    val["images"][0]["file_name"] = "copy.png"
    (folder / "val.json").write_text(json.dumps(val))
    return folder


def test_bundled_data(capsys):
    assert main(["check", str(NUCLEI)]) == 0
    out = capsys.readouterr().out
    # examples/nuclei/README.md has these numbers.
    assert "40 images read" in out and "segments  762;" in out and "segments  201;" in out
    assert out.endswith("contact sheet: m2f_check.png\nerrors: 0, warnings: 0, notes: 0; training may start\n")
    with Image.open("m2f_check.png") as sheet:
        assert sheet.format == "PNG" and sheet.width > 1000


def test_names_do_not_steer_the_terminal(capsys):
    reader = FakeReader(
        [sample("a\x1b[2J\nb", [{}], []), sample("\u202ec", [{0: LEFT}], [0])], {0: "\x1b]0;x\x07dog", 1: "\u72d7"}
    )
    print_lines(report_lines(check_readers({"tr\x9bain": reader}, workers=1), "da\x1bta", None))
    text = capsys.readouterr().out
    assert "\\x1b]0;x\\x07dog" in text and "\u72d7" in text and "\\x1b[2J\\nb" in text and "da\\x1bta" in text
    assert not any(sign in text for sign in "\x1b\x07\x9b\u202e")


def test_what_a_reader_says_is_said_once(broken, capsys, caplog):
    path = broken / "val.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["segmentation"] = []
    path.write_text(json.dumps(content))
    level = logging.getLogger("m2f.data").level
    main(["check", str(path), "--sheet-images=0"])
    captured = capsys.readouterr()
    assert captured.out.count("have no polygon of three points") == 1
    assert "polygon" not in captured.err and not caplog.records
    assert logging.getLogger("m2f.data").level == level


def test_broken_data(broken, capsys):
    names = sorted(path.name for path in (NUCLEI / "train").iterdir())
    assert main(["check", str(broken), "--sheet", "sheet.png", "--json", "report.json"]) == 1
    captured = capsys.readouterr()
    last = json.loads((broken / "train.json").read_text())["annotations"][-1]["id"]
    for line in ("ERROR image files that do not exist: 1", "ERROR image files that cannot be decoded: 1"):
        assert line in captured.out
    for name in (*names[:3], "copy.png", f"annotation {last}"):
        assert name in captured.out
    assert captured.out.endswith("errors: 3, warnings: 1, notes: 0; training must not start\n")
    report = json.loads(Path("report.json").read_text())
    kinds = ["missing image", "broken image", "bad labels", "shared image"]
    assert [finding["kind"] for finding in report["findings"]] == kinds
    assert report["splits"]["train"]["readable"] == 29
    assert Path("sheet.png").is_file()


def test_json_without_keys_is_a_finding(broken, capsys):
    (broken / "train.json").write_text('{"images": []}')
    assert main(["check", str(broken), "--split", "train", "--split", "val"]) == 1
    out = capsys.readouterr().out
    assert "ERROR datasets or splits that cannot be opened: 1\n  train: " in out
    assert "val: coco-instance" in out  # the other split was read


def test_one_split(capsys):
    assert main(["check", str(NUCLEI), "--split", "val", "--sheet-images", "0"]) == 0
    out = capsys.readouterr().out
    assert "8 images read" in out and "train" not in out.replace("training", "")
    assert not list(Path().glob("*.png"))


def test_missing_folder(capsys):
    assert main(["check", "nowhere"]) == 2
    assert capsys.readouterr() == ("", "m2f check: error: no such file or folder: nowhere\n")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--sheet", "no/folder.png"], "cannot write no/folder.png: there is no folder no"),
        (["--sheet", "sheet.txt"], "sheet.txt has no ending of an image file; give it .png"),
        (["--json", "no/report.json"], "cannot write no/report.json: there is no folder no"),
    ],
)
def test_files_that_cannot_be_written_are_refused_before_reading(option, message, capsys, monkeypatch):
    monkeypatch.setattr("m2f.commands.check.check_dataset", lambda *args, **options: pytest.fail("was read"))
    assert main(["check", str(NUCLEI), *option]) == 2
    assert capsys.readouterr() == ("", f"m2f check: error: {message}\n")


@pytest.mark.parametrize("value", ["-1", "x", "1.5"])
def test_counts_are_whole_numbers(value, capsys):
    with pytest.raises(SystemExit):
        main(["check", "data", "--max-lines", value])
    assert f"{value!r} is not a whole number from 0 on" in capsys.readouterr().err


def test_options_go_to_the_reader(monkeypatch, capsys):
    given = []
    monkeypatch.setattr("m2f.commands.check.check_dataset", lambda *args, **_: given.append(args) or many_findings())
    options = ["--data-options", "ignore_index=0", "task=panoptic", 'id2label={"1": "a=b"}']
    main(["check", "data", "--format", "f", "--image-folder", "images", "--sheet-images", "0", *options])
    expected = {"ignore_index": 0, "task": "panoptic", "id2label": {"1": "a=b"}}
    assert given == [("data", None, "f", "images", expected)]
    with pytest.raises(SystemExit):
        main(["check", "data", "--data-options", "ignore_index"])
    assert "'ignore_index' is not of the form NAME=VALUE" in capsys.readouterr().err


def many_findings():
    tiny = [sample(f"{i:02d}", [{0: LEFT, 1: (0, 5)}], [0, 1], seed=i) for i in range(12)]
    names = {i: f"class{i}" for i in range(50)}
    return check_readers({"train": FakeReader([good("good"), *tiny], names)}, workers=1)


def test_long_lists_are_cut_and_counted():
    lines = report_lines(many_findings(), "data", 3)
    start = lines.index("NOTE tiny segments: 12")
    assert lines[start + 1 : start + 5] == [
        "  train: 00, segment 1: 'class1' has 1 pixel, at x 5, y 0",
        "  train: 01, segment 1: 'class1' has 1 pixel, at x 5, y 0",
        "  train: 02, segment 1: 'class1' has 1 pixel, at x 5, y 0",
        "  ... and 9 more; --all shows them",
    ]
    assert "WARNING classes without a segment in the training split: 48" in lines
    # Classes without a segment are listed once, as findings.
    table = lines.index("", lines.index("train: fake, instance")) + 1
    assert [line.split() for line in lines[table : table + 4]] == [
        ["class", "train", "segments", "(images)"],
        ["0", "class0", "13", "(13)"],
        ["1", "class1", "13", "(13)"],
        [],
    ]
    everything = report_lines(many_findings(), "data", None)
    assert not [line for line in everything if "--all" in line]
    assert len([line for line in everything if "has 1 pixel" in line]) == 12


def test_rarest_classes_are_shown_where_there_are_many():
    rare_first = [sample(f"{n}", [{0: LEFT}], [i], seed=n) for n, i in enumerate([*range(50), *range(9)])]
    report = check_readers({"train": FakeReader(rare_first, {i: f"class{i}" for i in range(50)})}, workers=1)
    lines = report_lines(report, "data", 10)
    names = [line.split()[1] for line in lines if line.endswith("(1)") or line.endswith("(2)")]
    assert names == [f"class{i}" for i in range(9, 49)]  # 41 are there once
    assert "  ... and 10 classes with more segments; --all shows them" in lines
    assert "class0" in "".join(report_lines(report, "data", None))


def test_annotation_id_is_named_where_there_is_one():
    finding = Finding("tiny segment", "train", "a.png", "'cat' has 1 pixel", 3, "x7", (5, 0, 6, 1))
    report = replace(many_findings(), findings=[finding])
    assert "  train: a.png, annotation x7: 'cat' has 1 pixel, at x 5, y 0" in report_lines(report, "data", 3)


def test_strict_counts_warnings(monkeypatch, capsys):
    report = check_readers({"train": FakeReader([good("a", 1), good("b", 1)])}, workers=1)
    monkeypatch.setattr("m2f.commands.check.check_dataset", lambda *args, **options: report)
    assert main(["check", "data"]) == 0
    assert capsys.readouterr().out.endswith("errors: 0, warnings: 1, notes: 0; training may start\n")
    assert main(["check", "data", "--strict"]) == 1
    assert capsys.readouterr().out.endswith("errors: 0, warnings: 1, notes: 0; training must not start\n")


def test_images_whose_white_is_guessed_are_noted(tmp_path, capsys):
    """Those of 12 bits; with --white-level nothing is guessed."""
    folder = shutil.copytree(NUCLEI, tmp_path / "nuclei")
    files = sorted((folder / "val").iterdir())
    for file in files[:2]:
        with Image.open(file) as image:
            pixels = np.asarray(image.convert("L")).astype(np.uint16) * 16 + 1
        Image.fromarray(pixels).save(file)
    files[2].write_bytes(b"")
    assert main(["check", str(folder), "--split=val", "--json"]) == 1
    findings = json.loads(capsys.readouterr().out)["findings"]
    guessed = [finding for finding in findings if finding["kind"] == "guessed white"]
    assert [finding["name"] for finding in guessed] == [f"{file.name}" for file in files[:2]]
    assert all(finding["severity"] == "note" and "white_level=4095" in finding["message"] for finding in guessed)
    assert main(["check", str(folder), "--split=val", "--white-level=4095"]) == 1
    assert "guessed" not in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["check", str(folder), "--white-level=white"])
    assert "must be 'auto', 'type', 'data' or a number" in capsys.readouterr().err


def test_the_sheet_shows_an_image_of_16_bits_whose_labels_are_broken(tmp_path):
    """Pillow's conversion to RGB would make all of it white."""
    path = tmp_path / "x.png"
    Image.fromarray(np.full((40, 40), 60 * 257, np.uint16)).save(path)
    reader = FakeReader([ValueError("its labels are broken")], paths=[path])
    report = check_readers({"train": reader})
    pixels = np.asarray(draw_contact_sheet(report, cell=40))
    assert (pixels == 60).all(-1).sum() > 1000


def test_writes_the_dataset_as_coco(broken, capsys):
    """What cannot be read is left out, and a folder that is there is not touched but where it may be."""
    assert main(["check", str(broken), "--sheet-images", "0", "--write", "coco", "out", "--dry-run"]) == 1
    assert "would write dataset: out\n" in capsys.readouterr().out and not Path("out").exists()
    assert main(["check", str(broken), "--sheet-images", "0", "--write", "coco", "out"]) == 1
    out = capsys.readouterr().out
    assert "images that cannot be read and are left out: 3\ndataset: out, train: 29 images, " in out
    assert len(json.loads(Path("out", "instances_train.json").read_text())["images"]) == 29
    assert main(["check", "out", "--sheet-images", "0"]) == 0
    capsys.readouterr()
    assert main(["check", str(NUCLEI), "--sheet-images", "0", "--write", "coco", "out"]) == 2
    assert "out has a dataset that was written earlier; choose another" in capsys.readouterr().err
    assert main(["check", str(NUCLEI), "--split", "val", "--write", "coco", "out", "--overwrite", "--json"]) == 0
    captured = capsys.readouterr()
    assert "dataset: out, val: 8 images, 201 segments\n" in captured.err and json.loads(captured.out)["may_train"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["yolo", "out"], "cannot write 'yolo'; --write takes coco and a folder"),
        (["coco", str(NUCLEI)], f"{NUCLEI} has the data that are read; choose another folder to write into"),
        (["coco", "file/out"], "cannot write into file/out: {here}/file is no folder"),
    ],
)
def test_datasets_that_cannot_be_written_are_refused_before_reading(words, message, capsys, monkeypatch):
    monkeypatch.setattr("m2f.commands.check.check_dataset", lambda *args, **options: pytest.fail("was read"))
    Path("file").write_text("")
    assert main(["check", str(NUCLEI), "--write", *words]) == 2
    assert capsys.readouterr().err == f"m2f check: error: {message.format(here=Path.cwd())}\n"


def test_the_part_that_training_holds_out_is_a_split(tmp_path, capsys):
    path = write_instances(tmp_path, count=12).rename(tmp_path / "instances_default.json")
    kept, held = hold_out(open_dataset(path), 0.3)
    same = next(index for index in range(len(kept)) if kept[index].image.size == held[0].image.size)
    shutil.copy(kept.image_path(same), held.image_path(0))
    assert main(["check", str(path), "--validation-fraction=0.3", "--sheet-images=0"]) == 0
    out = capsys.readouterr().out
    assert f"instances_default: coco-instance, instance\n  images    {len(kept)}\n" in out
    assert f"instances_default-held-out: coco-instance, instance\n  images    {len(held)}\n" in out
    assert "WARNING images that are in several splits" in out
    assert main(["check", str(path), "--validation-fraction=2", "--sheet-images=0"]) == 2
