"""The arguments of every subcommand that name a dataset. No subcommand itself."""

import argparse
import json
from typing import Any


def add_data_arguments(parser: argparse.ArgumentParser):
    """`format`, `image_folder` and `data_options`, a list of (name, value); `open_dataset` takes them."""
    help = "format of the dataset (found out)"
    parser.add_argument("--format", "--data-format", default="auto", metavar="NAME", help=help)
    parser.add_argument("--image-folder", metavar="FOLDER", help="where the images are, if not beside their labels")
    help = "for the reader of the format, such as ignore_index=0"
    parser.add_argument("--data-options", type=_argument, nargs="*", default=[], metavar="NAME=VALUE", help=help)


def reader_option(text: str) -> tuple[str, Any]:
    """(name, value) of NAME=VALUE; the value is json, or else a text.

    Raises:
        ValueError: it is not of that form.
    """
    name, equals, value = text.partition("=")
    if not name.isidentifier() or not equals:
        raise ValueError(f"{text!r} is not of the form NAME=VALUE")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def _argument(text: str) -> tuple[str, Any]:
    try:
        return reader_option(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
