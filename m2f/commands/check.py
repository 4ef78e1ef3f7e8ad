"""Reads every image of a dataset once and lists what is wrong with it. Writes a contact sheet, a picture of the worst
findings and the rarest classes with their labels; and the dataset as one of COCO, where --write says so."""

import argparse
import contextlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from m2f.commands.data_arguments import add_data_arguments
from m2f.commands.messages import print_lines, printer
from m2f.commands.output_check import check_file, check_folder
from m2f.commands.shared_arguments import add_shared_arguments, count, count_or_zero
from m2f.commands.white_level_argument import add_white_level_argument
from m2f.data.check_report import CheckReport, SplitSummary
from m2f.data.coco_writing import WrittenSplit, check_target, write_coco
from m2f.data.contact_sheet import draw_contact_sheet
from m2f.data.dataset_check import TINY_PIXELS, check_dataset
from m2f.data.image_inspection import KINDS, SEVERITIES, Finding
from m2f.output.write_errors import naming

EXIT_FOUND_ERRORS = 1
EXIT_CODES = {0: "training may start", EXIT_FOUND_ERRORS: "errors were found (with --strict: or warnings)"}
WRITTEN_FORMATS = ("coco",)
_MAX_CLASSES = 40  # shown without --all


def add_arguments(parser: argparse.ArgumentParser):
    parser.add_argument("data", metavar="DATA", nargs="?", help="folder or annotation file")
    parser.add_argument("--split", action="append", metavar="NAME", help="check this split; may be repeated (all)")
    fraction = "check what m2f train holds out for this share as a split of its own"
    parser.add_argument("--validation-fraction", type=float, metavar="X", help=fraction)
    add_data_arguments(parser)
    add_white_level_argument(parser)
    channels = "channels that the images must have (3: grey becomes RGB, and alpha is dropped)"
    parser.add_argument("--channels", type=count, metavar="N", help=channels)
    parser.add_argument("--sheet", type=Path, default=Path("m2f_check.png"), metavar="FILE.png", help="(%(default)s)")
    images, lines = "images on it (24); 0: no sheet", "lines of each kind of finding (10)"
    parser.add_argument("--sheet-images", type=count_or_zero, default=24, metavar="N", help=images)
    parser.add_argument("--max-lines", type=count_or_zero, default=10, metavar="N", help=lines)
    parser.add_argument("--all", action="store_true", help="print all findings and classes")
    write = "write the data as FORMAT, which is coco, into a new folder: instances, or panoptic for other labels"
    parser.add_argument("--write", nargs=2, metavar=("FORMAT", "FOLDER"), help=write)
    parser.add_argument("--copy-images", action="store_true", help="copy images that --write links otherwise")
    parser.add_argument("--strict", action="store_true", help="exit with 1 for warnings too")
    tiny = f"note segments with fewer pixels ({TINY_PIXELS})"
    parser.add_argument("--tiny", type=count_or_zero, default=TINY_PIXELS, metavar="PIXELS", help=tiny)
    json_file = "print json instead of text; with FILE, write it there beside the text"
    add_shared_arguments(
        parser,
        config={},
        workers={"type": count_or_zero, "help": "processes that read images (one a core)"},
        overwrite={},
        json={"action": "store", "nargs": "?", "const": True, "metavar": "FILE", "help": json_file},
        dry_run={"help": "read and print, and write no file"},
    )


def run(args: argparse.Namespace) -> int:
    data, prints_json, json_file = _data_and_json(args)
    sheet = args.sheet if args.sheet_images else None
    for file in filter(None, (sheet, json_file)):
        check_file(file)  # now, and not after an hour of reading
    if sheet and sheet.suffix.lower() not in Image.registered_extensions():
        raise ValueError(f"{sheet} has no ending of an image file; give it .png")
    if args.write:
        _check_writing(args, data)
    with _silent_readers():
        report = check_dataset(
            data,
            args.split,
            args.format,
            args.image_folder,
            {**dict(args.data_options), **_image_options(args)},
            workers=args.workers,
            tiny_pixels=args.tiny,
            progress=True,
            validation_fraction=args.validation_fraction,
        )
    text = json.dumps({"data": data, **report.to_dict()}, indent=1)
    say = printer(is_main=True) if prints_json else _print_line
    if prints_json:
        print(text)
    else:
        print_lines(report_lines(report, data, None if args.all else args.max_lines))
    if json_file:
        _write(args, "report", json_file, lambda: json_file.write_text(text + "\n", encoding="utf-8"), say)
    if sheet and report.records:
        _write(args, "contact sheet", sheet, lambda: draw_contact_sheet(report, args.sheet_images).save(sheet), say)
    if args.write:
        _write_dataset(args, report, say)
    say(_verdict(report, args.strict))
    return 0 if report.may_train(args.strict) else EXIT_FOUND_ERRORS


def _image_options(args: argparse.Namespace) -> dict[str, Any]:
    options = {"white_level": args.white_level, "num_channels": args.channels}
    return {name: value for name, value in options.items() if value is not None}


@contextlib.contextmanager
def _silent_readers() -> Iterator[None]:
    """What readers warn of is among the findings."""
    logger = logging.getLogger("m2f.data")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _print_line(text: str):
    print_lines([text])


def _write(args: argparse.Namespace, what: str, file: Path, write: Callable[[], object], say: Callable[[str], object]):
    if not args.dry_run:
        with naming(file):
            write()
    say(f"would write {what}: {file}" if args.dry_run else f"{what}: {file}")


