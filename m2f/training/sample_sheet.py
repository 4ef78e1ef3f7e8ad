"""A picture of what the model predicts: some images of the evaluation with their true and their predicted segments."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from transformers.modeling_outputs import ModelOutput

from m2f.data.sample_geometry import resize
from m2f.data.segment_map import Sample
from m2f.data.segment_overlay import distinct_colours, draw_segment_map, draw_segments, side_by_side
from m2f.data.segmentation_dataset import SegmentationDataset, thing_labels
from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.output.write_errors import naming

_LONGEST_EDGE = 512  # pixels of an image on the sheet


class SampleSheet:
    """Collects images with `observe` and draws some of them, a row each.

    Args:
        processor: post-processes the outputs.
        dataset: what the images are of.
        limit: rows.
        total: images that will be observed. Every so-manieth is drawn, because neighbours are often alike.
    """

    def __init__(self, processor: M2FImageProcessor, dataset: SegmentationDataset, limit: int, total: int):
        self.processor = processor
        self.task = dataset.task
        self.limit = limit
        self.stride = max(1, total // max(1, limit))
        self.seen = 0
        self.rows: list[Image.Image] = []
        self.stuff = _stuff_labels(dataset)

    def observe(self, sample: Sample, outputs: ModelOutput):
        """Adds an image, or passes it over; `outputs` are those for it alone."""
        self.seen += 1
        if len(self.rows) >= self.limit or (self.seen - 1) % self.stride:
            return
        sample = resize(sample, _shrunk(sample.segments.size))
        found = self._segments(outputs, sample.segments.size)
        truth, count = self._truth(sample), len(sample.segments.class_ids)
        predicted = draw_segments(sample.image, **found, stuff_label_ids=self.stuff)
        self.rows.append(
            side_by_side(
                [
                    (sample.name, sample.image),
                    (f"truth: {count} segments", truth),
                    (f"predicted: {len(found['segments_info'])}", predicted),
                ]
            )
        )

    def save(self, path: Path):
        """Writes the sheet; without an image there is none.

        Raises:
            OSError: it cannot be written.
        """
        if not self.rows:
            return
        width, height = max(row.width for row in self.rows), sum(row.height for row in self.rows)
        sheet, top = Image.new("RGB", (width, height), "white"), 0
        for row in self.rows:
            sheet.paste(row, (0, top))
            top += row.height
        path.parent.mkdir(parents=True, exist_ok=True)
        with naming(path):
            sheet.save(path)

    def _segments(self, outputs: ModelOutput, size: tuple[int, int]) -> dict[str, Any]:
        if self.task == "instance":
            (found,) = self.processor.post_process_instance_segmentation(outputs, target_sizes=[size])
        else:  # for the task "semantic" this is the semantic map, a segment for each class
            (found,) = self.processor.post_process_panoptic_segmentation(outputs, target_sizes=[size])
        return {"segmentation": found["segmentation"].cpu().numpy(), "segments_info": found["segments_info"]}

    def _truth(self, sample: Sample) -> Image.Image:
        """In the colours of `draw_segments`: stuff by class, things one by one."""
        class_ids = sample.segments.class_ids
        colours = distinct_colours(len(self.stuff) + len(class_ids))[len(self.stuff) :]
        by_class = dict(zip(self.stuff, distinct_colours(len(self.stuff)), strict=True))
        for colour, label in zip(colours, class_ids.tolist(), strict=True):
            colour[:] = by_class.get(label, colour)
        return draw_segment_map(sample.image, sample.segments.ids, colours)


def _stuff_labels(dataset: SegmentationDataset) -> list[int]:
    if dataset.task == "semantic":
        return sorted(dataset.id2label)
    return sorted(set(dataset.id2label) - set(thing_labels(dataset)))


def _shrunk(size: tuple[int, int]) -> tuple[int, int]:
    scale = min(1.0, _LONGEST_EDGE / max(size))
    height, width = (max(1, int(np.rint(length * scale))) for length in size)
    return height, width
