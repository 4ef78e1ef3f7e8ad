"""Publishes the model in a folder on the Hub, in one commit: weights (safetensors), configuration, processor, model
card, and with --remote-code the code that loads it where m2f is not installed.

Writes README.md into the folder from what the folder and the options below say, unless it is there already. One that
m2f wrote is written anew where options are given; one that somebody changed is kept."""

import argparse
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers.utils import logging

from m2f.checkpoints.checkpoint_config import read_config
from m2f.commands.messages import printer
from m2f.commands.shared_arguments import add_shared_arguments
from m2f.configuration.configuration_m2f import M2FConfig
from m2f.hub.model_card import CARD_FILE, PICTURES, CardFacts, is_as_written, write_card
from m2f.hub.publishing import push_folder
from m2f.image_processing.image_processing_m2f import M2FImageProcessor


def add_arguments(parser: argparse.ArgumentParser):
    parser.add_argument(
        "folder", metavar="FOLDER", type=Path, help="with a saved model, such as `m2f train` leaves it"
    )
    parser.add_argument("repository", metavar="REPO", help="owner/name on the Hub; made where it does not exist")
    parser.add_argument("--remote-code", action="store_true", help="add the code, for trust_remote_code=True")
    parser.add_argument("--private", action="store_true", help="make the repository private")
    parser.add_argument("--revision", metavar="BRANCH", help="branch to publish on; made where it does not exist")
    card = parser.add_argument_group("model card")
    card.add_argument("--license", metavar="ID", help="such as apache-2.0; weights that have one keep it")
    dataset = "what it was trained on: id on the Hub or name; may be repeated"
    card.add_argument("--dataset", metavar="NAME", action="append", default=[], help=dataset)
    base = "what it was fine-tuned from, none for nothing (that of training_options.yaml)"
    card.add_argument("--base-model", metavar="ID", help=base)
    card.add_argument(
        "--results", metavar="FOLDER", type=Path, help="of `m2f val --output`, for the numbers (the training's)"
    )
    card.add_argument("--new-card", action="store_true", help="write README.md anew where there is one")
    dry_run = "check everything here; connect to nothing, and write nothing"
    add_shared_arguments(parser, config={}, dry_run={"help": dry_run})


def run(args: argparse.Namespace) -> int:
    logging.disable_progress_bar()
    say = printer(is_main=True)
    _check_model(args.folder)
    options = {"remote_code": args.remote_code, "private": args.private, "revision": args.revision}
    with _folder_with_card(args, say) as folder:
        push_folder(folder, args.repository, **options, dry_run=args.dry_run, say=say, copy_of=args.folder)
    return 0


def _check_model(folder: Path):
    """Raise ValueError or OSError where the folder's model could not be loaded by those who find it on the Hub."""
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    if read_config(str(folder))["model_type"] == M2FConfig.model_type:
        M2FConfig.from_pretrained(folder)
    if (folder / "preprocessor_config.json").is_file():
        M2FImageProcessor.from_pretrained(folder)
    for file in folder.glob("*.safetensors"):
        try:
            with safe_open(file, "pt"):
                pass
        except SafetensorError as error:
            raise ValueError(f"the weights {file} are damaged ({error}); save the model again") from error


@contextmanager
def _folder_with_card(args: argparse.Namespace, say: Callable[[str], None]) -> Iterator[Path]:
    """The folder, with a card where there was none, or a new one is wanted; in a dry run a copy of it with the card.

    Raises:
        ValueError: there is one that somebody changed, and options that it would be written from are given.
    """
    name = args.repository.split("/")[-1]
    facts = CardFacts(args.license, tuple(args.dataset), args.base_model, args.results, name)
    if not _needs_card(args):
        yield args.folder
    elif args.dry_run:
        with tempfile.TemporaryDirectory(prefix="m2f-push-") as workplace:
            copy = Path(workplace) / "model"
            not_copied = shutil.ignore_patterns(CARD_FILE, PICTURES)  # which the card's writing replaces
            shutil.copytree(args.folder.resolve(), copy, copy_function=os.symlink, ignore=not_copied)
            try:
                write_card(copy, facts)
                say(f"would write the model card {args.folder / CARD_FILE}")
                yield copy
            except (ValueError, FileNotFoundError) as error:  # name what the user knows
                raise type(error)(str(error).replace(str(copy), str(args.folder))) from error
    else:
        say(f"model card: {write_card(args.folder, facts)}")
        yield args.folder


def _needs_card(args: argparse.Namespace) -> bool:
    given = [name for name in ("license", "dataset", "base_model", "results") if getattr(args, name)]
    if not (args.folder / CARD_FILE).is_file() or args.new_card:
        return True
    if given and not is_as_written(args.folder):
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ValueError(
            f"somebody changed the {CARD_FILE} in {args.folder}, and {options} would not change it; write "
            "them there, or have the card written anew with --new-card"
        )
    return bool(given)