def _check_writing(args: argparse.Namespace, data: str):
    format, folder = args.write[0], Path(args.write[1])
    if format not in WRITTEN_FORMATS:
        raise ValueError(f"cannot write {format!r}; --write takes {', '.join(WRITTEN_FORMATS)} and a folder")
    check_folder(folder)
    check_target(folder, args.overwrite, data)


def _write_dataset(args: argparse.Namespace, report: CheckReport, say: Callable[[str], object]):
    """What can be read of the splits that can be opened; the report has named the rest."""
    folder = Path(args.write[1])
    readable = {
        split: [record.index for record in report.records if record.split == split and record.size is not None]
        for split in report.readers
    }
    if not any(readable.values()):
        say(f"no image can be read; {folder} is not written")
        return
    left_out = len(report.records) - sum(map(len, readable.values()))
    if left_out:
        say(f"images that cannot be read and are left out: {left_out}")
    if args.dry_run:
        say(f"would write dataset: {folder}")
        return
    for split in write_coco(report.readers, folder, readable, args.overwrite, args.copy_images):
        say(f"dataset: {folder}, {split.name}: {split.images} images, {split.segments} segments")
        for number, text in ((split.empty, "segments without a pixel, which are left out"), *_unsaid(split)):
            if number:
                say(f"  {number} {text}")


def _unsaid(split: WrittenSplit) -> tuple[tuple[int, str], ...]:
    return (
        (split.crowds, "images with ignored pixels, as a crowd region of the first class"),
        (split.background, "images with background, which COCO panoptic has as unknown pixels, and readers ignore"),
    )


def _data_and_json(args: argparse.Namespace) -> tuple[str, bool, Path | None]:
    """What is read; whether json is printed; where it is written."""
    data, json_argument = args.data, args.json
    if data is None and isinstance(json_argument, str):  # of `--json DATA`
        data, json_argument = json_argument, True
    if data is None:
        raise ValueError("there is nothing to check; give DATA, a folder or an annotation file")
    return data, json_argument is True, Path(json_argument) if isinstance(json_argument, str) else None


def report_lines(report: CheckReport, data: str, max_lines: int | None) -> list[str]:
    """The report as text.

    Args:
        data: what the user calls the dataset.
        max_lines: findings of each kind; None for all, and all classes too.
    """
    lines = [f"{data}: {len(report.records)} images read in {report.seconds:.1f} s"]
    for split, summary in report.splits.items():
        lines += ["", *_split_lines(split, summary)]
    lines += ["", *_class_table(report, None if max_lines is None else _MAX_CLASSES)] if report.splits else []
    for severity in SEVERITIES:
        for kind, findings in report.by_kind().items():
            if KINDS[kind][0] == severity:
                lines += ["", f"{severity.upper()} {KINDS[kind][1]}: {len(findings)}"]
                lines += [f"  {_finding_line(finding)}" for finding in findings[:max_lines]]
                lines += _more(len(findings), max_lines)
    return [*lines, ""]


def _split_lines(split: str, summary: SplitSummary) -> list[str]:
    smallest, largest = summary.sizes
    fewest, median, most = summary.segments_per_image
    unreadable = summary.images - summary.readable
    return [
        f"{split or 'dataset'}: {summary.format}, {summary.task}",
        f"  images    {summary.images}" + (f", {unreadable} of them unreadable" if unreadable else ""),
        f"  sizes     {smallest[0]} x {smallest[1]} to {largest[0]} x {largest[1]} (height x width)",
        f"  segments  {summary.segments}; {fewest} to {most} an image, median {median:g}",
        f"  ignored   {summary.ignored:.2%} of the pixels",
    ]


def _class_table(report: CheckReport, max_classes: int | None) -> list[str]:
    """Segments (and images) of each class and split; the rarest classes where not all are shown. Classes without a
    segment are among the findings."""
    counts = [Counter(summary.class_segments) for summary in report.splits.values()]
    total = sum(counts, Counter())
    shown = {
        label: report.id2label.get(label, "unknown")
        for label in sorted(total, key=lambda label: total[label])[:max_classes]
    }
    width = max(map(len, shown.values()), default=0) + 8
    lines = [f"{'class':{width}}" + "".join(f"{split:>20}" for split in report.splits) + "  segments (images)"]
    for label, name in sorted(shown.items()):
        cells = (f"{s.class_segments.get(label, 0)} ({s.class_images.get(label, 0)})" for s in report.splits.values())
        lines.append(f"{label:4d} {name:{width - 5}}" + "".join(f"{cell:>20}" for cell in cells))
    return lines + _more(len(total), max_classes, "classes with more segments")


def _finding_line(finding: Finding) -> str:
    place = ": ".join(filter(None, (finding.split, finding.name)))
    segment = "" if finding.segment is None else f", segment {finding.segment}"
    segment = segment if finding.annotation is None else f", annotation {finding.annotation}"
    where = "" if finding.box is None else f", at x {finding.box[0]}, y {finding.box[1]}"
    return f"{place}{segment}: {finding.message}{where}".removeprefix(": ")


def _more(total: int, max_lines: int | None, what: str = "more") -> list[str]:
    left = 0 if max_lines is None else total - max_lines
    return [f"  ... and {left} {what}; --all shows them"] if left > 0 else []


def _verdict(report: CheckReport, strict: bool) -> str:
    counts = ", ".join(f"{severity}s: {report.count(severity)}" for severity in SEVERITIES)
    return f"{counts}; training {'may start' if report.may_train(strict) else 'must not start'}"
