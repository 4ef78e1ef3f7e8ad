"""The text of a model card, below its YAML header."""

import json
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from m2f.output.safe_text import html_text, markdown_block, markdown_code, markdown_text, terminal_text

_TASKS = {
    "panoptic": "every pixel gets a class, and countable objects (things) are told apart",
    "instance": "objects are found one by one, each with a mask, a class and a score",
    "semantic": "every pixel gets a class, and objects of a class are not told apart",
}
_SHORT_TABLE = 20  # rows that stand in the text; longer tables are folded


def card_text(
    *,
    name: str,
    config: Mapping[str, Any],
    processor: Mapping[str, Any],
    license: str | None,
    datasets: Sequence[str],
    base_model: str | None,
    options_text: str | None,
    results: Mapping[str, Any] | None,
    pictures: Sequence[str],
    speed: float | None = None,
    usage: str | None = None,
    training: str | None = None,
    sections: Sequence[str] = (),
) -> str:
    """Markdown. What files say is written as `markdown_text` does, so that no name of a class changes the card.

    Args:
        config, processor: contents of config.json and preprocessor_config.json.
        license, datasets: None and empty where they are left open.
        base_model: None for a model trained from the start.
        options_text: training_options.yaml of `m2f train`, None where it was trained otherwise.
        results: results.json of `m2f val`, or that of `m2f train` in the same form; None where it was not measured.
        pictures: paths beside the card.
        speed: images a second in training.
        usage, training, sections: see `CardFacts`.
    """
    parts: list[Iterable[str]] = [
        _introduction(name, config, datasets, base_model),
        ["## Load it\n", usage] if usage else _loading(name),
        _training(options_text, base_model, training),
        _training_speed(speed, results),
        _evaluation(results),
        *([section] for section in sections),
        [f"![{_CAPTIONS.get(path, markdown_text(path))}]({quote(path)})" for path in pictures],
        _limits(config, processor),
        _license(license),
    ]
    return "\n\n".join("\n".join(part) for part in map(list, parts) if part) + "\n"


_CAPTIONS = {"card/predictions.png": "Predictions on images of the evaluation", "card/curves.png": "Training curves"}


def _introduction(
    name: str, config: Mapping[str, Any], datasets: Sequence[str], base_model: str | None
) -> Iterator[str]:
    task = config.get("task", "panoptic")
    backbone = (config.get("backbone_config") or {}).get("model_type", "swin")
    labels = _labels(config)
    yield f"# {markdown_text(name)}\n"
    yield f"A Mask2Former with a {markdown_text(backbone)} backbone for {task} segmentation, made with m2f."
    trained_on = ", ".join(map(markdown_text, datasets)) or "data without a name yet (`m2f push --dataset NAME`)"
    yield f"Trained on {trained_on}{f', starting from {markdown_text(base_model)}' if base_model else ''}.\n"
    yield f"**Intended use.** Segmentation of images like those of its training data: {_TASKS[task]}."
    shown = ", ".join(map(markdown_text, labels[:50])) + (", ..." if len(labels) > 50 else "")
    yield f"It knows {len(labels)} classes: {shown}."


def _loading(name: str) -> Iterator[str]:
    literal = terminal_text(json.dumps(name, ensure_ascii=False))
    command = f"m2f convert {shlex.quote(terminal_text(name))} folder --to transformers"
    yield f"""## Load it

Put this repository's id, or a folder with its files, in place of {markdown_code(name)}.

With m2f installed:

```python
import m2f
from transformers import pipeline

segments = pipeline("image-segmentation", model={literal})("image.jpg")
```

With transformers and torch alone, where the repository holds its code (read it first):

```python
from transformers import pipeline

segments = pipeline("image-segmentation", model={literal}, trust_remote_code=True)("image.jpg")
```

In stock transformers, as its own Mask2Former, after {markdown_code(command)}:

```python
from transformers import AutoModelForUniversalSegmentation

model = AutoModelForUniversalSegmentation.from_pretrained("folder")
```"""


def _training(options_text: str | None, base_model: str | None, text: str | None) -> Iterator[str]:
    yield "## Training\n"
    if options_text is None:
        start = markdown_text(base_model) if base_model else "trained from random values"
        yield text or f"Weights: {start}. No options of `m2f train` are on record."
        return
    block = markdown_block(options_text.rstrip(), "yaml")
    yield f"{text}\n" if text else "```\nm2f train --config training_options.yaml\n```\n"
    yield f"<details><summary>training_options.yaml</summary>\n\n{block}\n\n</details>"


