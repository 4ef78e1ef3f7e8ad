"""Serves a page in the browser: drop a picture, choose task, thresholds and checkpoint, see the segments, and download
them as COCO json. Ctrl-C ends it."""

import argparse
import socket
from pathlib import Path

from m2f.checkpoints.bundled_checkpoint import DEFAULT_CHECKPOINT, checkpoint_location
from m2f.checkpoints.checkpoint_config import read_config
from m2f.commands.messages import print_lines
from m2f.commands.shared_arguments import add_shared_arguments
from m2f.inference.model_loading import DTYPES, find_device

EXAMPLE = Path("card") / "example.png"


def add_arguments(parser: argparse.ArgumentParser):
    choice = f"that can be chosen on the page: folder, Hub id or bundled name ({DEFAULT_CHECKPOINT}, bundled)"
    parser.add_argument("checkpoints", metavar="CHECKPOINT", nargs="*", default=[DEFAULT_CHECKPOINT], help=choice)
    host = "address to serve at; 0.0.0.0 lets other machines in, and there is no password (%(default)s)"
    parser.add_argument("--host", metavar="NAME", default="127.0.0.1", help=host)
    parser.add_argument("--port", metavar="N", type=_port, default=7860, help="0 takes a free one (%(default)s)")
    parser.add_argument("--open", action="store_true", help="open the page in the browser of this machine")
    add_shared_arguments(
        parser,
        config={},
        device={},
        cpu={},
        dtype={"choices": DTYPES, "default": "float32", "help": "of weights and computation (%(default)s)"},
    )


def run(args: argparse.Namespace) -> int:
    from m2f.inference.demo_page import launch, make_page

    for checkpoint in args.checkpoints:
        read_config(checkpoint_location(checkpoint))  # one that is not there ends it before anybody opens the page
    find_device(args.device)
    page = make_page(args.checkpoints, args.device, args.dtype, [Path(checkpoint_location(None)) / EXAMPLE])
    url = launch(page, args.host, args.port or free_port(args.host), args.open)
    print_lines([f"{url} (Ctrl-C ends it)"])
    page.block_thread()
    return 0


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port, which are from 0 to 65535")
    return int(text)


def free_port(host: str) -> int:
    with socket.socket() as listener:
        listener.bind((host, 0))
        return listener.getsockname()[1]
