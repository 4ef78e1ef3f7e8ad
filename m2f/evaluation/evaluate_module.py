"""What the modules for Hugging Face's `evaluate` (m2f/evaluation/metrics) share."""

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

from m2f.evaluation.streaming_metric import StreamingMetric


def metric_folder(name: str) -> str:
    """The folder of a metric, in a checkout and where m2f is installed:
    `evaluate.load(metric_folder("m2f_panoptic_quality"), id2label=model.config.id2label)`.

    Raises:
        ValueError: no such metric.
    """
    folder = Path(__file__).parent / "metrics"
    if not (folder / name / f"{name}.py").is_file():
        known = sorted(path.stem for path in folder.glob("*/*.py") if path.stem == path.parent.name)
        raise ValueError(f"no metric {name!r}; there are {', '.join(known)}")
    return str(folder / name)


class StreamingModule:
    """The methods of `evaluate.Metric` on a `StreamingMetric`, its attribute `metric`.

    Departure from `evaluate`, which writes all predictions and references to a file until `compute`: images are
    counted when they are added, and only the counts are kept, so that masks are never stored. Several processes are
    merged through `torch.distributed`, not by `num_process`.
    """

    # No super() in these methods: evaluate copies the functions, without the cell that super() needs.
    metric: StreamingMetric

    def add(self, *, prediction: Any = None, reference: Any = None, image_id: Hashable | None = None, **plural: Any):
        """Count one image."""
        # evaluate.combine passes one image under the names of many.
        prediction, reference = plural.get("predictions", prediction), plural.get("references", reference)
        self.metric.process([prediction], [reference], None if image_id is None else [image_id])

    def add_batch(
        self, *, predictions: Sequence, references: Sequence, image_ids: Sequence[Hashable] | None = None
    ) -> None:
        """Count some images."""
        self.metric.process(predictions, references, image_ids)

    def compute(
        self,
        *,
        predictions: Sequence | None = None,
        references: Sequence | None = None,
        image_ids: Sequence[Hashable] | None = None,
    ) -> dict[str, float]:
        """The numbers by name, of the images given here and those added before; then all are forgotten."""
        if predictions is not None:
            self.metric.process(predictions, [] if references is None else references, image_ids)
        results = self.metric.evaluate()
        self.metric.reset()
        return results
