"""The README.md of a published model: what the Hub reads (YAML) and what people read.

Everything in it is taken from files: config.json, preprocessor_config.json, the results of `m2f val --output`, and
what `m2f train` left in its folder. What no file says is left open or asked for, and never made up.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from m2f.checkpoints.json_object import read_json_object
from m2f.hub.card_text import card_text
from m2f.hub.measured_results import training_results, training_speed, validation_results
from m2f.hub.remote_code import replace_text
from m2f.hub.weights_license import checked_license, required_license
from m2f.image_processing.flat_yaml import read_flat_yaml
from m2f.output.safe_text import terminal_text
from m2f.output.write_errors import naming

CARD_FILE = "README.md"
PICTURES = "card"  # folder beside the card
_OPTIONS_FILE, _CURVES, _SAMPLES = "training_options.yaml", "curves.png", "samples"  # of `m2f train`
_PIPELINE = "image-segmentation"
_FROM_SCRATCH = "none"
# Number of the evaluation -> type and name that the Hub knows it by. The rest of the numbers stand in the text.
_METRICS = {
    "PQ": ("pq", "Panoptic quality"),
    "SQ": ("sq", "Segmentation quality"),
    "RQ": ("rq", "Recognition quality"),
    "AP": ("mask_ap", "Mask AP"),
    "AP50": ("mask_ap_50", "Mask AP at IoU 0.5"),
    "mIoU": ("mean_iou", "Mean IoU"),
}
_NEEDED = ("license", "library_name", "pipeline_tag", "datasets")
# The last line of a card, with a hash of the rest: shows whether somebody has changed it since.
_MARK = re.compile(r"\n<!-- written by m2f, ([0-9a-f]{16}) -->\n$")
_CODE = re.compile(r"^(`{3,})[^`\n]*\n.*?^\1$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class CardFacts:
    """What files do not say.

    Args:
        license: identifier of the Hub's list, such as "apache-2.0"; by default that of training_options.yaml; may be
            left out where the weights bring their own.
        datasets: the Hub's ids or names of what the model was trained on; by default those of training_options.yaml.
        base_model: Hub id of what it was fine-tuned from, "none" for a model trained from the start; by default what
            training_options.yaml says.
        results: folder of `m2f val --output`; None: the numbers of the training, if there are any.
        name: of the model; by default the folder's.
        usage, training: Markdown in place of what the card says of loading and of how it was trained.
        sections: Markdown with headings, after the evaluation.
    """

    license: str | None = None
    datasets: tuple[str, ...] = ()
    base_model: str | None = None
    results: Path | None = None
    name: str | None = None
    usage: str | None = None
    training: str | None = None
    sections: tuple[str, ...] = ()


def write_card(folder: Path, facts: CardFacts, may_be_open: bool = False) -> Path:
    """Write README.md, and the pictures that it shows, into the folder of a saved model.

    Args:
        may_be_open: leave open what neither files nor `facts` say, for the card of a model that is not published yet.

    Raises:
        FileNotFoundError: the folder has no config.json, or the results' folder no results.json.
        ValueError: fields are missing (all are named), the licence is not the weights' own, or the results are those
            of an unfinished evaluation.
    """
    folder = Path(folder)
    config, options = _read_json(folder / "config.json"), _training_options(folder)
    base_model = facts.base_model or _start_of(options)
    license = checked_license(facts.license or options.get("license"), _required_license(config, base_model))
    datasets = tuple(map(terminal_text, facts.datasets or options.get("dataset") or ()))
    known = {"license": license, "datasets": datasets, "base_model": base_model}
    missing = [name for name, value in known.items() if not value]
    if missing and not may_be_open:
        raise ValueError(f"the model card of {folder} lacks {_options_for(missing)}")
    base_model = None if base_model == _FROM_SCRATCH else base_model
    task = config.get("task", "panoptic")
    results = validation_results(facts.results) if facts.results else training_results(folder, task)
    name = terminal_text(facts.name or folder.resolve().name)
    data = ModelCardData(
        license=license,
        library_name="transformers",
        pipeline_tag=_PIPELINE,
        tags=["m2f", "mask2former", terminal_text(f"{task}-segmentation")],
        datasets=list(datasets) or None,
        base_model=base_model if base_model is None or _is_hub_id(base_model) else None,
        model_name=name,
        eval_results=_eval_results(results, datasets[0]) if results and datasets else None,
    )
    text = card_text(
        name=name,
        config=config,
        processor=_read_json(folder / "preprocessor_config.json"),
        license=license,
        datasets=datasets,
        base_model=base_model,
        options_text=_text_of(folder / _OPTIONS_FILE),
        results=results,
        speed=training_speed(folder),
        pictures=_copy_pictures(folder),
        usage=facts.usage,
        training=facts.training,
        sections=facts.sections,
    )
    content = str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}"))
    replace_text(folder / CARD_FILE, f"{content}\n<!-- written by m2f, {_hash(content)} -->\n")
    if not missing:
        check_card(folder)
    return folder / CARD_FILE


def is_as_written(folder: Path) -> bool:
    """Whether README.md is as `write_card` wrote it, so that writing it anew takes nothing from anybody."""
    text = (Path(folder) / CARD_FILE).read_text(encoding="utf-8")
    mark = _MARK.search(text)
    return mark is not None and mark[1] == _hash(text[: mark.start()])


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_card(folder: Path):
    """Check README.md before it is published.

    Raises:
        FileNotFoundError: there is none.
        ValueError: fields are missing, the licence is not the weights' own, or files that it links are not there; all
            are named.
    """
    path = Path(folder) / CARD_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no {CARD_FILE}; write the model card with {_options_for(_NEEDED)}")
    card = ModelCard.load(path)
    missing = [name for name in _NEEDED if not getattr(card.data, name, None)]
    if missing:
        remedy = f"; {path.name} written anew gets {_options_for(missing)}" if _options_for(missing) else ""
        raise ValueError(f"{path} lacks {', '.join(missing)} in its YAML header{remedy}")
    if card.data.pipeline_tag != _PIPELINE:
        raise ValueError(f"{path} has pipeline_tag {card.data.pipeline_tag!r}; models of m2f are for {_PIPELINE}")
    base = card.data.get("base_model")
    bases = base if isinstance(base, list) else [base]
    checked_license(card.data.license, _required_license(_read_json(Path(folder) / "config.json"), *bases))
    absent = [link for link in _local_links(card.text) if not (Path(folder) / link).is_file()]
    if absent:
        raise ValueError(f"{path} links files that are not there: {', '.join(absent)}")


def _required_license(config: Mapping[str, Any], *bases: str | None) -> str | None:
    return required_license(config, config.get("_name_or_path"), *bases)


def _local_links(text: str) -> list[str]:
    links = re.findall(r"(?<!\\)\]\(([^)\s]+)\)", _CODE.sub("", text))
    return [unquote(link) for link in links if not re.match(r"[a-z]+:|#", link)]


def _options_for(missing: Any) -> str:
    options = {
        "license": "a licence (--license)",
        "datasets": "what it was trained on (--dataset)",
        "base_model": f"what it was fine-tuned from (--base-model, {_FROM_SCRATCH!r} for nothing)",
    }
    return ", ".join(options[name] for name in options if name in missing)


def _start_of(options: Mapping[str, Any]) -> str | None:
    """What training_options.yaml says that the model was trained from."""
    return options.get("model") or options.get("backbone") or (_FROM_SCRATCH if options.get("scratch") else None)


def _eval_results(results: Mapping[str, Any], dataset: str) -> list[EvalResult]:
    """For `model-index`."""
    split = results.get("dataset", {}).get("split")
    return [
        EvalResult(
            task_type=_PIPELINE,
            task_name=f"{task} segmentation",
            dataset_type=dataset,
            dataset_name=dataset,
            dataset_split=None if split is None else terminal_text(split),
            metric_type=_METRICS[name][0],
            metric_name=_METRICS[name][1],
            metric_value=round(value, 5),
        )
        for task, numbers in results["results"].items()
        for name, value in numbers.items()
        if name in _METRICS and value is not None
    ]


def _copy_pictures(folder: Path) -> list[str]:
    """The curves and the last sheet of predictions of a training, copied where a push takes them; their paths."""
    samples = sorted((folder / _SAMPLES).glob("*.png"))
    pictures = [path for path in (*samples[-1:], folder / _CURVES) if path.is_file()]
    if pictures:
        (folder / PICTURES).mkdir(exist_ok=True)
    names = {_CURVES: "curves.png"}
    links = [f"{PICTURES}/{names.get(path.name, 'predictions.png')}" for path in pictures]
    for path, link in zip(pictures, links, strict=True):
        unfinished = (folder / link).with_suffix(".unfinished")
        with naming(folder / link):
            shutil.copyfile(path, unfinished)
            os.replace(unfinished, folder / link)
    return links


def _training_options(folder: Path) -> dict[str, Any]:
    path = folder / _OPTIONS_FILE
    return (read_flat_yaml(path) or {}) if path.is_file() else {}


def _text_of(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; save model and processor there first")
    return read_json_object(path)


def _is_hub_id(name: str) -> bool:
    return re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None and not Path(name).exists()
