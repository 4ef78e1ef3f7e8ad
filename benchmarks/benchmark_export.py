"""How far exported graphs are from the model: ONNX (onnxruntime) and OpenVINO, of one size and of any size.

    python benchmarks/benchmark_export.py --out benchmarks/results/export_cpu.json

Full-size models have random weights from a fixed seed and 100 queries; the bundled checkpoint has its own. Logits are
compared on random pixels, of batches of 1 and 3 and of three sizes, which lie in the canvas of a graph of one size.
Finished results (--post) are compared on real images. A row is written as soon as it is measured.

    python benchmarks/benchmark_export.py --files nuclei.xml nuclei_int8.xml --out benchmarks/results/export_cpu.json

measures files of `m2f export` that were made of one checkpoint, in turn, and the checkpoint: average precision on a
dataset, bytes, and seconds for an image.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import pad

from m2f.bench.exported_peers import library_versions
from m2f.bench.measurement_report import machine, spread, write_results
from m2f.checkpoints.bundled_checkpoint import DEFAULT_CHECKPOINT, checkpoint_location
from m2f.cli import main as main_of_m2f
from m2f.commands.export import check_files
from m2f.configuration.configuration_m2f import M2FConfig
from m2f.exported.exported_network import ExportedNetwork
from m2f.exported.graph_description import describe, graph_files, write_description
from m2f.exported.graph_export import processor_for
from m2f.exported.graph_form import FORMATS, GraphForm
from m2f.exported.graph_runtimes import Runner, open_graph
from m2f.exported.graph_writers import trace_network, write_graph
from m2f.exported.portable_network import PortableNetwork
from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.inference.image_sources import read_image
from m2f.inference.model_loading import load_model
from m2f.modeling_m2f.kernels.portable_graph import portable_graph
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation
from m2f.validation.export_check import compare_export

BACKBONES = {
    "swin-tiny": {"model_type": "swin", "embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24]},
    "resnet-50": {"model_type": "resnet", "layer_type": "bottleneck", "depths": [3, 4, 6, 3]},
    "convnext-tiny": {"model_type": "convnext", "depths": [3, 3, 9, 3], "hidden_sizes": [96, 192, 384, 768]},
}
SIZES, BATCHES = ((64, 96), (128, 128), (160, 224)), (1, 3)
BUNDLED_SIZE = (192, 192)
LIBRARIES = ("onnx", "openvino")
LABELS, THINGS = 20, list(range(12))
LIMITS = {"logits": 1e-3, "pixels": 0.999}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [DEFAULT_CHECKPOINT, *BACKBONES]
    parser.add_argument("--models", choices=names, nargs="+", default=names)
    parser.add_argument("--parts", choices=list(PARTS), nargs="+", default=list(PARTS))
    parser.add_argument("--posts", nargs="+", default=["semantic", "instance", "panoptic"])
    parser.add_argument("--images", type=Path, help="image or folder of images for finished results (bundled ones)")
    parser.add_argument("--most-images", type=int, default=4)
    parser.add_argument("--files", type=Path, nargs="+", help="graphs of logits of the bundled checkpoint")
    parser.add_argument("--data", default="examples/nuclei", help="dataset that files are measured on (%(default)s)")
    parser.add_argument("--repetitions", type=int, default=10)
    parser.add_argument("--out", type=Path, help="json file, to whose rows others are added")
    return parser.parse_args()


def make_model(name: str) -> tuple[M2FForUniversalSegmentation, M2FImageProcessor]:
    """Random weights get sampling offsets and classes that depend on the features, as after training."""
    if name == DEFAULT_CHECKPOINT:
        return load_model(name, None, dtype=None, say=lambda line: None)
    torch.manual_seed(0)
    fields: dict[str, Any] = {"num_queries": 100, "num_labels": LABELS, "task": "panoptic", "thing_label_ids": THINGS}
    model = M2FForUniversalSegmentation(M2FConfig(backbone_config=BACKBONES[name], **fields)).eval()
    for parameter_name, parameter in model.named_parameters():
        if "sampling_offsets.weight" in parameter_name or "attention_weights.weight" in parameter_name:
            torch.nn.init.normal_(parameter, std=0.1)
        if parameter_name.startswith("class_predictor.weight"):
            torch.nn.init.normal_(parameter, std=1)
    size = {"max_height": SIZES[-1][0], "max_width": SIZES[-1][1]}
    return model, M2FImageProcessor(size=size, thing_label_ids=THINGS, panoptic_threshold=0.2)


def exported(model: Any, processor: Any, size: tuple[int, int] | None, post: str) -> Iterator[tuple[dict, Path]]:
    """A graph of each library, of one trace, with the fields of its row."""
    traced = GraphForm(size=size, post=post)
    start = time.monotonic()
    program = trace_network(PortableNetwork(model, processor, traced).eval(), traced)
    trace_seconds = time.monotonic() - start
    for library in LIBRARIES:
        form = GraphForm(library, size, post=post)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"graph{FORMATS[library]}"
            start = time.monotonic()
            write_graph(program, form, path)
            write_description(describe(form, model.config, processor, "", None), path)
            seconds = {"trace": round(trace_seconds, 1), "convert": round(time.monotonic() - start, 1)}
            yield {"format": library, "graph": list(size) if size else "any size", "seconds": seconds}, path


def logit_rows(name: str, args: argparse.Namespace, size: tuple[int, int] | None) -> Iterator[dict]:
    model, processor = make_model(name)
    if size is not None and name == DEFAULT_CHECKPOINT:
        size = BUNDLED_SIZE
    sizes = [BUNDLED_SIZE] if name == DEFAULT_CHECKPOINT else SIZES
    for row, path in exported(model, processor, size, "none"):
        run = open_graph(path, GraphForm(row["format"], size))
        plain = PortableNetwork(model, processor, GraphForm(size=size)).eval()
        for edges in sizes:
            for batch in BATCHES:
                found = logit_difference(run, model, plain, edges, size or edges, batch)
                yield {"model": name, **row, "size": list(edges), "batch": batch, **found}


@torch.no_grad()
def logit_difference(
    run: Runner, model: Any, plain: Any, edges: tuple[int, int], canvas: tuple[int, int], batch: int
) -> dict:
    """The largest, of images in the corner of a canvas; the last one is smaller than the others.

    "difference_plain" is that from the same network in PyTorch without the model's kernels: where a mask's logit is so
    near 0 that a rounding moves a pixel over the border of an attention mask, the two networks differ as well, by much
    more than roundings, and the graph can be like one of them alone.
    """
    pixels = torch.randn(batch, 3, *edges, generator=torch.Generator().manual_seed(batch))
    pixels = pad(pixels, (0, canvas[1] - edges[1], 0, canvas[0] - edges[0]))
    sizes = torch.tensor([edges] * batch)
    if batch > 1:
        sizes[-1] -= torch.tensor([17, 9])
    mask = torch.zeros(batch, *canvas)
    for image, (height, width) in zip(mask, sizes.tolist(), strict=True):
        image[:height, :width] = 1
    wanted = model(pixel_values=pixels, pixel_mask=mask)
    logits = (wanted.class_queries_logits, wanted.masks_queries_logits)
    with portable_graph():
        plain_logits = plain(pixels, sizes)
    found = run((pixels, sizes))
    return {
        "difference": _largest(found, logits),
        "difference_plain": _largest(found, plain_logits),
        "largest_logit": max(float(x.abs().max()) for x in logits),
    }


def _largest(found: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> float:
    return max(float((x - y).abs().max()) for x, y in zip(found, wanted, strict=True))


def post_rows(name: str, args: argparse.Namespace) -> Iterator[dict]:
    model, processor = make_model(name)
    size = BUNDLED_SIZE if name == DEFAULT_CHECKPOINT else SIZES[-1]
    fitted = processor_for(processor, GraphForm(size=size))
    images = [read_image(path) for path in check_files(args.images)[: args.most_images]]
    for post in args.posts:
        for row, path in exported(model, fitted, size, post):
            found = compare_export(path, model, images)
            yield {"model": name, **row, "post": post, **vars(found)}


def file_rows(args: argparse.Namespace) -> Iterator[dict]:
    """Of the checkpoint first. Seconds are those of the processor, which others on the machine change least."""
    networks = {name: make_network(name) for name in (DEFAULT_CHECKPOINT, *map(str, args.files))}
    pixels = torch.randn(1, 3, *BUNDLED_SIZE, generator=torch.Generator().manual_seed(0))
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    for repetition in range(args.repetitions + 1):
        for name, network in networks.items():
            start = time.process_time()
            with torch.inference_mode():
                network(pixel_values=pixels)
            if repetition:
                seconds[name].append(time.process_time() - start)
    for name in networks:
        with tempfile.TemporaryDirectory() as folder:
            code = main_of_m2f(["val", name, args.data, "--device", "cpu", "--output", f"{folder}/val"])
            assert code == 0, f"m2f val ended with {code}"
            found = json.loads(Path(folder, "val", "results.json").read_text())["results"]["instance"]
        files = weight_files(name)
        yield {
            "file": Path(name).name,
            "AP": found["AP"],
            "cpu_seconds": spread(seconds[name]),
            "bytes": sum(path.stat().st_size for path in files),
        }


def make_network(name: str) -> Any:
    return make_model(name)[0] if name == DEFAULT_CHECKPOINT else ExportedNetwork(name)


def weight_files(name: str) -> list[Path]:
    if name == DEFAULT_CHECKPOINT:
        return sorted(Path(checkpoint_location(name)).glob("*.safetensors"))
    return graph_files(Path(name))


PARTS = {
    "one size": lambda name, args: logit_rows(name, args, SIZES[-1]),
    "any size": lambda name, args: logit_rows(name, args, None) if name != DEFAULT_CHECKPOINT else iter(()),
    "post": post_rows,
}


def main(args: argparse.Namespace):
    before = json.loads(args.out.read_text()) if args.out and args.out.is_file() else {}
    libraries = library_versions(("openvino", "onnxruntime"))
    results = {**before, "machine": machine(threads=torch.get_num_threads()) | libraries, "limits": LIMITS}
    if args.files:
        results["files"] = rows = []
        for row in file_rows(args):
            rows.append(row)
            print(json.dumps(row), flush=True)
            write_results(results, args.out)
        return
    for part in args.parts:
        rows = results.setdefault(part, [])
        rows[:] = [row for row in rows if row["model"] not in args.models]
        for name in args.models:
            for row in PARTS[part](name, args):
                rows.append(row)
                print(part, json.dumps(row), flush=True)
                write_results(results, args.out)


if __name__ == "__main__":
    main(parse_args())
