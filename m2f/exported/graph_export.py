"""A checkpoint's graph, written as a whole or not at all."""

import copy
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from m2f.configuration.backbone_stages import fixed_size
from m2f.exported.graph_description import describe, description_path, graph_files, read_description, write_description
from m2f.exported.graph_form import FORMATS, MADE_WITH, GraphForm, check_compression, check_packages
from m2f.exported.graph_writers import trace_network, write_graph
from m2f.exported.portable_network import PortableNetwork
from m2f.image_processing.file_settings import pad_size_in_use
from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation


def graph_path(target: str | os.PathLike, format: str) -> Path:
    """The file of a graph that a user names, with the format's ending.

    Raises:
        ValueError: the name has the ending of another format.
    """
    path, ending = Path(target), FORMATS[format]
    if path.suffix in FORMATS.values() and path.suffix != ending:
        raise ValueError(f"{path} ends with {path.suffix}, and graphs of {format} end with {ending}")
    return path if path.suffix == ending else path.with_name(path.name + ending)


def check_target(path: Path, overwrite: bool):
    """Raise FileExistsError where a graph or its description is there already."""
    files = [file for file in (*graph_files(path), description_path(path)) if file.exists()]
    if files and not overwrite:
        raise FileExistsError(f"{files[0]} exists; choose another name, or give --overwrite")


def check_size(model: M2FForUniversalSegmentation, form: GraphForm):
    """Raise ValueError where the backbone does not take what the graph would."""
    only = fixed_size(model.config.backbone_config)
    if only is not None and form.size != only:
        wanted = "dynamic" if form.size is None else "{}x{}".format(*form.size)
        raise ValueError(
            f"the backbone has position embeddings for {only[0]}x{only[1]} pixels alone, and the size {wanted} is "
            f"asked for; give --size {only[0]}x{only[1]}"
        )


def processor_for(processor: M2FImageProcessor, form: GraphForm) -> M2FImageProcessor:
    """The processor with the sizes of a graph: what it makes of any image fits."""
    if form.size is None:
        return processor
    height, width = form.size
    pad_size = pad_size_in_use(processor, {})
    fields: dict[str, Any] = dict(processor.to_dict())
    if not form.padding:
        fields |= {"size": {"height": height, "width": width}, "pad_size": None}
    elif pad_size is None or dict(pad_size) != {"height": height, "width": width}:
        # As large as the graph takes it. A canvas of the same size has a scale of its own, which stays.
        fields |= {"size": {"max_height": height, "max_width": width}}
        fields |= {"pad_size": {"height": height, "width": width}}
    return M2FImageProcessor.from_dict(fields)


def export_model(
    model: M2FForUniversalSegmentation,
    processor: M2FImageProcessor,
    path: Path,
    form: GraphForm,
    *,
    checkpoint: str,
    licence: str | None = None,
    check: Callable[[Path], None] = lambda graph: None,
) -> dict[str, Any]:
    """Writes a graph, and its description beside it; what stood there is replaced when both are whole and checked.

    Args:
        model: in evaluation mode, in float32 on the CPU.
        path: with the format's ending, see `graph_path`.
        checkpoint: the name that the description records.
        licence: of the weights.
        check: is given the graph, in another folder, and raises where it is not right.

    Returns:
        The description.

    Raises:
        ImportError: a package is missing that the format needs.
        ValueError: the backbone does not take the size, the network cannot be exported in this form, or from `check`.
    """
    check_packages(form.format, MADE_WITH)
    check_compression(form)
    check_size(model, form)
    processor = processor_for(processor, form)
    network = model
    if form.format not in ("onnx", "openvino") and form.dtype != "float32":
        network = copy.deepcopy(model).to(getattr(torch, form.dtype))
    portable = PortableNetwork(network, processor, form).eval()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".m2f-export-", dir=path.parent) as folder:
        graph = Path(folder) / path.name
        write_graph(trace_network(portable, form), form, graph)
        write_description(describe(form, model.config, processor, checkpoint, licence), graph)
        check(graph)
        fields, _ = read_description(graph)
        for file in (*graph_files(graph), description_path(graph)):
            os.replace(file, path.parent / file.name)
    return fields
