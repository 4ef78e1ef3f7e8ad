"""The code of the models as a flat folder that `trust_remote_code=True` loads where this package is not installed.

transformers copies a folder's main file and what it imports as `from .name import Name`; dots in `name` and files that
are not Python are not followed (its dynamic_module_utils.py, 5.17 to 5.23). So every file that the entries reach by
imports is written beside them under its own name, which is unique in this project, and the kernels' sources become
strings of a Python file.
"""

import ast
import importlib.util
import json
import os
import sys
from collections.abc import Iterator
from importlib.abc import InspectLoader
from pathlib import Path

from m2f.checkpoints.json_object import read_json_object
from m2f.modeling_m2f.kernels.kernel_sources import CSRC, read_source
from m2f.output.write_errors import naming

_PACKAGE = "m2f"
_ENTRIES = (
    "m2f.configuration.configuration_m2f",
    "m2f.modeling_m2f.modeling_m2f",
    "m2f.image_processing.image_processing_m2f",
)
# The one module that reads files beside it, and what stands in its place.
_SOURCES_MODULE = "m2f.modeling_m2f.kernels.kernel_sources"
_PROCESSOR_MODULE = _ENTRIES[-1]
_MODEL = "modeling_m2f.M2FForUniversalSegmentation"
# transformers saves with an object the files that its own file imports. Of the model's files Trainer's pushes before
# the last one (`hub_strategy="every_save"`) have only what the processor is saved with, and so it has them all.
_CODE_OF_THE_MODEL = f'''

def _code_of_the_model():
    """Never called; stands here so that a saved processor brings the model's files along."""
    from .{_MODEL.split(".")[0]} import {_MODEL.split(".")[1]}

    return {_MODEL.split(".")[1]}
'''
# transformers runs an entry without making it an attribute of its package, where dill looks before it pickles a class
# by name. By value it takes half a minute, or fails, for every fingerprint that `datasets` takes of a processor.
_ATTRIBUTE_OF_THE_PACKAGE = """

import sys

setattr(sys.modules[__package__], __name__.rpartition(".")[2], sys.modules[__name__])
"""
AUTO_MAPS = {
    "config.json": {
        "AutoConfig": "configuration_m2f.M2FConfig",
        "AutoModel": "modeling_m2f.M2FModel",
        "AutoModelForUniversalSegmentation": _MODEL,
        "AutoModelForImageSegmentation": _MODEL,  # where transformers' pipeline looks
    },
    "preprocessor_config.json": {"AutoImageProcessor": "image_processing_m2f.M2FImageProcessor"},
}


def bundle_files() -> dict[str, str]:
    """File name -> text of each Python file of a bundle.

    Raises:
        ValueError: two files of the package have the same name, or an import cannot be followed.
    """
    files: dict[str, str] = {}
    todo, seen = list(_ENTRIES), set()
    while todo:
        module = todo.pop()
        if module in seen:
            continue
        seen.add(module)
        name = f"{module.rsplit('.', 1)[1]}.py"
        if name in files:
            raise ValueError(f"two files of the bundle would be called {name}, one of them {module}")
        text = _sources_text() if module == _SOURCES_MODULE else _source(module)
        tree = ast.parse(text)
        todo += (imported for _, imported in _own_imports(tree))
        files[name] = _flattened(text, tree)
        if module == _PROCESSOR_MODULE:
            files[name] += _CODE_OF_THE_MODEL
        if module in _ENTRIES:
            files[name] += _ATTRIBUTE_OF_THE_PACKAGE
    return dict(sorted(files.items()))


