"""The argument that says which value is white in images of more than 8 bits. No subcommand itself."""

import argparse

from m2f.image_processing.white_level import WhiteLevel, check_white_level


def add_white_level_argument(parser: argparse.ArgumentParser):
    help = (
        "value that is white in images of more than 8 bits: a number, type, data or auto (the checkpoint's, or auto)"
    )
    parser.add_argument("--white-level", type=_white_level, metavar="VALUE", help=help)


def _white_level(text: str) -> WhiteLevel:
    """What the text says; "auto" stays, as leaving it out means what the checkpoint says."""
    try:
        return "auto" if check_white_level(text) is None else check_white_level(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("white_level ")) from error
