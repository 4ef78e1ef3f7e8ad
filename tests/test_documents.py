"""README.md and docs/: their commands parse, their Python finds its names, their files are there, and their numbers
are those of benchmarks/results."""

import ast
import importlib
import inspect
import json
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from small_models import small_model

from m2f.cli import COMMANDS, EXIT_CODES, command_parser
from m2f.commands.train_arguments import options_from_arguments
from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.inference.segmentation_result import SegmentationResult
from m2f.inference.segmenter import Segmenter

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMED = [document.name for document in DOCUMENTS]
MOST_LINES, LONGEST_LINE = 170, 120
FOLDERS = "benchmarks|docs|examples|m2f|modeling_m2f|notebooks|scripts|tests"
# What need not be installed.
OPTIONAL = ("fiftyone", "label_studio_ml", "lightning", "sahi")
# What `pip install` lines install.
INSTALLED = (".", "label-studio-ml @ git+https://github.com/HumanSignal/label-studio-ml-backend.git")
# What the names of the examples stand for.
VARIABLES = {
    "result": SegmentationResult(Image.new("RGB", (2, 2)), "instance", [], {0: "a"}),
    "segmenter": Segmenter,
    "processor": M2FImageProcessor(),
    "model": small_model(),
}


def text_of(name: str) -> str:
    return next(document for document in DOCUMENTS if document.name == name).read_text(encoding="utf-8")


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """(language, content) of the fenced blocks."""
    yield from re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def inline(text: str) -> list[str]:
    """What stands between backticks outside fenced blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))


def command_lines(text: str) -> Iterator[list[str]]:
    for language, content in blocks(text):
        if language != "python":
            yield from (words for line in content.splitlines() if (words := shlex.split(line, comments=True)))


@cache
def parser_of(command: str):
    return command_parser(command)


def check_command(words: list[str]):
    """Goes through the parser as far as it does without reading a file."""
    args = parser_of(words[0]).parse_args(words[1:])
    if words[0] == "train":
        options_from_arguments(args)


def check_line(words: list[str]):
    if words[0] in ("accelerate", "torchrun"):
        words = words[words.index("-m") + 1 :]
    if words[0] == "m2f":
        check_command(words[1:])
    elif words[0] == "cvat-cli":
        module = importlib.import_module(words[words.index("--function-module") + 1])
        given = {word.split("=")[0] for flag, word in zip(words, words[1:], strict=False) if flag == "-p"}
        assert given <= set(inspect.signature(module.create).parameters)
    elif words[0] in ("bash", "python"):
        assert (ROOT / words[1]).is_file(), words
    else:
        assert words[:-1] == ["pip", "install"] and words[-1] in INSTALLED, f"no command that is known here: {words}"


@pytest.mark.parametrize("name", NAMED)
def test_commands_are_taken_by_their_parsers(name, capsys):
    for words in command_lines(text_of(name)):
        try:
            check_line(words)
        except SystemExit:
            pytest.fail(f"{shlex.join(words)}: {capsys.readouterr().err}")


def test_every_command_is_shown_somewhere():
    shown = {words[1] for name in NAMED for words in command_lines(text_of(name)) if words[0] == "m2f"}
    assert shown == set(COMMANDS)


@pytest.mark.parametrize(
    "words", [["m2f", "train", "--dat", "x", "--epochs", "3"], ["m2f", "predct", "x"], ["nosuch"]]
)
def test_wrong_commands_are_found(words, capsys):
    with pytest.raises((SystemExit, AssertionError, ModuleNotFoundError)):
        check_line(words)


@pytest.mark.parametrize("name", NAMED)
def test_options_in_the_text_belong_to_a_command(name):
    known = {flag for command in COMMANDS for flag in parser_of(command)._option_string_actions} | {"--version"}
    for text in inline(text_of(name)):
        words = text.split()
        if words[0] == "m2f" and len(words) > 1 and words[1] != "COMMAND":
            assert words[1] in {*COMMANDS, "--help", "--version"}, text
        if words[0] == "m2f" or words[0].startswith("--"):
            assert {word.split("=")[0] for word in words if word.startswith("--")} <= known, text


@pytest.mark.parametrize("name", NAMED)
def test_files_and_links_are_there(name):
    text, folder = text_of(name), (ROOT if name == "README.md" else ROOT / "docs")
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        assert link.startswith("https://") or (folder / link).exists(), link
    for word in inline(text):
        if re.fullmatch(rf"(?:{FOLDERS})/[\w./-]*", word):
            assert (ROOT / word).exists(), word


@pytest.mark.parametrize("name", NAMED)
def test_environment_variables_are_read_somewhere(name):
    code = [
        path
        for folder in ("m2f", "modeling_m2f", "scripts", "tests/modeling_m2f", "tests/exported", "tests/integrations")
        for path in (ROOT / folder).rglob("*.*")
    ]
    sources = "".join(path.read_text() for path in code if path.suffix in (".py", ".sh"))
    for variable in set(re.findall(r"\bM2F_[A-Z_]+\b", text_of(name))):
        assert variable in sources, variable


def python_blocks() -> list[tuple[str, str]]:
    return [(name, code) for name in NAMED for language, code in blocks(text_of(name)) if language == "python"]


def unknown_names(code: str) -> Iterator[str]:
    """What a block names and is not there: imports, attributes of what it imports or makes, keywords of calls."""
    tree = ast.parse(code)
    namespace: dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            try:
                exec(compile(ast.Module([node], []), "import", "exec"), namespace)
            except ImportError as error:
                if (error.name or "").split(".")[0] not in OPTIONAL:
                    yield str(error)
    assigned = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    namespace = {**namespace, **{name: value for name, value in VARIABLES.items() if name in assigned}}
    for node in ast.walk(tree):
        try:
            target = resolve(node.func if isinstance(node, ast.Call) else node, namespace)
        except AttributeError as error:
            yield str(error)
            continue
        if isinstance(node, ast.Call) and target is not None:
            yield from (f"{ast.unparse(node.func)}({name}=)" for name in wrong_keywords(node, target))


def resolve(node: ast.AST, namespace: dict[str, Any]) -> Any:
    """The object of a name or a chain of attributes; None where it comes out of a call.

    Raises:
        AttributeError: it is not there.
    """
    if isinstance(node, ast.Name):
        return namespace.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = resolve(node.value, namespace)
        return None if owner is None else getattr(owner, node.attr)
    return None


def wrong_keywords(call: ast.Call, target: Any) -> Iterator[str]:
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):  # not for what is written in C, and not for instances
        return
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        yield from (word.arg for word in call.keywords if word.arg is not None and word.arg not in parameters)


@pytest.mark.parametrize(("name", "code"), python_blocks())
def test_python_compiles_and_its_names_exist(name, code):
    assert not list(unknown_names(code))


@pytest.mark.parametrize(
    "code",
    [
        "from m2f import Segmentr",
        "from m2f.data.no_file import x",
        "import m2f\nm2f.replace_mask3former()",
        "result = 1\nresult.to_coko()",
        "from m2f.data.training_dataset import TrainingDataset\nTrainingDataset(1, 2, sed=0)",
    ],
)
def test_wrong_names_are_found(code):
    assert len(list(unknown_names(code))) >= 1


def test_lengths():
    assert len(text_of("README.md").splitlines()) <= MOST_LINES
    for name in NAMED:
        assert not [line for line in text_of(name).splitlines() if len(line) > LONGEST_LINE], name


def test_commands_and_exit_codes_are_listed():
    rows = re.findall(r"^\| `([^`]+)` \|", text_of("commands.md"), re.MULTILINE)
    assert {row.removeprefix("m2f ") for row in rows if row.startswith("m2f ")} == set(COMMANDS)
    assert {row for row in rows if row.isdecimal()} == {str(code) for code in EXIT_CODES}


def results(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def inference_row(stage: str, size: list[int], dtype: str, name: str = "inference_cpu") -> dict[str, Any]:
    wanted = {"stage": stage, "size": size, "dtype": dtype, "batch": 1}
    (row,) = [row for row in results(name)["rows"] if wanted.items() <= row.items()]
    return row["forms"]


def seconds(forms: dict[str, Any], digits: int, theirs: str = "transformers") -> list[str]:
    return [f"{forms[form]['seconds']['median']:.{digits}f} s" for form in ("ours", theirs)]


def instructions(name: str) -> str:
    """As the README calls them. A record that does not name them may tell them by its rates."""
    found = results(name)
    if "instructions" in found["machine"]:
        return found["machine"]["instructions"].split(",")[0]
    rates = {row["dtype"]: row["matrix_rate"] for row in found.get("rows", []) if row.get("stage") == "model"}
    multiplies = "bfloat16" in rates and rates["bfloat16"] > 1.3 * rates["float32"]
    return "bfloat16" if multiplies else "not recorded"


def measured_rows() -> Iterator[tuple[str, str, list[str]]]:
    """The README's table, from the files: what, the file, numbers."""
    name = "inference_peers_cpu"
    for edge in (640, 1024):
        forms = inference_row("model", [edge, edge], "float32", name)
        yield f"model, {edge}x{edge}, float32", name, seconds(forms, 2)
        for form, what in (("openvino", "in OpenVINO"), ("onnxruntime", "in ONNX Runtime"), ("compiled", "compiled")):
            if f"transformers, {form}" in forms:
                yield f"the same, transformers' {what}", name, seconds(forms, 2, f"transformers, {form}")
    name = "inference_cpu"
    yield "model, 640x640, float32", name, seconds(inference_row("model", [640, 640], "float32"), 2)
    for size, dtype in (([800, 1344], "float32"), ([1024, 1024], "bfloat16")):
        row = f"image to segments, {size[0]}x{size[1]}, {dtype}"
        yield row, name, seconds(inference_row("end to end", size, dtype), 2)
    forms = inference_row("model", [1024, 1024], "float32")
    memory = [f"{forms[form]['peak_bytes'] / 1e9:.2f} GB" for form in ("ours", "transformers")]
    yield "memory of the model, 1024x1024, float32", name, memory
    forms = results("ms_deform_attn_cpu")["rows"][0]["forms"]
    yield "encoder's attention, 640x640", "ms_deform_attn_cpu", seconds(forms, 3)
    step = results("training_step_cpu")["rows"][0]["forms"]
    yield "training step, 512x512, 2 images", "training_step_cpu", seconds(step, 1)
    for name, row, metric in (
        ("nuclei", "nuclei, AP after training for 1040 s", "AP"),
        ("camvid", "CamVid, mIoU after 810 s and 902 s", "mIoU"),
    ):
        training = results(f"training_{name}_cpu")
        yield row, f"training_{name}_cpu", [f"{training[side][metric]:.3f}" for side in ("ours", "transformers")]


