"""Checkpoints from folder to folder: the original's and transformers' to ours, and ours to transformers'."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from transformers import PretrainedConfig
from transformers.utils import cached_file

from m2f.checkpoints.checkpoint_config import read_config
from m2f.configuration.configuration_m2f import LICENSE_FIELD, ORIGINAL_LICENSE, M2FConfig
from m2f.hub.dataset_settings import NO_DATASET, DatasetSettings, dataset_settings, own_names
from m2f.hub.original_config import config_kwargs_from_original
from m2f.hub.original_files import read_original_checkpoint
from m2f.hub.original_state_dict import convert_original_state_dict
from m2f.hub.transformers_models import to_transformers
from m2f.hub.weights_license import required_license
from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.modeling_m2f.checkpoint_report import CheckpointMismatchError, check_report
from m2f.modeling_m2f.file_mode import give_usual_mode
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation
from m2f.output.write_errors import naming

LIBRARIES = ("m2f", "transformers")
PROCESSOR_FILE = "preprocessor_config.json"
# The original's video models have the names and shapes of its image models and this many classes (YouTube-VIS 2019 and
# 2021); no image configuration of it has.
_VIDEO_CLASSES = 40
# What transformers' Mask2FormerImageProcessor has nothing for or reads otherwise; the rest of ours is kept beside what
# it reads, for the way back. A task or a threshold there changes nothing; a tile would promise what it cannot do.
_NOT_FOR_TRANSFORMERS = ("pad_size", "do_pad", "tile", "tile_overlap")

Loaded = tuple[M2FForUniversalSegmentation, M2FImageProcessor]
Result = TypeVar("Result")


def convert_checkpoint(
    source: str | os.PathLike,
    target: str | os.PathLike,
    to: str | None = None,
    *,
    dataset: str | None = None,
    task: str | None = None,
    own_weights: bool = False,
    dry_run: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> Path:
    """Write a checkpoint in another form: config.json, model.safetensors and preprocessor_config.json.

    Weights keep their dtype. Those of the original's published models keep their licence (`weights_license.py`).

    Args:
        source: a file of the original (.pkl, .pth, ...), or a folder or Hub id of transformers' mask2former or of m2f.
        target: a folder that does not exist or is empty; written whole or not at all.
        to: one of `LIBRARIES`; by default "transformers" for a checkpoint of m2f, "m2f" for all others.
        dataset: what it was trained on, a name of `RESOLUTION_PRESETS` or "none"; by default found out by the classes.
        task: what it was trained for, where nothing says so.
        own_weights: the weights are not, and were not trained from, those that the paper's authors published, whose
            licence is recorded otherwise.
        dry_run: read and convert, and write nothing.
        say: called with lines about what was found out.

    Raises:
        FileNotFoundError, OSError: the source cannot be found or read, the target cannot be written.
        FileExistsError: the target is not empty.
        ValueError: another architecture (unknown names are listed), a video model, or a dataset that does not fit.
    """
    target = Path(target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{target} exists and is not an empty folder; choose another target")
    if to not in (None, *LIBRARIES):
        raise ValueError(f"cannot convert to {to!r}; there are {', '.join(LIBRARIES)}")
    kind = _kind_of(source)
    model, processor = (_from_original if kind == "original" else _from_hub)(source, dataset, task, say)
    if own_weights and hasattr(model.config, LICENSE_FIELD):
        delattr(model.config, LICENSE_FIELD)
    if (license := getattr(model.config, LICENSE_FIELD, None)) is not None:
        say(f"{source}: taken as weights that the paper's authors published, or trained from them, so {license}")
    to = to or ("transformers" if kind == "m2f" else "m2f")
    written = f"{target}: a checkpoint of {to}, trained for {processor.task}"
    if dry_run:
        say(f"would write {written}")
        return target
    write = save_for_transformers if to == "transformers" else _save
    written_whole(target, lambda folder: write(model, processor, folder))
    say(written)
    return target


def written_whole(target: Path, write: Callable[[Path], None]):
    """What `write` fills a folder with is at `target`, in place of nothing or an empty folder, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as workplace:
        folder = Path(workplace) / "folder"
        try:
            with naming(folder):
                write(folder)
        except OSError as error:
            raise OSError(str(error).replace(str(folder), str(target))) from error  # which the user knows
        if target.exists():
            target.rmdir()
        shutil.move(folder, target)


