"""Hostile names in every place that text goes to, read by parsers of those places: csv, html, yaml, Markdown."""

import csv
import io
import json
import logging
import sys
import traceback
import warnings
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pytest
from hostile_text import RAW, hostile_texts
from huggingface_hub import ModelCard
from PIL import Image
from tqdm import tqdm
from transformers.utils import logging as transformers_logging

from m2f.cli import COMMANDS, main
from m2f.commands.messages import print_lines, printer
from m2f.evaluation.class_table import write_class_csv
from m2f.hub.model_card import CardFacts, check_card, write_card
from m2f.inference.image_sources import ImageSource
from m2f.inference.prediction_folder import PredictionFolder
from m2f.inference.prediction_summary import write_summary
from m2f.output.safe_text import csv_cell, csv_text, html_text, markdown_block, markdown_code, terminal_text
from m2f.training.training_log import CsvLog, read_rows

TEXTS = hostile_texts()


def test_a_terminal_gets_one_line_without_control_characters():
    for text in TEXTS:
        safe = terminal_text(text)
        assert not RAW.search(safe) and not set(safe) & set("\n\t"), repr(text)
    assert terminal_text("a\x1b[2J\n\u202e\udcff") == r"a\x1b[2J\n\u202e\udcff"
    # What people write in names stays.
    assert terminal_text("Straße 日本\u3000نمی\u200cخواهم 👩\u200d🚒") == "Straße 日本\u3000نمی\u200cخواهم 👩\u200d🚒"
    assert terminal_text("a\tb\n", lines=True) == "a\tb\n"


def test_cells_are_no_formulas_and_are_read_back():
    file = io.StringIO(newline="")
    csv.writer(file).writerows([csv_cell(text), csv_cell(-1.5), 7] for text in TEXTS)
    content = file.getvalue().encode("utf-8").decode("utf-8")  # no half pair is left
    rows = list(csv.reader(io.StringIO(content, newline="")))
    for text, (cell, number, _) in zip(TEXTS, rows, strict=True):
        assert csv_text(cell) == text and number == "-1.5"
        assert cell.lstrip(' "\n')[:1] not in set("=+-@\t\r\uff1d"), repr(cell)
    assert [csv_cell(text) for text in ("car", "=1", "'tis", "a-b")] == ["car", "'=1", "'tis", "a-b"]


