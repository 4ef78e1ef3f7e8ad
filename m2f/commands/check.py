"""Reads every image of a dataset once and lists what is wrong with it. Exit code 0: training may start; 1: errors were
found. Writes a contact sheet, a picture of the worst findings and the rarest classes with their labels."""

import argparse
import json
import os
from collections import Counter
from pathlib import Path

from PIL import Image

from m2f.commands.data_arguments import add_data_arguments
from m2f.data.check_report import CheckReport, SplitSummary
from m2f.data.contact_sheet import draw_contact_sheet
from m2f.data.dataset_check import TINY_PIXELS, check_dataset
from m2f.data.image_inspection import KINDS, SEVERITIES, Finding

EXIT_FOUND_ERRORS = 1
_MAX_CLASSES = 40  # shown without --all


def add_arguments(parser: argparse.ArgumentParser):
    parser.add_argument("data", metavar="DATA", help="folder or annotation file")
    parser.add_argument("--split", action="append", metavar="NAME", help="check this split; may be repeated (all)")
    add_data_arguments(parser)
    parser.add_argument("--sheet", type=Path, default=Path("m2f_check.png"), metavar="FILE.png", help="(%(default)s)")
    parser.add_argument("--sheet-images", type=_count, default=24, metavar="N", help="images on it (24); 0: no sheet")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report, with all findings, as json")
    parser.add_argument("--max-lines", type=_count, default=10, metavar="N", help="lines of each kind of finding (10)")
    parser.add_argument("--all", action="store_true", help="print all findings and classes")
    parser.add_argument("--strict", action="store_true", help="exit with 1 for warnings too")
    tiny = f"note segments with fewer pixels ({TINY_PIXELS})"
    parser.add_argument("--tiny", type=_count, default=TINY_PIXELS, metavar="PIXELS", help=tiny)
    parser.add_argument("--workers", type=_count, metavar="N", help="processes that read (one a core)")


def run(args: argparse.Namespace) -> int:
    sheet = args.sheet if args.sheet_images else None
    for file in filter(None, (sheet, args.json)):
        _check_writable(file)  # now, and not after an hour of reading
    if sheet and sheet.suffix.lower() not in Image.registered_extensions():
        raise ValueError(f"{sheet} has no ending of an image file; give it .png")
    report = check_dataset(
        args.data,
        args.split,
        args.format,
        args.image_folder,
        dict(args.data_options),
        workers=args.workers,
        tiny_pixels=args.tiny,
        progress=True,
    )
    print("\n".join(report_lines(report, args.data, None if args.all else args.max_lines)))
    if args.json:
        args.json.write_text(json.dumps({"data": args.data, **report.to_dict()}, indent=1) + "\n", encoding="utf-8")
    if sheet and report.records:
        draw_contact_sheet(report, args.sheet_images).save(sheet)
        print(f"contact sheet: {sheet}")
    print(_verdict(report, args.strict))
    return 0 if report.may_train(args.strict) else EXIT_FOUND_ERRORS


def _count(text: str) -> int:
    """An argument's value that counts something."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)


def _check_writable(file: Path):
    if not file.parent.is_dir():
        raise FileNotFoundError(f"cannot write {file}: there is no folder {file.parent}")
    if not os.access(file if file.exists() else file.parent, os.W_OK):
        raise PermissionError(f"cannot write {file}: no permission")


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
    shown = {label: report.id2label.get(label, "unknown") for label in sorted(total, key=total.get)[:max_classes]}
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
