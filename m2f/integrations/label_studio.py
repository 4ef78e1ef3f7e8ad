"""A backend for Label Studio (https://labelstud.io/guide/ml_create): it annotates tasks as they are opened.

Its server is a file with the lines that docs/integrations.md shows. Releases 2 of label-studio-ml, which are in its
repository only, are served, and 1.
"""

import inspect
from functools import cache
from typing import Any, cast

from m2f.inference.segmentation_result import SegmentationResult
from m2f.inference.segmenter import Segmenter
from m2f.output.safe_text import xml_text
from m2f.output_formats.label_studio_format import MODEL_VERSION
from m2f.output_formats.mask_outlines import DEFAULT_TOLERANCE, check_tolerance

_KINDS = ("BrushLabels", "PolygonLabels")


def backend(
    checkpoint: str | None = None,
    task: str | None = None,
    device: str | None = None,
    tolerance: float = DEFAULT_TOLERANCE,
    version: str | None = None,
    **settings: Any,
) -> type:
    """A subclass of `LabelStudioMLBase` that predicts with a checkpoint, which is loaded with the first task.

    The labelling interface says where results go: to its first BrushLabels, as masks, or PolygonLabels. Objects whose
    class is none of its labels are left out.

    Args:
        checkpoint, task, device, settings: see `Segmenter.from_pretrained`.
        tolerance: of polygons, in pixels.
        version: the predictions' "model_version", by default "m2f" and the checkpoint's name. Label Studio asks for no
            task again that has a prediction of the version.

    Raises:
        ImportError: label-studio-ml is not installed.
        ValueError: a tolerance below 0.
    """
    from label_studio_ml.model import LabelStudioMLBase

    check_tolerance(tolerance)
    model_version = version or (f"{MODEL_VERSION} {checkpoint}" if checkpoint else MODEL_VERSION)

    @cache
    def segmenter() -> Segmenter:
        return Segmenter.from_pretrained(checkpoint, task, device, **settings)

    class M2FBackend(LabelStudioMLBase):
        def setup(self):
            """Release 2 calls it: the backend is of the version that its predictions name."""
            self.set("model_version", model_version)

        def predict(self, tasks: list[dict], context: dict | None = None, **kwargs: Any) -> list[dict]:
            """The prediction of each task."""
            control = _control(self.parsed_label_config)
            images = [self._image(entry, control["value"]) for entry in tasks]
            results = cast(list[SegmentationResult], segmenter()(images))
            predictions = (_prediction(result, control, tolerance) for result in results)
            return [{**prediction, "model_version": model_version} for prediction in predictions]

        def _image(self, entry: dict, value: str) -> str:
            takes_task = "task_id" in inspect.signature(self.get_local_path).parameters
            more = {"task_id": entry.get("id")} if takes_task else {}
            return self.get_local_path(entry["data"][value], **more)

    return M2FBackend


def _control(config: dict[str, Any]) -> dict[str, Any]:
    """Of the first tag that takes masks or polygons: its kind and name, those of its image, and its labels.

    Raises:
        ValueError: there is none.
    """
    for name, tag in config.items():
        if tag["type"] in _KINDS:
            source = {"to_name": tag["to_name"][0], "value": tag["inputs"][0]["value"], "labels": set(tag["labels"])}
            return {"from_name": name, "kind": tag["type"], **source}
    raise ValueError(f"the labelling interface has no {' or '.join(_KINDS)}; add one, see docs/integrations.md")


def _prediction(result: SegmentationResult, control: dict[str, Any], tolerance: float) -> dict[str, Any]:
    kept = [segment for segment in result.segments if xml_text(segment.label) in control["labels"]]
    known = SegmentationResult(result.image, result.task, kept, result.id2label, result.name)
    chosen = None if control["kind"] == "BrushLabels" else tolerance
    return known.to_label_studio(chosen, control["from_name"], control["to_name"])
