"""Ground truth from COCO's files (https://cocodataset.org/#format-data), as exact as the metrics take it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from m2f.evaluation.instance_segments import PredictedInstances, TrueInstances


class CocoTruth:
    """The annotations of a COCO instance json, image by image; classes are its categories in ascending order of their
    ids, numbered from 0.

    Attributes:
        category_ids: the category of each class.
        id2label: the name of each class.
        image_ids: all images, in the order of the file.

    Args:
        annotation_file: json with "images", "categories" and "annotations".
        content: what is in it, where that is known already.

    Raises:
        FileNotFoundError: no such file.
        ValueError: one of the three lists is missing.
    """

    def __init__(self, annotation_file: str | Path, content: Mapping[str, Any] | None = None):
        self.annotation_file = Path(annotation_file)
        if content is None:
            content = json.loads(self.annotation_file.read_text(encoding="utf-8"))
        missing = [key for key in ("images", "categories", "annotations") if not isinstance(content.get(key), list)]
        if missing:
            raise ValueError(f"{annotation_file} has no list {missing[0]!r}, which a COCO instance json has")
        names = {category["id"]: category["name"] for category in content["categories"]}
        self.category_ids = sorted(names)
        self.id2label = {label: names[category] for label, category in enumerate(self.category_ids)}
        self._sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
        self.image_ids = list(self._sizes)
        self._annotations: dict[int | str, list[dict]] = {image_id: [] for image_id in self.image_ids}
        for annotation in content["annotations"]:
            self._annotations_of(annotation["image_id"]).append(annotation)

    def target(self, image_id: int | str) -> TrueInstances:
        """Objects and crowds of an image, for `InstanceAveragePrecision`.

        Raises:
            ValueError: the image is not in the file, or an annotation cannot be read.
        """
        annotations = self._annotations_of(image_id)
        return TrueInstances.from_annotations(annotations, self._sizes[image_id], self.category_ids)

    def results(self, image_id: int, prediction: Any) -> list[dict]:
        """The predictions of an image as COCO's results json has them: dicts of image_id, category_id, segmentation
        (compressed RLE) and score. What a prediction may be: see `PredictedInstances.from_prediction`.

        Raises:
            ValueError: a label without a category.
        """
        predicted = PredictedInstances.from_prediction(prediction)
        labels, scores = predicted.class_ids.tolist(), predicted.scores.tolist()
        for label in labels:
            if not 0 <= label < len(self.category_ids):
                known = f"{self.annotation_file} has {len(self.category_ids)}"
                raise ValueError(f"label_id {label} has no category; {known}")
        return [
            {"image_id": image_id, "category_id": self.category_ids[label], "segmentation": rle, "score": score}
            for label, score, rle in zip(labels, scores, predicted.rles, strict=True)
        ]

    def _annotations_of(self, image_id: int | str) -> list[dict]:
        if image_id not in self._annotations:
            raise ValueError(
                f"image_id {image_id} is not in {self.annotation_file}, which has {len(self.image_ids)} images"
            )
        return self._annotations[image_id]


def panoptic_target(colours: np.ndarray, segments_info: Sequence[Mapping], category_ids: Sequence[int | str]) -> dict:
    """An image of a COCO panoptic data set as `PanopticQuality` takes it, crowds included.

    Args:
        colours: (H, W, 3) uint8, the PNG file; a segment's id is red + 256 green + 256^2 blue, void is 0.
        segments_info: of the image's entry in the json, mappings with id, category_id and optionally iscrowd.
        category_ids: the category of each class id.

    Raises:
        ValueError: another shape, or a category that is not among category_ids.
    """
    if colours.ndim != 3 or colours.shape[2] != 3:
        raise ValueError(f"the segment colours are of shape {colours.shape}; (H, W, 3) is needed")
    class_of = {category: label for label, category in enumerate(category_ids)}
    unknown = [info["category_id"] for info in segments_info if info["category_id"] not in class_of]
    if unknown:
        raise ValueError(f"category_id {unknown[0]} is not among {list(category_ids)}")
    return {
        "segmentation": colours.astype(np.int64) @ np.array([1, 256, 256**2]),
        "segments_info": [
            {"id": info["id"], "label_id": class_of[info["category_id"]], "iscrowd": info.get("iscrowd", 0)}
            for info in segments_info
        ],
    }
