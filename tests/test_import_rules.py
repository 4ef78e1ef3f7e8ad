"""The rules for imports and file names that CONTRIBUTING.md gives, checked on every Python file."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("m2f", "configuration", "image_processing", "modeling_m2f", "scripts", "benchmarks", "examples", "tests")

# What each part of the library may import from the others. Nothing imports `m2f` (the files directly in m2f/),
# `scripts`, `benchmarks` and `tests`, which may import everything. So may `commands`, which m2f/cli.py alone imports.
ALLOWED = {
    "configuration": set(),
    "kernels": set(),
    "modeling_m2f": {"configuration", "kernels"},
    "image_processing": {"kernels"},
    "data": {"image_processing", "output"},
    "evaluation": {"image_processing", "output"},
    "checkpoints": {"configuration", "output"},
    "output": set(),
    "output_formats": {"data", "evaluation", "output"},
    "exported": {"configuration", "modeling_m2f", "kernels", "image_processing"},
    "inference": {
        *(
            "configuration",
            "modeling_m2f",
            "image_processing",
            "data",
            "evaluation",
            "checkpoints",
            "exported",
            "output",
            "output_formats",
        )
    },
    "integrations": {"inference", "output", "output_formats"},
    "validation": {
        *("modeling_m2f", "image_processing", "data", "evaluation", "checkpoints", "exported", "inference", "output")
    },
    "training": {"modeling_m2f", "image_processing", "data", "evaluation", "checkpoints", "validation", "output"},
    "bench": {"configuration", "modeling_m2f", "image_processing", "data", "exported", "output"},
    "hub": {"configuration", "modeling_m2f", "kernels", "image_processing", "checkpoints", "output"},
}
# Imported by a function that needs them, so that `import m2f` is quick and inference needs none of them.
LAZY = {
    "cvat_sdk",
    "datasets",
    "evaluate",
    "faster_coco_eval",
    "gradio",
    "label_studio_ml",
    "nncf",
    "onnxruntime",
    "openvino",
    "peft",
    "pycocotools",
    "scipy",
    "shtab",
    "tifffile",
    "trackio",
}
# Its wheel does not import beside a CPU build of torch.
NEVER = {"torchvision"}


def part_of(path: Path) -> str:
    """The part that a file (relative to the root) belongs to: a key of `ALLOWED`, "m2f" or "outside"."""
    folders = path.parts[:-1]
    if folders[:2] == ("modeling_m2f", "kernels"):
        return "kernels"
    if folders[:1] == ("m2f",):
        return folders[1] if len(folders) > 1 else "m2f"
    return folders[0] if folders and folders[0] in ALLOWED else "outside"


def file_of(module: str) -> Path:
    """The file (relative to the root) that a module name of the project stands for, existing or not."""
    parts = module.split(".")[1:]
    top = () if parts and parts[0] in ("configuration", "image_processing", "modeling_m2f") else ("m2f",)
    return Path(*top, *parts).with_suffix(".py")


def imports(tree: ast.AST) -> Iterator[tuple[int, str, ast.AST]]:
    """(line, module, node) of each import; relative ones keep their dots."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, "." * node.level + (node.module or ""), node


def top_level(tree: ast.Module) -> Iterator[ast.AST]:
    """Every node that is run when the file is imported: all but the bodies of functions."""
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            todo.extend(ast.iter_child_nodes(node))


def spelling(path: Path, tree: ast.Module, text: str) -> Iterator[str]:
    """Project files are imported as `from m2f.folder.file import Name`; outside the library also `import m2f`."""
    for line, module, node in imports(tree):
        if module.startswith("."):
            yield f"{line}: relative import of {module}"
        if module.split(".")[0] != "m2f":
            continue
        if isinstance(node, ast.Import):
            if part_of(path) != "outside" or module != "m2f":
                yield f"{line}: import {module} instead of `from ... import`"
        elif not (ROOT / file_of(module)).is_file():
            if part_of(path) != "outside" or module != "m2f":
                yield f"{line}: {module} is no file of the project"


def direction(path: Path, tree: ast.Module, text: str) -> Iterator[str]:
    """Parts import along `ALLOWED` only, and `commands` is for cli.py (benchmarks and tests)."""
    part = part_of(path)
    runs_commands = part == "commands" or path == Path("m2f", "cli.py") or path.parts[0] in ("benchmarks", "tests")
    for line, module, _ in imports(tree):
        if module.split(".")[0] == "m2f":
            other = part_of(file_of(module))
            allowed = ALLOWED[part] | {part} if part in ALLOWED else {other}
            if other not in allowed or (other == "commands" and not runs_commands):
                yield f"{line}: {part} imports {other}"


def strings(path: Path, tree: ast.Module, text: str) -> Iterator[str]:
    """No line of the library's docstrings may look like an import of the project: the tools that bundle the files for
    the Hub work on the text and would take it for one."""
    if part_of(path) == "outside":
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if re.search(r"^\s*from\s+(\.|m2f\.)\S*\s+import\b", node.value, re.MULTILINE):
                yield f"{node.lineno}: a string with a line that looks like an import"


def lazy(path: Path, tree: ast.Module, text: str) -> Iterator[str]:
    """The library imports none of `LAZY` when it is imported, and `NEVER` not at all. The folders that `evaluate.load`
    takes are exempt: it reads them as files, and nothing of the library imports them."""
    if part_of(path) == "outside" or path.parts[:3] == ("m2f", "evaluation", "metrics"):
        return
    at_import = set(top_level(tree))
    for line, module, node in imports(tree):
        name = module.split(".")[0]
        if name in NEVER or (name in LAZY and node in at_import):
            yield f"{line}: import of {name}"


