"""Exports a checkpoint to ONNX, OpenVINO, torch.export or AOTInductor, with a json beside the file that says all that
is needed to use it; compares it with the checkpoint on real images, and leaves nothing behind where they disagree."""

import argparse
import os
import re
from pathlib import Path

from transformers.utils import logging

from m2f.checkpoints.bundled_checkpoint import DEFAULT_CHECKPOINT, checkpoint_location
from m2f.commands.messages import printer
from m2f.commands.output_check import check_folder
from m2f.commands.shared_arguments import add_shared_arguments, count
from m2f.configuration.backbone_stages import fixed_size
from m2f.data.dataset_paths import image_files
from m2f.exported.exported_network import is_graph
from m2f.exported.graph_description import graph_files
from m2f.exported.graph_export import check_size, check_target, export_model, graph_path
from m2f.exported.graph_form import (
    COMPRESSIONS,
    DTYPES,
    FORMATS,
    MADE_WITH,
    POSTS,
    RUN_WITH,
    GraphForm,
    check_compression,
    check_packages,
)
from m2f.hub.weights_license import required_license, stated_license
from m2f.image_processing.channel_counts import USUAL_CHANNELS
from m2f.image_processing.image_processing_m2f import TASKS
from m2f.inference.image_sources import read_image
from m2f.inference.model_loading import choose_task, load_model
from m2f.validation.export_check import ExportDisagreesError, check_export, differing_layer

_DYNAMIC = "dynamic"
_MOST_CHECKED = 8


def add_arguments(parser: argparse.ArgumentParser):
    checkpoint = f"of m2f or transformers' mask2former: folder, Hub id or bundled name ({DEFAULT_CHECKPOINT})"
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help=checkpoint)
    parser.add_argument("target", metavar="TARGET", type=Path, help="file to write, such as model.onnx")
    formats = "(by the ending of TARGET, else onnx)"
    parser.add_argument("--format", choices=FORMATS, help=formats)
    size = "size of every input, multiples of 32, or dynamic (dynamic, where the backbone takes any size)"
    parser.add_argument("--size", type=_size, metavar="HxW", help=size)
    batch = "images of every input, or dynamic (dynamic)"
    parser.add_argument("--batch", type=_batch, default=_DYNAMIC, metavar="N", help=batch)
    post = "finished results of a task in the graph, in place of logits (%(default)s)"
    parser.add_argument("--post", choices=POSTS, default="none", help=post)
    padding = "every image fills the input, stretched to it: no input `sizes`, and positions that are constants"
    parser.add_argument("--no-padding", action="store_true", help=padding)
    compress = "weights of 8 bits, in OpenVINO's format (%(default)s)"
    parser.add_argument("--compress", choices=(*COMPRESSIONS, "int8"), default="none", help=compress)
    parser.add_argument("--task", choices=TASKS, help="what the checkpoint was trained for, where it does not say")
    check = f"image or folder of images to compare on, up to {_MOST_CHECKED} (pictures of the bundled checkpoint)"
    parser.add_argument("--check", type=Path, metavar="DATA", help=check)
    add_shared_arguments(
        parser,
        config={},
        dtype={"choices": DTYPES, "default": "float32", "help": "of the weights in the file (%(default)s)"},
        overwrite={"help": "replace a file that is there"},
        dry_run={},
    )


def run(args: argparse.Namespace) -> int:
    logging.disable_progress_bar()
    say = printer(is_main=True)
    format = args.format or next((f for f, end in FORMATS.items() if args.target.suffix == end), "onnx")
    path = graph_path(args.target, format)
    GraphForm(format, dtype=args.dtype, post=args.post, compress=args.compress)  # what does not go together ends here
    check_target(path, args.overwrite)
    check_folder(path.parent)
    for packages in (MADE_WITH, RUN_WITH):
        check_packages(format, packages)
    if is_graph(args.checkpoint):
        raise ValueError(f"{args.checkpoint} is an exported graph already; give the checkpoint that it was made of")
    paths = check_files(args.check)
    model, processor = load_model(args.checkpoint, args.task, dtype=None, say=say)
    model = model.float()
    if args.check is None and processor.num_channels != USUAL_CHANNELS:
        raise ValueError(f"the bundled pictures are RGB; give --check images of {processor.num_channels} channels")
    images = [read_image(path, processor.white_level, processor.num_channels) for path in paths]
    if args.post != "none":
        choose_task(args.post, processor.task, processor.thing_label_ids != [])
    size = args.size if args.size is not None else fixed_size(model.config.backbone_config)
    form = GraphForm(
        format,
        None if size in (None, _DYNAMIC) else size,
        None if args.batch == _DYNAMIC else args.batch,
        args.dtype,
        args.post,
        not args.no_padding,
        args.compress,
    )
    check_compression(form)
    check_size(model, form)
    if args.dry_run:
        say(f"would write {path}: {form}")
        return 0
    if form.size is None:
        say("tracing the network for any size, which takes minutes")

    def check(graph: Path):
        try:
            say(check_export(graph, model, images).line())
        except ExportDisagreesError as error:
            where = differing_layer(graph, model, images[0]) if args.debug else "--debug names the first layer"
            raise ExportDisagreesError(f"{error}; {where}") from error

    name = os.fspath(args.checkpoint)
    licence = required_license(model.config.to_dict(), name) or stated_license(checkpoint_location(name))
    export_model(model, processor, path, form, checkpoint=name, licence=licence, check=check)
    size_of_files = sum(file.stat().st_size for file in graph_files(path)) / 2**20
    say(f"{path} and {path.with_suffix('.json').name}: {size_of_files:.1f} MiB")
    return 0


def check_files(data: Path | None) -> list[Path]:
    """The pictures to compare on.

    Raises:
        FileNotFoundError: there are none.
    """
    if data is None:
        data = Path(checkpoint_location(None)) / "card"
    paths = [data] if data.is_file() else [data / name for name in image_files(data)] if data.is_dir() else []
    if not paths:
        raise FileNotFoundError(f"--check {data} is no image and no folder with images")
    return paths[:_MOST_CHECKED]


def _size(text: str) -> tuple[int, int] | str:
    if text == _DYNAMIC:
        return text
    found = re.fullmatch(r"(\d{1,6})x(\d{1,6})", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 640x640, nor {_DYNAMIC}")
    return int(found[1]), int(found[2])


def _batch(text: str) -> int | str:
    return text if text == _DYNAMIC else count(text)
