"""Reads a whole dataset once and reports what is wrong with it, instead of stopping at the first thing."""

import os
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from m2f.data.check_report import CheckReport, SplitSummary, summarize
from m2f.data.dataset_formats import list_splits, open_dataset
from m2f.data.dataset_paths import split_of_name, unsplit_hint
from m2f.data.held_out_images import hold_out
from m2f.data.image_inspection import KINDS, READING_ERRORS, Finding, ImageRecord, one_line
from m2f.data.inspection_workers import Inspector, inspect_all
from m2f.data.segmentation_dataset import SegmentationDataset, remarks_of

# TypeError: an option that the reader does not have.
_OPENING_ERRORS = (*READING_ERRORS, TypeError)

# A mask has a fourth of the image's height and width inside the model; a smaller segment than this covers no cell of
# it, at the image's own resolution.
TINY_PIXELS = 16


def check_dataset(
    path: Any,
    splits: Sequence[str] | None = None,
    format: str = "auto",
    image_folder: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    workers: int | None = None,
    tiny_pixels: int = TINY_PIXELS,
    progress: bool = False,
    validation_fraction: float | None = None,
) -> CheckReport:
    """Opens the splits of a dataset and checks them; see `check_readers`.

    Args:
        path, format, image_folder, options: as for `open_dataset`, `white_level` among the options.
        splits: all that there are by default, among which must be one to train on.
        validation_fraction: what training would hold out of that one is a split of its own, see `hold_out`.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ValueError: a fraction that `hold_out` refuses. Everything else that is wrong with the data is a finding.
    """
    readers: dict[str, SegmentationDataset] = {}
    findings: list[Finding] = []
    for split in _found_splits(path, format, findings) if splits is None else splits:
        try:
            readers[split] = open_dataset(path, split, format, image_folder, **(options or {}))
        except _OPENING_ERRORS as error:
            findings.append(Finding("unopened split", split, "", one_line(error)))
    if validation_fraction is not None and readers:
        readers = _divided(readers, validation_fraction)
    return check_readers(readers, findings, workers=workers, tiny_pixels=tiny_pixels, progress=progress)


def check_readers(
    readers: Mapping[str, SegmentationDataset],
    findings: Iterable[Finding] = (),
    *,
    workers: int | None = None,
    tiny_pixels: int = TINY_PIXELS,
    progress: bool = False,
) -> CheckReport:
    """Reads every image of every split once.

    Args:
        readers: by split. The one that is called "train", or means it, is trained on, else the first.
        findings: those that there are already.
        workers: processes; as many as there are cores by default.
        tiny_pixels: segments with fewer pixels are noted.
        progress: whether to show a bar on stderr.
    """
    start, found = time.monotonic(), list(findings)
    names = {split: _class_names(split, reader, found) for split, reader in readers.items()}
    inspector = Inspector(readers, names, tiny_pixels)
    records = _read(inspector, usable_cores() if workers is None else workers, progress)
    by_split = {split: [record for record in records if record.split == split] for split in readers}
    summaries = {split: summarize(reader, by_split[split]) for split, reader in readers.items()}
    training = _called_train(readers) or next(iter(readers), None)
    found += [finding for record in records for finding in record.findings]
    found += [*_split_findings(inspector, summaries, training), *_duplicates(records)]
    found += [finding for split, reader in readers.items() for finding in _mixed_masks(split, reader, by_split[split])]
    order, position = list(KINDS), list(readers)
    found.sort(key=lambda f: (order.index(f.kind), position.index(f.split) if f.split in readers else -1))
    id2label = (names[training] if training is not None else None) or _numbers(summaries.values())
    return CheckReport(id2label, summaries, found, records, readers, time.monotonic() - start)


def usable_cores() -> int:
    """Cores that this process may run on."""
    # Not on macOS and Windows; os.process_cpu_count, which knows it everywhere, came with Python 3.13.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _divided(readers: dict[str, SegmentationDataset], fraction: float) -> dict[str, SegmentationDataset]:
    """The readers with the held-out part of the training split behind that."""
    training = _called_train(readers) or next(iter(readers))
    kept, held = hold_out(readers[training], fraction)
    return {training: kept, held.split: held, **{name: readers[name] for name in readers if name != training}}


def _found_splits(path: Any, format: str, findings: list[Finding]) -> list[str]:
    try:
        splits = list_splits(path, format)
    except FileNotFoundError:
        raise
    except READING_ERRORS as error:
        findings.append(Finding("unopened split", "", "", one_line(error)))
        return []
    # A file of one split is trained on as it is, whatever its name.
    if isinstance(path, str | Path) and not Path(path).is_file() and _called_train(splits) is None:
        hint = unsplit_hint(splits) or "training needs 'train'"
        message = f"the splits are called {', '.join(map(repr, splits))}; {hint}"
        findings.append(Finding("no training split", "", "", message))
    return splits


def _called_train(splits: Iterable[str]) -> str | None:
    splits = list(splits)
    return "train" if "train" in splits else next((name for name in splits if split_of_name(name) == "train"), None)


