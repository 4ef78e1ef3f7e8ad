"""The arguments that say how large images are cut into tiles. No subcommand itself."""

import argparse

from m2f.commands.shared_arguments import count_or_zero


def add_tile_arguments(parser: argparse.ArgumentParser):
    tile = "cut images that are higher or wider than N pixels into overlapping tiles (the checkpoint's; 0: no tiles)"
    parser.add_argument("--tile", type=count_or_zero, metavar="N", help=tile)
    overlap = "pixels that neighbouring tiles share; best the length of most objects (checkpoint's, or 1/4 of --tile)"
    parser.add_argument("--tile-overlap", type=count_or_zero, metavar="N", help=overlap)
