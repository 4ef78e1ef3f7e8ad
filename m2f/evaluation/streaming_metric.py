"""What all metrics share: images are counted one at a time, and the counts of several processes are put together."""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.utils import logging

logger = logging.get_logger(__name__)


class StreamingMetric(ABC):
    """Keeps one small record of numbers for each image, by the image's id, and no mask.

    An image counts once, however often and on however many processes it was processed: data loaders repeat images to
    fill the last batch. The first time counts.

    Args:
        id2label: name of each class, with the keys 0 to K-1.

    Raises:
        ValueError: other keys.
    """

    def __init__(self, id2label: Mapping[int, str]):
        labels = {int(label): name for label, name in id2label.items()}
        if not labels or sorted(labels) != list(range(len(labels))):
            raise ValueError(
                f"id2label must have the keys 0 to {max(len(labels) - 1, 0)}, one for each class, got {sorted(labels)}"
            )
        self.id2label = dict(sorted(labels.items()))
        self.reset()

    @property
    def num_labels(self) -> int:
        """K."""
        return len(self.id2label)

    def __len__(self) -> int:
        """Images processed here, those of other processes not included."""
        return len(self._records)

    def reset(self):
        """Forget all images."""
        self._records: dict[Hashable, Any] = {}
        self._table: list[dict[str, Any]] | None = None

    def process(self, predictions: Sequence, targets: Sequence, image_ids: Sequence[Hashable] | None = None):
        """Count some images. What a prediction and a target are, each metric's class says.

        Args:
            predictions: one for each image.
            targets: one for each image.
            image_ids: a name or number for each image, the same on every process. Without it every image is taken for
                another one, and results of several processes cannot be merged.

        Raises:
            ValueError: the sequences differ in length, or an image does not fit; images before it are counted.
        """
        if isinstance(predictions, Mapping) or isinstance(targets, Mapping):
            raise ValueError("predictions and targets are sequences with an entry for each image, got a mapping")
        if image_ids is None:
            image_ids = [_Unnamed(len(self._records) + number) for number in range(len(predictions))]
        if not len(predictions) == len(targets) == len(image_ids):
            raise ValueError(
                f"{len(predictions)} predictions, {len(targets)} targets and {len(image_ids)} image ids; "
                "as many of each are needed"
            )
        for prediction, target, image_id in zip(predictions, targets, image_ids, strict=True):
            if image_id in self._records:
                logger.warning_once(f"Image {image_id!r} was processed before and counts once. Do image ids repeat?")
                continue
            try:
                self._records[image_id] = self._count(prediction, target)
            except ValueError as error:
                raise ValueError(f"image {image_id!r}: {error}") from error

    def state(self) -> dict[str, Any]:
        """What this process has counted, for `merge` elsewhere: picklable, mostly below 10 kB for an image."""
        return {"metric": type(self).__name__, "settings": self._settings(), "images": dict(self._records)}

    def merge(self, states: Iterable[Mapping[str, Any]]):
        """Add what other processes have counted. Of an image that several have, the first one's record stays.

        Raises:
            ValueError: a state of another metric or of other settings, or of images without ids.
        """
        self._records = self._merged([self.state(), *states])

    def evaluate(self) -> dict[str, float]:
        """All numbers, over the images of all processes. Under `torch.distributed` every process has to call it; each
        gets the same result.

        Raises:
            ValueError: no image was processed; with several processes, images without ids.
        """
        records = self._completed(self._merged(_gather(self.state())))
        if not records:
            raise ValueError("no image was processed, so there is nothing to evaluate; call process() first")
        # In the order of the ids, so that ties and sums do not depend on which process had which image.
        ordered = [records[image_id] for image_id in sorted(records, key=_order)]
        results, self._table = self._summarize(ordered)
        return results

    def per_class_table(self) -> list[dict[str, Any]]:
        """A row for each class, in the order of the class ids, as of the last `evaluate`: "class_id", "name" and the
        metric's numbers, NaN where a number is not defined.

        Raises:
            ValueError: `evaluate` was not called.
        """
        if self._table is None:
            raise ValueError("the table belongs to a result; call evaluate() first")
        return self._table

    @abstractmethod
    def _count(self, prediction: Any, target: Any) -> Any:
        """The record of one image: picklable, small."""

    @abstractmethod
    def _summarize(self, records: list) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """Results and per-class table from the records of all images."""

    def _settings(self) -> dict[str, Any]:
        """What must be equal for records to go together."""
        return {"id2label": self.id2label}

    def _completed(self, records: dict[Hashable, Any]) -> dict[Hashable, Any]:
        """Records of all processes, and of images that count although nobody processed them."""
        return records

    def _merged(self, states: Sequence[Mapping[str, Any]]) -> dict[Hashable, Any]:
        expected = (type(self).__name__, self._settings())
        merged: dict[Hashable, Any] = {}
        for state in states:
            if (state["metric"], state["settings"]) != expected:
                raise ValueError(
                    f"cannot merge {state['metric']} with settings {state['settings']} into {expected[0]} with "
                    f"settings {expected[1]}; make the metric with the same arguments on every process"
                )
            for image_id, record in state["images"].items():
                merged.setdefault(image_id, record)
        filled = sum(bool(state["images"]) for state in states)
        if filled > 1 and any(isinstance(image_id, _Unnamed) for image_id in merged):
            raise ValueError(
                "images without ids cannot be merged, because an image that two processes have would count twice; "
                "give image_ids to process()"
            )
        return merged

    def _check_labels(self, label_ids: Iterable[int]):
        for label_id in label_ids:
            if not 0 <= label_id < self.num_labels:
                raise ValueError(f"label_id {label_id} is not among the {self.num_labels} classes of id2label")

    def _named_rows(self, columns: Mapping[str, Sequence]) -> list[dict[str, Any]]:
        """Rows of the table from columns of K numbers."""
        return [
            {"class_id": label, "name": name, **{key: column[label] for key, column in columns.items()}}
            for label, name in self.id2label.items()
        ]


@dataclass(frozen=True, order=True)
class _Unnamed:
    """An image that has no id; of a type of its own, so that it is no caller's id 0, 1, ..."""

    number: int


def _order(image_id: Hashable) -> tuple:
    return (type(image_id).__name__, image_id)


def _gather(state: dict[str, Any]) -> list[dict[str, Any]]:
    """The states of all processes in the order of their ranks; just this one without a process group."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return [state]
    states: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(states, state)
    return states