class Tags(HTMLParser):
    """What a page has but text, and its text."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def handle_comment(self, data):
        raise AssertionError(f"a comment: {data}")


def test_html_is_text_and_stays_in_its_attribute():
    for text in TEXTS:
        page = Tags(f"<p title=\"{html_text(text)}\" id='{html_text(text)}'>{html_text(text)}</p>")
        shown = terminal_text(text, lines=True)
        assert page.tags == [("p", {"title": shown, "id": shown})] and page.text == shown


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """What `m2f predict` writes for images and classes of hostile names, from records that are made here."""
    out = tmp_path_factory.mktemp("out")
    folder = PredictionFolder(out, {"checkpoint": TEXTS[0], "task": TEXTS[5]})
    entries = folder.entries([ImageSource(f"/images/{i}/{text}", text) for i, text in enumerate(TEXTS)])
    records = {}
    for number, (entry, label) in enumerate(zip(entries, TEXTS, strict=True)):
        segment = {
            "id": 1, "label": label, "is_thing": True, "category_id": number, "segmentation": {"size": [1, 1]},
            "bbox": [0, 0, 1, 1], "area": 1, "score": 0.5, "iscrowd": 0,
        }  # fmt: skip
        record = {"size": [2, 3], "segments": [segment], "thumbnail": "", "overlay": ""}
        if number % 3 == 0:
            record |= {"thumbnail": "QQ==", "overlay": "QQ=="}
        records[entry] = record
    folder.record = records.get  # no file can have some of these names
    write_summary(folder, entries, dict(enumerate(TEXTS)), [0])
    return out


def test_table_of_objects_is_read_back(report):
    with open(report / "objects.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [csv_text(row["class"]) for row in rows] == TEXTS
    assert all(
        not row[name].startswith(("=", "+", "-", "@", "\t", "\r")) for row in rows for name in ("image", "class")
    )
    names = [image["file_name"] for image in json.loads((report / "predictions.json").read_text())["images"]]
    assert [csv_text(row["image"]) for row in rows] == names


def test_report_has_its_own_tags_alone(report):
    text = (report / "report.html").read_text(encoding="utf-8")
    page = Tags(text)
    assert {tag for tag, _ in page.tags} <= set(
        "html head meta link title style body h1 h2 div b input label span figure a img figcaption br svg g rect text"
        " p table thead tr th button tbody td dl dt dd script".split()
    )
    assert [tag for tag, _ in page.tags].count("script") == 1 and not RAW.search(text)
    for _, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        assert attributes.get("href", "overlays/").startswith(("overlays/", "data:"))
        assert not set(attributes.get("href", "")) & set("<>\"' \n\\")
    for name in TEXTS:
        assert terminal_text(name, lines=True) in page.text


def test_tables_of_classes_and_logs_are_read_back(tmp_path):
    write_class_csv([{"class": text, "PQ": -1.5} for text in TEXTS], tmp_path / "classes.csv")
    with open(tmp_path / "classes.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [csv_text(row["class"]) for row in rows] == TEXTS and {row["PQ"] for row in rows} == {"-1.5"}
    columns = [text for text in dict.fromkeys(TEXTS) if "\n" not in text and "\r" not in text]
    log = CsvLog(tmp_path / "log.csv", 0)
    log.append({"step": 1, **{text: -1.5 for text in columns}})
    before = (tmp_path / "log.csv").read_bytes()
    CsvLog(tmp_path / "log.csv", 1).append({"step": 2, **{text: 2 for text in columns}})
    assert (tmp_path / "log.csv").read_bytes().startswith(before)  # numbers stay numbers
    assert read_rows(tmp_path / "log.csv")[0] == {"step": "1", **{text: "-1.5" for text in columns}}


def card(folder: Path, names: list[str], options: str) -> ModelCard:
    folder.mkdir()
    config = {"model_type": "m2f", "task": "panoptic", "backbone_config": {"model_type": names[0]}}
    (folder / "config.json").write_text(json.dumps({**config, "id2label": dict(enumerate(names[:40]))}))
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": {names[1]: names[2]}}))
    (folder / "training_options.yaml").write_text(options, encoding="utf-8")
    results = folder / "results"
    results.mkdir()
    rows = [{"class": name, names[3]: name, "PQ": 0.5} for name in names]
    record = {
        "finished": True, "dataset": {"split": names[4], "format": names[5]}, "images": 3, "seconds": 1.0,
        "machine": {"processor": names[6]}, "versions": {"torch": names[7]},
        "results": {"panoptic": {"PQ": 0.5, names[8]: 0.25}}, "per_class": {"panoptic": rows},
    }  # fmt: skip
    (results / "results.json").write_text(json.dumps(record))
    facts = CardFacts("mit", tuple(names), names[9], results, names[10])
    return ModelCard.load(write_card(folder, facts))


def structure(text: str):
    """Of a card as Markdown: blocks and what is in their lines, without the text."""
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    return [(token.type, token.tag, [child.type for child in token.children or ()]) for token in parser.parse(text)]


def test_names_do_not_change_a_card(tmp_path):
    plain = card(tmp_path / "plain", ["x"] * 40, "a: b\n# c\n")
    for start in range(0, len(TEXTS), 13):
        names = (TEXTS[start:] + TEXTS)[:40]
        names = [name if name.strip() else f"x{name}" for name in names]  # a name without a letter is no text at all
        hostile = card(tmp_path / str(start), names, "a: b\n# ```\n")
        assert hostile.data.license == "mit" and hostile.data.base_model in (None, names[9])
        assert hostile.data.datasets == [terminal_text(name) for name in names]
        assert not RAW.search(hostile.content)
        assert len(hostile.text.splitlines()) == len(plain.text.splitlines())
        check_card(tmp_path / str(start))
        if has_markdown_it():
            assert structure(hostile.text) == structure(plain.text)


def has_markdown_it() -> bool:
    try:
        import markdown_it  # noqa: F401
    except ImportError:
        return False
    return True


def test_code_in_markdown_ends_where_it_should():
    assert markdown_code("a`b") == "``a`b``" and markdown_code("`") == "`` ` ``"
    assert markdown_block("x\n````\ny", "yaml") == "`````yaml\nx\n````\ny\n`````"


@pytest.fixture
def fake(monkeypatch):
    def install(run):
        module = ModuleType("m2f.commands.fake", "Does what the test says.")
        module.add_arguments, module.run = lambda parser: None, run
        monkeypatch.setitem(COMMANDS, "fake", "a command of the test")
        monkeypatch.setitem(sys.modules, "m2f.commands.fake", module)

    return install


def test_whatever_prints_in_a_command(fake, capsys):
    """Results, messages, bars, warnings, logs of transformers and the error that ends it."""
    logger = transformers_logging.get_logger("transformers.hostile")
    handler = logging.StreamHandler(sys.stderr)  # as transformers makes one when it is imported
    logging.getLogger("transformers").addHandler(handler)

    def run(args):
        print_lines(TEXTS)
        for text in TEXTS:
            printer(True)(text)
            print(f"name: {text}")
            logger.warning(text)
            sys.stderr.write(warnings.formatwarning(f"name: {text}", RuntimeWarning, "file.py", 1, "code"))
            with tqdm(total=1, desc=text, file=sys.stderr) as bar:
                tqdm.write(terminal_text(text), file=sys.stderr)
                bar.update()
        raise ValueError("".join(TEXTS))

    fake(run)
    try:
        assert main(["fake"]) == 2
    finally:
        logging.getLogger("transformers").removeHandler(handler)
    out, err = capsys.readouterr()
    assert out.splitlines()[: len(TEXTS)] == [terminal_text(text) for text in TEXTS]
    assert not RAW.search(out)
    # Bars begin with a carriage return, and go up a line to another bar.
    assert not RAW.search(err.replace("\r", "").replace("\n\x1b[A", "\n"))
    assert err.splitlines()[-1].startswith("m2f fake: error: ") and main(["fake"]) == 2
    with pytest.raises(SystemExit):
        main(["fake", "--x\x1b[2J\nm2f: forged"])
    last = capsys.readouterr().err.splitlines()[-1]
    assert r"--x\x1b[2J\nm2f: forged" in last and last.startswith("m2f fake: error: ")


def test_a_fault_of_the_program_is_printed_without_control_characters_too(fake, capsys):
    """By the interpreter, after the command."""

    def run(args):
        raise KeyError("\x1b[2J")

    def say(args):
        raise RuntimeError("name \x1b[2J")

    fake(run)
    with pytest.raises(KeyError):
        main(["fake"])
    fake(say)
    with pytest.raises(RuntimeError) as caught:
        main(["fake"])
    traceback.print_exception(caught.value)
    assert r"RuntimeError: name \x1b[2J" in capsys.readouterr().err


def test_streams_that_lack_a_letter_get_its_number(fake, monkeypatch):
    buffer = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer, "ascii"))
    fake(lambda args: print("ß\udcff") or 0)
    assert main(["fake"]) == 0 and buffer.getvalue() == b"\\xdf\\udcff\n"


def test_a_dataset_of_hostile_names_is_checked(tmp_path, capsys):
    """Categories and file names of an annotation file, through a whole command."""
    names = [text for text in TEXTS if text.strip() and "/" not in text and "\0" not in text]
    (tmp_path / "train").mkdir()
    images, annotations = [], []
    for number, name in enumerate(dict.fromkeys(names)):
        images.append({"id": number, "file_name": f"{name}.png", "height": 3, "width": 4})
        if number % 2 and len(name.encode("utf-8", "surrogateescape")) < 100:
            Image.new("RGB", (4, 3)).save(tmp_path / "train" / f"{name}.png", "PNG")
        box = [0, 0, 2, 2]
        polygon = [[0, 0, 2, 0, 2, 2, 0, 2]]
        annotation = {
            "id": number,
            "image_id": number,
            "category_id": number + 1,
            "bbox": box,
            "area": 4,
            "iscrowd": 0,
        }
        annotations.append({**annotation, "segmentation": polygon if number % 3 else [[0, 0]]})
    categories = [{"id": number + 1, "name": name} for number, name in enumerate(dict.fromkeys(names))]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "instances_train.json").write_text(json.dumps(content))
    code = main(["check", str(tmp_path), "--all", "--sheet-images", "0", "--workers", "0", "--format", "auto"])
    out, err = capsys.readouterr()
    assert code in (0, 1), err
    assert "forged" in out and not RAW.search(out) and not RAW.search(err.replace("\r", ""))
    assert not any(line.startswith(("m2f: error", "# heading")) for line in (out + err).splitlines())