def _class_names(split: str, reader: SegmentationDataset, findings: list[Finding]) -> dict[int, str] | None:
    """None, and a finding, where they cannot be told: some readers look for them in all labels, one of which may be
    broken."""
    try:
        return dict(reader.id2label)
    except READING_ERRORS as error:
        findings.append(Finding("class table", split, "", f"the classes cannot be listed: {one_line(error)}"))
        return None


def _numbers(summaries: Iterable[SplitSummary]) -> dict[int, str]:
    """Names for classes that are known from the segments alone."""
    highest = max((label for summary in summaries for label in summary.class_segments), default=-1)
    return {label: str(label) for label in range(highest + 1)}


def _read(inspector: Inspector, workers: int, progress: bool) -> list[ImageRecord]:
    from tqdm import tqdm

    total = sum(len(reader) for reader in inspector.readers.values())
    records = []
    # None: no bar where stderr is a file.
    with tqdm(total=total, unit="image", desc="reading", disable=None if progress else True) as bar:
        for record in inspect_all(inspector, workers):
            records.append(record)
            bar.update()
    position = list(inspector.readers)
    return sorted(records, key=lambda record: (position.index(record.split), record.index))


def _split_findings(
    inspector: Inspector, summaries: Mapping[str, SplitSummary], training: str | None
) -> Iterator[Finding]:
    for split, reader in inspector.readers.items():
        is_training, summary, names = split == training, summaries[split], inspector.names[split] or {}
        yield from (Finding("class table", split, "", text) for text in _table_errors(inspector, split, training))
        yield from (Finding(kind, split, "", text) for kind, text in remarks_of(reader))
        if is_training:
            yield from (Finding("class name", split, "", text) for text in _shared_names(names))
        if not len(reader):
            yield Finding("empty split", split, "", "no image")
        elif not summary.class_segments:
            kind = "nothing to learn" if is_training else "unlabelled split"
            yield Finding(kind, split, "", f"none of the {summary.readable} readable images has a segment")
        else:
            kind = "unused class" if is_training else "unmeasured class"
            unused = [label for label in names if label not in summary.class_segments]
            yield from (Finding(kind, split, "", f"class {label} {names[label]!r}") for label in unused)


def _mixed_masks(split: str, reader: SegmentationDataset, records: Sequence[ImageRecord]) -> Iterator[Finding]:
    """Images of two classes of which some have both, and the others the first class and ignored pixels alone, as masks
    of 0 and 1 beside masks of 0 and 255 are."""
    if reader.task != "semantic" or not records:
        return
    seen = {label for record in records for label in record.classes}
    with_object = [record for record in records if 1 in record.classes]
    without = [record for record in records if record.ignored and set(record.classes) == {0}]
    if seen == {0, 1} and without and not any(record.ignored for record in with_object):
        text = f"{len(without)} images have ignored pixels and no class but 0, and no image with class 1 has any"
        yield Finding(
            "mixed masks", split, without[0].name, f"{text}; are these masks of 0 and 255 in place of 0 and 1?"
        )


def _table_errors(inspector: Inspector, split: str, training: str | None) -> Iterator[str]:
    """What is wrong with the classes of the training split, and where those of another one differ from them."""
    assert training is not None  # there are splits
    names, wanted = inspector.names[split], inspector.names[training]
    things, wanted_things = (inspector.readers[name].thing_label_ids for name in (split, training))
    if names is None or wanted is None:
        return
    if split == training and (sorted(names) != list(range(len(names))) or not names):
        yield f"class ids are {sorted(names)[:20]}; 0, 1, 2, ... without a gap are needed"
    if names != wanted:
        label = min(label for label in {*names, *wanted} if names.get(label) != wanted.get(label))
        difference = f"class {label} is {names.get(label)!r} here and {wanted.get(label)!r} in {training!r}"
        yield f"{difference}; all splits need the same classes in the same order"
    elif things != wanted_things:
        yield f"things are {things} here and {wanted_things} in {training!r}"


def _shared_names(names: dict[int, str]) -> Iterator[str]:
    labels: dict[str, list[int]] = defaultdict(list)
    for label, name in names.items():
        labels[name].append(label)
    yield from (f"classes {same} are all called {name!r}" for name, same in labels.items() if len(same) > 1)
    alike: dict[str, list[str]] = defaultdict(list)
    for name in labels:
        alike[" ".join(name.casefold().split())].append(name)
    yield from (f"{same} differ in capitals or spaces alone" for same in alike.values() if len(same) > 1)


def _duplicates(records: Iterable[ImageRecord]) -> Iterator[Finding]:
    """One finding for each image that is there more than once."""
    groups: dict[bytes, list[ImageRecord]] = defaultdict(list)
    for record in records:
        if record.size is not None:
            groups[record.image_hash].append(record)
    for first, *others in groups.values():
        if others:
            kind = "repeated image" if {record.split for record in others} == {first.split} else "shared image"
            same = all(record.label_hash == first.label_hash for record in others)
            where = ", ".join(f"{record.split}: {record.name}" for record in others)
            yield Finding(kind, first.split, first.name, f"also {where}" + ("" if same else ", with other labels"))
