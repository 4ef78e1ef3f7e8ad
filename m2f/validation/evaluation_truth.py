"""What predictions are compared with. A `Sample` holds what training needs; where the dataset's file says more, the
file decides, because the official tools read that.

coco-instance, roboflow-coco: the json's annotations, with the classes of crowd regions and the areas of polygons, both
    of which a `SegmentMap` has lost.
coco-panoptic: PNG and json, with the classes of crowd segments. PQ leaves unlabelled pixels out, and so does mIoU, for
    which a crowd is of its class; for AP unlabelled pixels are background, as in COCO's instance json of these images.
every other format: the sample's labels. Their ignored pixels, which may be a crowd or not labelled, are void for PQ
    and mIoU, and for AP a crowd of every class: Cityscapes' evaluation leaves such regions out, too.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from m2f.data.coco_instances import CocoInstances
from m2f.data.coco_panoptic import CocoPanoptic
from m2f.data.held_out_images import DatasetPart
from m2f.data.label_maps import read_channels
from m2f.data.segment_map import IGNORED, NOTHING, Sample, SegmentMap
from m2f.data.segmentation_dataset import SegmentationDataset, thing_labels
from m2f.evaluation.coco_truth import panoptic_target
from m2f.evaluation.index_maps import segment_indices
from m2f.evaluation.instance_segments import TrueInstances, rle_areas
from m2f.evaluation.mask_rle import encode_index_map


class Truth(Protocol):
    """Targets of an image for the metric of each task, and the image's id."""

    def panoptic(self, index: int, sample: Sample) -> Any: ...

    def instance(self, index: int, sample: Sample) -> Any: ...

    def semantic(self, index: int, sample: Sample) -> Any: ...

    def image_id(self, index: int) -> int | str: ...


def truth_of(dataset: SegmentationDataset) -> Truth:
    """What the dataset's format calls for."""
    if isinstance(dataset, DatasetPart):
        return PartTruth(truth_of(dataset.dataset), dataset.indices)
    if isinstance(dataset, CocoInstances):
        return CocoInstanceTruth(dataset)
    if isinstance(dataset, CocoPanoptic):
        return CocoPanopticTruth(dataset)
    return SampleTruth(dataset)


class SampleTruth:
    """The labels that the reader gives."""

    def __init__(self, dataset: SegmentationDataset):
        self.dataset = dataset

    def image_id(self, index: int) -> int | str:
        return index

    def panoptic(self, index: int, sample: Sample) -> SegmentMap | dict[str, Any]:
        return sample.segments

    def instance(self, index: int, sample: Sample) -> SegmentMap | TrueInstances:
        """Things alone; stuff is background."""
        segments = sample.segments
        is_thing = np.isin(segments.class_ids, thing_labels(self.dataset))
        numbers = np.append(np.where(is_thing, np.arange(len(is_thing)), NOTHING), [IGNORED, NOTHING])
        # -2 and -1 count from the end.
        return SegmentMap(numbers[segments.ids].astype(np.int32), segments.class_ids)

    def semantic(self, index: int, sample: Sample) -> SegmentMap:
        return sample.segments


class PartTruth:
    """Some images of another truth.

    Args:
        indices: of the images in `truth`.
    """

    def __init__(self, truth: Truth, indices: Sequence[int]):
        self.truth, self.indices = truth, indices

    def image_id(self, index: int) -> int | str:
        return self.truth.image_id(self.indices[index])

    def panoptic(self, index: int, sample: Sample) -> Any:
        return self.truth.panoptic(self.indices[index], sample)

    def instance(self, index: int, sample: Sample) -> Any:
        return self.truth.instance(self.indices[index], sample)

    def semantic(self, index: int, sample: Sample) -> Any:
        return self.truth.semantic(self.indices[index], sample)


class CocoInstanceTruth(SampleTruth):
    """The annotations of a COCO instance json."""

    dataset: CocoInstances

    def image_id(self, index: int) -> int | str:
        return self.dataset.images[index].id

    def instance(self, index: int, sample: Sample) -> TrueInstances:
        entry = self.dataset.images[index]
        annotations = self.dataset.annotations(index)
        return TrueInstances.from_annotations(annotations, (entry.height, entry.width), self.dataset.category_ids)


class CocoPanopticTruth(SampleTruth):
    """The segments of a COCO panoptic json and its PNG files."""

    dataset: CocoPanoptic

    def image_id(self, index: int) -> int | str:
        return self.dataset.images[index].id

    def panoptic(self, index: int, sample: Sample) -> dict[str, Any]:
        path = self.dataset.segments_path(index)
        assert path is not None  # the sample was read from it
        colours = read_channels(path, str(path))
        return panoptic_target(colours, self.dataset.segments_info(index), self.dataset.category_ids)

    def instance(self, index: int, sample: Sample) -> TrueInstances:
        segments, crowd = self._segments(index, sample)
        things = np.isin(segments.class_ids, thing_labels(self.dataset)).nonzero()[0]
        rles = encode_index_map(segments.ids[0], len(segments.class_ids))
        rles = [rles[position] for position in things]
        return TrueInstances(rles, segments.class_ids[things], rle_areas(rles), crowd[things], None, segments.size)

    def semantic(self, index: int, sample: Sample) -> SegmentMap:
        return self._segments(index, sample)[0]

    def _segments(self, index: int, sample: Sample) -> tuple[SegmentMap, np.ndarray]:
        """All segments, crowds among them, and (N,) which are crowds."""
        target = self.panoptic(index, sample)
        infos = target["segments_info"]
        ids = segment_indices(target["segmentation"], infos)
        ids = np.where(ids == NOTHING, IGNORED, ids).astype(np.int32)
        labels, crowd = (np.array([info[key] for info in infos], np.int64) for key in ("label_id", "iscrowd"))
        return SegmentMap(ids[None], labels), crowd.astype(bool)
