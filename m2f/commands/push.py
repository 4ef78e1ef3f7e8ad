"""Publishes the model in a folder on the Hub, in one commit: weights (safetensors), configuration, processor, model
card, and with --remote-code the code that loads it where m2f is not installed.

Writes README.md into the folder from what the folder and the options below say, unless it is there already."""

import argparse
from pathlib import Path

from transformers.utils import logging

from m2f.commands.messages import printer
from m2f.hub.model_card import CARD_FILE, CardFacts, write_card
from m2f.hub.publishing import push_folder


def add_arguments(parser: argparse.ArgumentParser):
    parser.add_argument(
        "folder", metavar="FOLDER", type=Path, help="with a saved model, such as `m2f train` leaves it"
    )
    parser.add_argument("repository", metavar="REPO", help="owner/name on the Hub; made where it does not exist")
    parser.add_argument("--remote-code", action="store_true", help="add the code, for trust_remote_code=True")
    parser.add_argument("--private", action="store_true", help="make the repository private")
    parser.add_argument("--revision", metavar="BRANCH", help="branch to publish on; made where it does not exist")
    parser.add_argument("--dry-run", action="store_true", help="check everything here; connect to nothing")
    card = parser.add_argument_group("model card")
    card.add_argument("--license", metavar="ID", help="such as apache-2.0; weights that have one keep it")
    dataset = "what it was trained on: id on the Hub or name; may be repeated"
    card.add_argument("--dataset", metavar="NAME", action="append", default=[], help=dataset)
    base = "what it was fine-tuned from, none for nothing (that of training_options.yaml)"
    card.add_argument("--base-model", metavar="ID", help=base)
    card.add_argument("--results", metavar="FOLDER", type=Path, help="of `m2f val --output`, for the numbers")
    card.add_argument("--new-card", action="store_true", help="write README.md anew where there is one")


def run(args: argparse.Namespace) -> int:
    logging.disable_progress_bar()
    say = printer(is_main=True)
    _write_card(args, say)
    options = {"remote_code": args.remote_code, "private": args.private, "revision": args.revision}
    push_folder(args.folder, args.repository, **options, dry_run=args.dry_run, say=say)
    return 0


def _write_card(args: argparse.Namespace, say):
    """Where there is none, or a new one is wanted.

    Raises:
        ValueError: there is one, and options that it would be written from are given.
    """
    given = [name for name in ("license", "dataset", "base_model", "results") if getattr(args, name)]
    if (args.folder / CARD_FILE).is_file() and not args.new_card:
        if given:
            options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise ValueError(f"{args.folder} has a {CARD_FILE}, which {options} would not change; add --new-card")
        return
    name = args.repository.split("/")[-1]
    facts = CardFacts(args.license, tuple(args.dataset), args.base_model, args.results, name)
    say(f"model card: {write_card(args.folder, facts)}")
