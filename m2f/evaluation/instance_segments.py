"""Predicted and true instances of one image in the form that average precision is counted from: RLEs and classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from m2f.evaluation.index_maps import layers_of, segment_indices
from m2f.evaluation.mask_rle import annotation_rle, encode_index_map, encode_masks
from m2f.image_processing.label_values import IGNORED


@dataclass(frozen=True, eq=False)
class PredictedInstances:
    """D predictions of an image.

    Args:
        rles: D compressed RLEs.
        class_ids: (D,) int64.
        scores: (D,) float64; more is better.
    """

    rles: list[dict]
    class_ids: np.ndarray
    scores: np.ndarray

    @classmethod
    def from_prediction(cls, prediction: Any) -> "PredictedInstances":
        """From any of these:

        - a mapping with `segments_info` (mappings with `label_id` and `score`) and `segmentation`, as
          `post_process_instance_segmentation` returns it: an (H, W) map of the ids in segments_info, with
          `return_binary_maps` (N, H, W) masks, or with `return_coco_annotation` N RLEs;
        - a mapping with `masks` ((N, H, W) or N RLEs), `labels` (N,) and `scores` (N,), arrays or tensors;
        - what this method returns.

        Raises:
            ValueError: none of these, the numbers of masks and labels differ, or a score is NaN.
        """
        if isinstance(prediction, cls):
            return prediction
        keys = set(prediction) if isinstance(prediction, Mapping) else set()
        if {"segmentation", "segments_info"} <= keys:
            infos, masks = prediction["segments_info"], prediction["segmentation"]
            labels, scores = ([info[key] for info in infos] for key in ("label_id", "score"))
            if getattr(masks, "ndim", 3) == 2:
                rles = encode_index_map(segment_indices(masks, infos), len(infos))
            else:
                rles = encode_masks(masks)
        elif {"masks", "labels", "scores"} <= keys:
            labels, scores = (_as_list(prediction[key]) for key in ("labels", "scores"))
            rles = encode_masks(prediction["masks"])
        else:
            raise ValueError(
                "a prediction is a mapping with segmentation and segments_info, or with masks, labels and scores, got "
                + (f"the keys {sorted(keys)}" if keys else type(prediction).__name__)
            )
        if not len(rles) == len(labels) == len(scores):
            raise ValueError(f"{len(rles)} masks, {len(labels)} labels and {len(scores)} scores; as many are needed")
        instances = cls(rles, np.array(labels, np.int64), np.array(scores, np.float64))
        if np.isnan(instances.scores).any():
            raise ValueError("a score is NaN, so the predictions have no order; check the model's outputs")
        return instances


@dataclass(frozen=True, eq=False)
class TrueInstances:
    """G objects and crowds of an image.

    Args:
        rles: G compressed RLEs.
        class_ids: (G,) int64.
        areas: (G,) float64 pixels, which decide between small, medium and large.
        crowd: (G,) bool: a region of many objects of the class, which need not be found, and in which predictions of
            the class are not wrong.
        ignored: RLE of a region that is a crowd of every class, or None.
        size: (height, width).
    """

    rles: list[dict]
    class_ids: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    ignored: dict | None
    size: tuple[int, int]

    @classmethod
    def from_target(cls, target: Any) -> "TrueInstances":
        """From an object with `ids` (G, H, W) and `class_ids` (N,) such as `SegmentMap`, or what this method returns.

        Each segment is an object of as many pixels as it has; one without a pixel is left out. Ignored pixels (-2)
        become `ignored`: a `SegmentMap` knows where crowds are, but not of what. With COCO's annotations at hand
        `from_annotations` is exact.
        """
        if isinstance(target, cls):
            return target
        ids, class_ids = layers_of(target)
        areas = np.bincount(ids[ids >= 0], minlength=len(class_ids))
        found: dict[int, dict] = {}
        for layer in ids:
            on_layer = np.unique(layer[layer >= 0])
            indices = np.searchsorted(on_layer, layer)
            indices[layer < 0] = -1
            found |= zip(on_layer.tolist(), encode_index_map(indices, len(on_layer)), strict=True)
        present = sorted(found)
        unknown = (ids == IGNORED).any(0)
        return cls(
            rles=[found[index] for index in present],
            class_ids=class_ids[present],
            areas=areas[present].astype(np.float64),
            crowd=np.zeros(len(present), bool),
            ignored=encode_masks(unknown[None])[0] if unknown.any() else None,
            size=(ids.shape[1], ids.shape[2]),
        )

    @classmethod
    def from_annotations(
        cls, annotations: Sequence[Mapping], size: Sequence[int], category_ids: Sequence[int]
    ) -> "TrueInstances":
        """From the annotations of one image in a COCO instance json, crowds and their classes included.

        Args:
            annotations: mappings with `category_id`, `segmentation`, optionally `iscrowd` and `area` (pixels of the
                mask by default; COCO's own are areas of polygons).
            size: (height, width).
            category_ids: the category of each class id.

        Raises:
            ValueError: an unknown category, or a segmentation that cannot be read.
        """
        class_of = {category: number for number, category in enumerate(category_ids)}
        for annotation in annotations:
            if annotation["category_id"] not in class_of:
                raise ValueError(f"category_id {annotation['category_id']} is not among {list(category_ids)}")
        rles = [annotation_rle(annotation["segmentation"], size) for annotation in annotations]
        return cls(
            rles=rles,
            class_ids=np.array([class_of[annotation["category_id"]] for annotation in annotations], np.int64),
            areas=np.array(
                [annotation.get("area", area) for annotation, area in zip(annotations, rle_areas(rles), strict=True)],
                np.float64,
            ),
            crowd=np.array([bool(annotation.get("iscrowd", 0)) for annotation in annotations], bool),
            ignored=None,
            size=(int(size[0]), int(size[1])),
        )


def _as_list(values: Any) -> list:
    return values.tolist() if hasattr(values, "tolist") else list(values)


def rle_areas(rles: list[dict]) -> np.ndarray:
    """(N,) float64 pixels."""
    from pycocotools import mask as coco_mask

    # One by one: pycocotools 2.0.11 puts their number into 8 bits.
    return np.array([coco_mask.area(rle) for rle in rles], np.float64)