def annotations(path: Path, tree: ast.Module, text: str) -> Iterator[str]:
    """transformers reads classes from the annotations of models and configurations, and cannot read strings."""
    if part_of(path) in ("configuration", "modeling_m2f", "kernels"):
        for line, module, node in imports(tree):
            if module == "__future__" and any(alias.name == "annotations" for alias in node.names):
                yield f"{line}: from __future__ import annotations"


RULES = (spelling, direction, strings, lazy, annotations)


def project_files() -> list[Path]:
    files = [ROOT / "setup.py"]
    for folder in FOLDERS:
        files += sorted((ROOT / folder).rglob("*.py"))
    return [file.relative_to(ROOT) for file in files]


@pytest.mark.parametrize("rule", RULES)
def test_every_file_keeps_the_rule(rule):
    found = []
    for path in project_files():
        text = (ROOT / path).read_text(encoding="utf-8")
        found += [f"{path}:{message}" for message in rule(path, ast.parse(text), text)]
    assert not found, "\n".join(found)


# Each rule must find its example; these are the cases that it exists for.
EXAMPLES = [
    (spelling, "modeling_m2f/x.py", "from .matcher import Matcher"),
    (spelling, "modeling_m2f/x.py", "from m2f.modeling_m2f import modeling_m2f"),
    (spelling, "m2f/hub/x.py", "from m2f import M2FConfig"),
    (spelling, "m2f/hub/x.py", "import m2f"),
    (spelling, "m2f/hub/x.py", "def f():\n    import m2f.hub.original_state_dict"),
    (spelling, "tests/x.py", "import m2f.hub.original_state_dict"),
    (spelling, "tests/x.py", "from m2f.hub import original"),
    (direction, "configuration/x.py", "from m2f.modeling_m2f.modeling_m2f import M2FModel"),
    (direction, "modeling_m2f/kernels/x.py", "from m2f.modeling_m2f.matcher import match"),
    (direction, "image_processing/x.py", "def f():\n    from m2f.configuration.configuration_m2f import M2FConfig"),
    (direction, "m2f/data/x.py", "from m2f.hub.original_state_dict import convert_original_state_dict"),
    (direction, "m2f/training/x.py", "from m2f.auto import register_auto_classes"),
    (direction, "m2f/training/x.py", "from m2f.commands.check import run"),
    (direction, "m2f/validation/x.py", "from m2f.training.training_run import TrainingRun"),
    (direction, "m2f/inference/x.py", "from m2f.validation.evaluation_loop import evaluate_model"),
    (direction, "m2f/auto.py", "from m2f.commands.check import run"),
    (strings, "modeling_m2f/x.py", '"""Example:\n\n    from .matcher import match\n"""'),
    (strings, "modeling_m2f/x.py", '"""Example:\n\n    from m2f.modeling_m2f.matcher import match\n"""'),
    (lazy, "modeling_m2f/x.py", "from scipy.optimize import linear_sum_assignment"),
    (lazy, "m2f/data/x.py", "try:\n    import datasets\nexcept ImportError:\n    datasets = None"),
    (lazy, "m2f/data/x.py", "class A:\n    import evaluate"),
    (lazy, "image_processing/x.py", "def f():\n    import torchvision"),
    (annotations, "modeling_m2f/x.py", "from __future__ import annotations"),
]


@pytest.mark.parametrize(("rule", "path", "text"), EXAMPLES)
def test_rule_finds_its_example(rule, path, text):
    assert len(list(rule(Path(path), ast.parse(text), text))) == 1


def test_lazy_import_in_a_function_and_public_import_in_a_test_are_allowed():
    inside = "def f():\n    from scipy.optimize import linear_sum_assignment"
    assert not list(lazy(Path("modeling_m2f/x.py"), ast.parse(inside), inside))
    for text in ("import m2f", "from m2f import M2FConfig"):
        assert not list(spelling(Path("tests/x.py"), ast.parse(text), text))


def test_commands_import_everything_and_the_command_line_imports_them():
    for path in ("m2f/cli.py", "m2f/commands/x.py", "tests/x.py"):
        text = "from m2f.commands.check import run"
        assert not list(direction(Path(path), ast.parse(text), text))
    for module in ("auto", "training.parameter_groups", "hub.original_state_dict"):
        text = f"from m2f.{module} import x"
        assert not list(direction(Path("m2f/commands/x.py"), ast.parse(text), text))


def test_file_names_are_unique():
    """A Hub repository is one flat folder."""
    names: dict[str, list[Path]] = {}
    for path in project_files():
        names.setdefault(path.name, []).append(path)
    double = {name: paths for name, paths in names.items() if len(paths) > 1 and name != "__init__.py"}
    assert not double, double


def test_import_does_no_work():
    """A new interpreter: nothing printed, no environment variable set, none of the heavy packages imported.

    transformers is imported first, because what it imports by itself (SciPy, where it is installed) is not ours.
    """
    code = """
import os, sys
import torch, transformers
from transformers import AutoBackbone, AutoModel, PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor
modules, environment = set(sys.modules), dict(os.environ)
import m2f
new = {name.split(".")[0] for name in set(sys.modules) - modules}
print(sorted(new & set(sys.argv[1].split(","))), environment == dict(os.environ))
"""
    environment = dict(os.environ, PYTHONPATH=str(ROOT), CC="false", CXX="false")
    heavy = ",".join(LAZY | NEVER)
    run = subprocess.run([sys.executable, "-c", code, heavy], capture_output=True, text=True, env=environment)
    assert (run.returncode, run.stdout, run.stderr) == (0, "[] True\n", "")