def _training_speed(speed: float | None, results: Mapping[str, Any] | None) -> Iterator[str]:
    """On the machine that evaluated the run, which is the one that trained."""
    if speed and results and "step" in results and results.get("machine"):
        yield f"Speed of the training: {speed:.2f} images a second ({_machine(results)})."


def _evaluation(results: Mapping[str, Any] | None) -> Iterator[str]:
    yield "## Evaluation\n"
    if results is None:
        yield "Not measured."
        return
    dataset = results.get("dataset")
    on = ""
    if dataset:
        split, form, images = map(markdown_text, (dataset["split"], dataset["format"], results["images"]))
        on = f" on the split {split} ({form}, {images} images)"
    step = markdown_text(results.get("step"))
    yield f"Measured by `m2f train` after step {step}{on}." if "step" in results else f"`m2f val`{on}."
    for task, numbers in results["results"].items():
        measured = {name: value for name, value in numbers.items() if value is not None}
        yield f"\n**{markdown_text(task.capitalize())}**\n"
        yield from _table([[f"{value:.4f}" for value in measured.values()]], list(measured))
        yield from _class_table(task, results.get("per_class", {}).get(task, ()))
    if results.get("seconds"):
        speed = results["images"] / results["seconds"]
        used = _machine(results)
        yield f"\nSpeed of that evaluation, reading and measuring included: {speed:.2f} images a second ({used})."


def _machine(results: Mapping[str, Any]) -> str:
    """What measured, as far as the results say it."""
    machine, versions = results.get("machine", {}), results.get("versions", {})
    parts = [machine[name] for name in ("device", "processor") if machine.get(name, "cpu") != "cpu"]
    for name, plural in (("thread", "threads"), ("process", "processes")):
        if count := machine.get(plural):
            parts.append(f"{count} {name if count == 1 else plural}")
    used = {**versions, **machine}
    parts += [f"{name} {used[name]}" for name in ("torch", "transformers") if name in used]
    return markdown_text(", ".join(parts))


def _class_table(task: str, rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not rows:
        return
    names = list(rows[0])
    lines = list(_table([[_cell(row.get(name)) for name in names] for row in rows], names))
    if len(rows) <= _SHORT_TABLE:
        yield from ("", *lines)
    else:
        yield from (f"\n<details><summary>{html_text(task)} per class</summary>\n", *lines, "\n</details>")


def _table(rows: Sequence[Sequence[str]], names: Sequence[str]) -> Iterator[str]:
    yield f"| {' | '.join(map(markdown_text, names))} |"
    yield f"|{'---|' * len(names)}"
    yield from (f"| {' | '.join(row)} |" for row in rows)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else markdown_text(value)


def _limits(config: Mapping[str, Any], processor: Mapping[str, Any]) -> Iterator[str]:
    size = markdown_text(", ".join(f"{name} {edge}" for name, edge in (processor.get("size") or {}).items()))
    tile = processor.get("tile")
    seen = f"a tile of {markdown_text(tile)} pixels" if tile else "an image"
    yield "## Limits\n"
    yield f"- At most {markdown_text(config.get('num_queries', 100))} segments of {seen} are found."
    yield f"- {'Tiles' if tile else 'Images'} are resized ({size}); what is only a few pixels large then is missed."
    yield "- Classes outside the list above are not known; such objects get no class or a wrong one."
    yield "- Scores are not calibrated probabilities. Check results on images of your own before relying on them."


def _license(license: str | None) -> Iterator[str]:
    yield "## Licence\n"
    if license is None:
        yield "That of the weights is not stated yet (`m2f push --license ID`). The code of m2f is under Apache 2.0."
    elif license.startswith("cc-by-nc"):
        yield (
            f"The weights are under {markdown_text(license.upper())}: they come from ones that the authors of "
            "[Mask2Former](https://github.com/facebookresearch/Mask2Former) published under it, and may not be used "
            "commercially. The code of m2f is under Apache 2.0."
        )
    else:
        yield f"The weights are under {markdown_text(license)}, the code of m2f under Apache 2.0."


def _labels(config: Mapping[str, Any]) -> list[str]:
    names = config.get("id2label") or {str(i): f"LABEL_{i}" for i in range(2)}  # transformers leaves two of them out
    return [names[label] for label in sorted(names, key=int)]
