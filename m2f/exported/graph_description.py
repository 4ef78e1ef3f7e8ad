"""The json beside an exported graph: all that is needed to use it, without m2f and without torch."""

import hashlib
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from m2f.configuration.configuration_m2f import LICENSE_FIELD
from m2f.exported.graph_form import FORMATS, SIZE_DIVISOR, GraphForm
from m2f.exported.portable_network import result_settings
from m2f.image_processing.file_settings import pad_size_in_use
from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.image_processing.post_processing_mixin import MASK_THRESHOLD, OVERLAP_THRESHOLD, SCORE_THRESHOLD

VERSION = 1  # of this file's form
_PROGRAM = "m2f export"
_PACKAGES = ("torch", "transformers", "onnx", "onnxscript", "openvino", "numpy")
_LARGEST_FILE = 2**22
_ORDER = "rgb, channels first"


def description_path(graph: str | os.PathLike) -> Path:
    """Where a graph's description lies: beside it, under its name with the ending .json."""
    return Path(graph).with_suffix(".json")


def describe(
    form: GraphForm, config: Any, processor: M2FImageProcessor, checkpoint: str, licence: str | None
) -> dict[str, Any]:
    """The description of a graph that is not written yet, see `write_description`.

    Args:
        config: of the model, an M2FConfig.
        processor: with the sizes that the graph takes.
        licence: of the weights, where it is known; what the config records of it goes first.
    """
    return {
        "program": _PROGRAM,
        "version": VERSION,
        "form": {**asdict(form), "size": form.size and list(form.size)},
        "inputs": _inputs(form, processor.num_channels),
        "outputs": _outputs(form, config),
        "preprocessing": preprocessing(processor),
        "results": {
            "task": processor.task,
            "score_threshold": SCORE_THRESHOLD,
            "panoptic_threshold": processor.panoptic_threshold,
            "mask_threshold": MASK_THRESHOLD,
            "overlap_threshold": OVERLAP_THRESHOLD,
            "in_the_graph": result_settings(processor, form.post, config.num_labels),
        },
        "labels": {str(label): name for label, name in sorted(config.id2label.items())},
        "thing_label_ids": processor.thing_label_ids,
        "num_queries": config.num_queries,
        "mask_padding": config.mask_padding,
        "processor": json.loads(processor.to_json_string()),
        "checkpoint": checkpoint,
        "license": getattr(config, LICENSE_FIELD, None) or licence,
        "versions": _versions(),
    }


def preprocessing(processor: M2FImageProcessor) -> dict[str, Any]:
    """What makes `pixel_values` of an image, in the order of the steps."""
    pad_size, channels = pad_size_in_use(processor, {}), processor.num_channels
    return {
        "channels": _ORDER if channels == 3 else f"{channels} in the order of the image's file, channels first",
        "orientation": "EXIF's applied",
        "resize": dict(processor.size) if processor.do_resize else None,
        "rounding": "edges half up",
        "interpolation": "bilinear, antialiased, on 8 bits (Pillow's BILINEAR)",
        "scale": processor.rescale_factor if processor.do_rescale else 1,
        "mean": _each(processor.image_mean if processor.do_normalize else 0, channels),
        "std": _each(processor.image_std if processor.do_normalize else 1, channels),
        "padding": "with 0 after the normalisation, on the right and at the bottom",
        "padded_size": dict(pad_size) if pad_size else None,
        "multiple_of": SIZE_DIVISOR,
        "tile": processor.tile,
        "tile_overlap": processor.tile_overlap,
    }


def write_description(fields: Mapping[str, Any], graph: Path):
    """Writes the description of a graph's files, with their hashes and its own."""
    files = {path.name: file_hash(path) for path in graph_files(graph)}
    fields = {**fields, "graph": graph.name, "files": files}
    text = json.dumps({**fields, "digest": _digest(fields)}, indent=1)
    description_path(graph).write_text(text + "\n", encoding="utf-8")


def read_description(graph: str | os.PathLike) -> tuple[dict[str, Any], GraphForm]:
    """The description of a graph, whose files are as they were when it was written.

    Raises:
        FileNotFoundError: the graph, or its description, is not there.
        ValueError: the description is not one of `m2f export`, is of a later version, or it or the graph was changed.
    """
    graph = Path(graph)
    path = description_path(graph)
    if not graph.is_file():
        raise FileNotFoundError(f"there is no graph {graph}")
    if not path.is_file():
        raise FileNotFoundError(
            f"{graph} has no {path.name} beside it; `m2f export` writes both, and no other program's graph is run"
        )
    if path.stat().st_size > _LARGEST_FILE:
        raise ValueError(f"{path} has {path.stat().st_size} bytes; a description has at most {_LARGEST_FILE}")
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no json ({type(error).__name__}); export the checkpoint again") from error
    if not isinstance(fields, dict) or fields.get("program") != _PROGRAM:
        raise ValueError(f"{path} was not written by `m2f export`; export the checkpoint again")
    if fields.get("version") != VERSION:
        raise ValueError(f"{path} has the form {fields.get('version')!r}, and this version of m2f reads {VERSION}")
    if fields.pop("digest", None) != _digest(fields):
        raise ValueError(
            f"{path} was changed after `m2f export` wrote it; export the checkpoint again with the settings wanted"
        )
    for name, digest in fields["files"].items():
        if not (graph.parent / name).is_file() or file_hash(graph.parent / name) != digest:
            raise ValueError(f"{graph.parent / name} is not the file that {path.name} describes; export again")
    size = fields["form"]["size"]
    return fields, GraphForm(**{**fields["form"], "size": size and tuple(size)})


def graph_files(graph: Path) -> list[Path]:
    """The files that are the graph, its weights among them."""
    weights = graph.with_suffix(".bin")
    return [graph, weights] if graph.suffix == FORMATS["openvino"] else [graph]


def file_hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _digest(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def _inputs(form: GraphForm, channels: int) -> dict[str, Any]:
    height, width = form.size or ("height", "width")
    batch = form.batch or "batch"
    inputs = {
        "pixel_values": {"shape": [batch, channels, height, width], "type": "float32"},
        "sizes": {"shape": [batch, 2], "type": "int64", "is": "height and width of each image before padding"},
    }
    return {name: inputs[name] for name in form.inputs}


def _each(values: Any, channels: int) -> list[float]:
    """One number for each channel."""
    values = list(values) if isinstance(values, Sequence) else [values]
    return values if len(values) == channels else values * channels


def _outputs(form: GraphForm, config: Any) -> dict[str, Any]:
    logits = (
        f"{config.num_queries} queries, {config.num_labels} labels and 'no object', masks at a quarter of the size"
    )
    meanings = {
        "none": logits,
        "semantic": "label of each pixel",
        "instance": "best first; a score of 0 means none; masks at the size of the input",
        "panoptic": "ids: segment of each pixel, 0 for none; segment_ids: of each query, 0 where it is no segment",
    }
    return {"names": list(form.outputs), "are": meanings[form.post]}


def _versions() -> dict[str, str]:
    versions = {"m2f": sys.modules["m2f"].__version__, "python": platform.python_version()}
    installed = {entry.metadata["Name"].lower() for entry in metadata.distributions() if entry.metadata["Name"]}
    return versions | {name: metadata.version(name) for name in _PACKAGES if name in installed}