def save_for_transformers(model: M2FForUniversalSegmentation, processor: M2FImageProcessor, folder: Path):
    """Save a model so that stock transformers loads it with its own `mask2former` classes and gives equal logits.

    transformers stretches images to multiples of 32 instead of padding them, and has post-processing of its own.
    """
    try:
        to_transformers(model).save_pretrained(folder)
    except SafetensorError as error:
        raise OSError(f"cannot write the weights into {folder}: {error}") from error
    for file in folder.glob("*.safetensors"):
        give_usual_mode(file)
    fields = {name: value for name, value in processor.to_dict().items() if name not in _NOT_FOR_TRANSFORMERS}
    fields["image_processor_type"] = "Mask2FormerImageProcessor"
    (folder / PROCESSOR_FILE).write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _save(model: M2FForUniversalSegmentation, processor: M2FImageProcessor, folder: Path):
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def _kind_of(source: str | os.PathLike) -> str:
    """ "original", "mask2former" or "m2f"."""
    if Path(source).is_file() or Path(source).suffix in (".pkl", ".pth"):
        return "original"
    return read_config(os.fspath(source))["model_type"]


def _from_original(source: str | os.PathLike, dataset: str | None, task: str | None, say: Callable) -> Loaded:
    original = read_original_checkpoint(source)
    weights = convert_original_state_dict(original)
    kwargs = config_kwargs_from_original(original)
    if kwargs["num_labels"] == _VIDEO_CLASSES and dataset != NO_DATASET:
        raise ValueError(
            f"{source} has {_VIDEO_CLASSES} classes, as the original's video models (YouTube-VIS), which segment "
            f"clips and cannot be converted; for an image model with as many classes give --dataset {NO_DATASET}"
        )
    settings = dataset_settings(
        kwargs["num_labels"], kwargs["backbone_config"], dataset=dataset, task=task, source=str(source), say=say
    )
    fields: dict[str, Any] = {**kwargs, **settings.config_fields(), LICENSE_FIELD: ORIGINAL_LICENSE}
    config = M2FConfig(**fields)
    model, report = M2FForUniversalSegmentation.from_pretrained(
        None, config=config, state_dict=weights, dtype="auto", output_loading_info=True
    )
    _checked(lambda: check_report(report, str(source), with_heads=False))
    return model, settings.processor()


def _from_hub(source: str | os.PathLike, dataset: str | None, task: str | None, say: Callable) -> Loaded:
    """From a folder or Hub id."""
    fields, _ = PretrainedConfig.get_config_dict(source)
    model = _checked(lambda: M2FForUniversalSegmentation.from_pretrained(source, dtype="auto"))
    config = model.config
    license = required_license(fields, str(source), fields.get("_name_or_path"))
    if license is not None:
        setattr(config, LICENSE_FIELD, license)
    settings = None
    if dataset is not None or "task" not in fields:
        backbone, names = config.backbone_config.to_dict(), own_names(config)
        settings = dataset_settings(
            config.num_labels, backbone, names=names, dataset=dataset, task=task, source=str(source), say=say
        )
        for name, value in settings.config_fields().items():
            setattr(config, name, value)
    return model, _processor(source, config, settings)


def _processor(source: str | os.PathLike, config: M2FConfig, settings: DatasetSettings | None) -> M2FImageProcessor:
    """The dataset's; of a dataset of the user's own the source's, or a new one."""
    if settings is not None and settings.preset is not None:
        return settings.processor()
    if cached_file(source, PROCESSOR_FILE, _raise_exceptions_for_missing_entries=False) is None:
        return M2FImageProcessor.from_model_config(config)
    return M2FImageProcessor.from_pretrained(source, task=config.task, thing_label_ids=config.thing_label_ids)


def _checked(load: Callable[[], Result]) -> Result:
    try:
        return load()
    except CheckpointMismatchError as error:
        raise ValueError(str(error)) from error