def write_bundle(folder: str | os.PathLike):
    """Add the code to a folder with a saved model, and name it in the folder's config.json and, where there is one,
    preprocessor_config.json (`auto_map`).

    The folder then loads with transformers' Auto classes and pipeline, with `trust_remote_code=True`; where m2f is
    installed and imported, the installed classes are used. What remote code saves has the files again.

    Raises:
        FileNotFoundError: the folder has no config.json.
        ValueError: it is not of an m2f model.
    """
    folder = Path(folder)
    config = folder / "config.json"
    if not config.is_file():
        raise FileNotFoundError(f"{folder} has no config.json; save a model there first")
    kind = read_json_object(config).get("model_type")
    if kind != _PACKAGE:
        raise ValueError(f"{config} is of model_type {kind!r}; the code of this package is for {_PACKAGE!r}")
    for name, text in bundle_files().items():
        replace_text(folder / name, text)
    for name, auto_map in AUTO_MAPS.items():
        if (folder / name).is_file():
            fields = read_json_object(folder / name)
            replace_text(folder / name, json.dumps({**fields, "auto_map": auto_map}, indent=2, sort_keys=True) + "\n")


def replace_text(path: Path, text: str):
    """Write a file whole or not at all."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    with naming(path):
        unfinished.write_text(text, encoding="utf-8")
        os.replace(unfinished, path)


def _source(module: str) -> str:
    """Text of a module of this package, wherever it is installed."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.submodule_search_locations is not None:
        raise ValueError(f"{module} is not one file, and a bundle holds files only")
    source = spec.loader.get_source(module) if isinstance(spec.loader, InspectLoader) else None
    if source is None:
        raise ValueError(f"{module} has no source text, and a bundle holds sources")
    return source


def _own_imports(tree: ast.AST) -> Iterator[tuple[ast.ImportFrom, str]]:
    """`from ... import` statements of modules of this package, and those modules."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == _PACKAGE:
            yield node, node.module


def _flattened(text: str, tree: ast.Module) -> str:
    """The text with imports of this package relative, and with those of other packages in functions inside `try`:
    transformers asks for every package that it finds imported anywhere else before it runs a file."""
    lines = text.splitlines()
    for node, module in _own_imports(tree):
        line = lines[node.lineno - 1]
        statement = f"from {module} import"
        if statement not in line:
            raise ValueError(f"line {line!r} does not import as `{statement} ...`")
        lines[node.lineno - 1] = line.replace(statement, f"from .{module.rsplit('.', 1)[1]} import", 1)
    for optional in sorted(_optional_imports(tree), key=lambda node: -node.lineno):
        first, last = optional.lineno - 1, optional.end_lineno
        indent = " " * optional.col_offset
        body = [f"    {line}" for line in lines[first:last]]
        lines[first:last] = [f"{indent}try:", *body, f"{indent}except ImportError:", f"{indent}    raise"]
    return "\n".join(lines) + "\n"


def _optional_imports(tree: ast.Module) -> Iterator[ast.Import | ast.ImportFrom]:
    """Imports in functions of what comes neither with Python nor from this package."""
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.Import | ast.ImportFrom) and _top_level_name(node) not in _PRESENT:
                    yield node


_PRESENT = {_PACKAGE, *sys.stdlib_module_names}


def _top_level_name(node: ast.Import | ast.ImportFrom) -> str:
    name = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
    return (name or "").split(".")[0]


def _sources_text() -> str:
    """A kernel_sources.py that holds the sources."""
    names = sorted(file.name for file in CSRC.iterdir() if file.suffix in (".cpp", ".cu"))
    entries = "".join(f"    {name!r}: {_literal(read_source(name))},\n" for name in names)
    return (
        '"""The kernels\' sources, as text. Made from the files of m2f\'s modeling_m2f/kernels/csrc."""\n\n'
        f"SOURCES = {{\n{entries}}}\n\n\n"
        "def read_source(name: str) -> str:\n"
        '    """Text of a kernel\'s source, with the project\'s own headers in it."""\n'
        "    return SOURCES[name]\n"
    )


def _literal(text: str) -> str:
    """A Python literal of a text, with its lines as lines."""
    escaped = text.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    return f'"""\\\n{escaped}\\\n"""'