def test_numbers_of_the_readme_are_those_of_the_files():
    table = re.findall(
        r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \| `[^|]+` \|$", text_of("README.md"), re.MULTILINE
    )
    assert table == [(label, instructions(name), *values) for label, name, values in measured_rows()]


SPEED_TABLE = [
    ("float32, the model", "model", "float32"),
    ("float32, from an image to its segments", "end to end", "float32"),
    ("bfloat16, the model", "model", "bfloat16"),
    ("bfloat16, from an image to its segments", "end to end", "bfloat16"),
]


@pytest.mark.parametrize(("label", "stage", "dtype"), SPEED_TABLE)
def test_factors_of_the_speed_page_are_those_of_the_files(label, stage, dtype):
    sizes = ([640, 640], [800, 1344], [1024, 1024])
    factors = [inference_row(stage, size, dtype)["ours"]["times_faster"]["median"] for size in sizes]
    cells = " | ".join(f"{factor:.1f}" for factor in factors)
    assert f"| {label} | {cells} |" in text_of("speed.md").splitlines()


def test_peers_of_the_speed_page_are_those_of_the_file():
    rows = [inference_row("model", [edge, edge], "float32", "inference_peers_cpu") for edge in (640, 1024)]
    for form in rows[0]:
        cells = [f"{row[form]['seconds']['median']:.2f}" if form in row else "not measured" for row in rows]
        label = {"ours": "m2f", "transformers, openvino": "transformers, OpenVINO"}.get(form, form)
        label = label.replace("onnxruntime", "ONNX Runtime")
        assert f"| {label} | {' | '.join(cells)} |" in text_of("speed.md").splitlines()


def test_settings_of_training_on_the_speed_page_are_those_of_the_file():
    """And the default is what the page's rule says: the fastest of those with at most 0.45 of the memory."""
    forms = results("training_step_cpu")["rows"][0]["forms"]
    labels = {
        "ours": "`recompute_feedforward` (the default)",
        "ours, keeping all": "`recompute_feedforward=False`",
        "ours, checkpointing": "gradient checkpointing",
    }
    for form, label in labels.items():
        factor, memory = forms[form]["times_faster"]["median"], forms[form]["memory_share"]["held by tensors"]
        assert f"| {label} | {factor:.2f} | {memory:.2f} |" in text_of("speed.md").splitlines()
    small = [form for form in labels if forms[form]["memory_share"]["held by tensors"] <= 0.45]
    assert max(small, key=lambda form: forms[form]["times_faster"]["median"]) == "ours"
