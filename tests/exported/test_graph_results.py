"""Finished results in a graph are those of the image processor."""

import math
from types import SimpleNamespace

import pytest
import torch

from m2f.exported.graph_results import best_instances, panoptic_map, semantic_labels
from m2f.image_processing.image_processing_m2f import M2FImageProcessor

LABELS, QUERIES, CANVAS = 4, 12, (64, 96)
SIZES = torch.tensor([[64, 96], [50, 70]])


@pytest.fixture(scope="module")
def outputs():
    """Smooth random masks, which overlap, of sure and unsure classes; the second image's are stripes of one class."""
    torch.manual_seed(0)
    masks = torch.nn.functional.interpolate(torch.randn(2, QUERIES, 4, 6) * 8, size=(16, 24), mode="bicubic")
    classes = torch.randn(2, QUERIES, LABELS + 1) * 4
    classes[1, :, 2] += 6
    stripe = torch.arange(24) // 2 == torch.arange(QUERIES)[:, None]
    masks[1] = torch.where(stripe[:, None], 6.0, -6.0)
    return SimpleNamespace(class_queries_logits=classes, masks_queries_logits=masks, valid_sizes=SIZES)


def inside():
    rows, columns = (torch.arange(length) < SIZES[:, i, None] for i, length in enumerate(CANVAS))
    return rows[:, :, None] & columns[:, None]


def logits(outputs):
    return outputs.class_queries_logits, outputs.masks_queries_logits


def test_semantic(outputs):
    processor = M2FImageProcessor(task="semantic")
    (found,) = semantic_labels(*logits(outputs), CANVAS)
    for labels, wanted in zip(found, processor.post_process_semantic_segmentation(outputs), strict=True):
        assert (labels[: wanted.shape[0], : wanted.shape[1]] == wanted).all()


@pytest.mark.parametrize("things", [[0, 1, 2, 3], [1, 3]])
def test_instances(outputs, things):
    processor = M2FImageProcessor(task="panoptic", thing_label_ids=things)
    scores, labels, masks = best_instances(*logits(outputs), inside(), CANVAS, things, 0.5, 30)
    results = processor.post_process_instance_segmentation(outputs, threshold=0.3, return_binary_maps=True, top_k=30)
    assert [len(result["segments_info"]) for result in results] == (scores >= 0.3).sum(1).tolist()
    for i, result in enumerate(results):
        count = len(result["segments_info"])
        assert count
        assert labels[i, :count].tolist() == [info["label_id"] for info in result["segments_info"]]
        torch.testing.assert_close(scores[i, :count], torch.tensor([x["score"] for x in result["segments_info"]]))
        height, width = result["segmentation"].shape[1:]
        assert (masks[i, :count, :height, :width] == result["segmentation"]).float().mean() > 0.9999
        assert not masks[i, :, height:].any() and not masks[i, :, :, width:].any()


@pytest.mark.parametrize("things", [[0, 1, 2, 3], [1, 3], []])
@pytest.mark.parametrize("threshold", [0.3, 0.8, 1.0])
def test_panoptic(outputs, things, threshold):
    processor = M2FImageProcessor(task="panoptic", thing_label_ids=things)
    fused = set(range(LABELS)) - set(things)
    ids, segment_ids, labels, scores = panoptic_map(*logits(outputs), inside(), CANVAS, fused, threshold, 0.5, 0.8)
    results = processor.post_process_panoptic_segmentation(outputs, threshold, label_ids_to_fuse=fused)
    for i, result in enumerate(results):
        height, width = result["segmentation"].shape
        assert (ids[i, :height, :width] == result["segmentation"]).float().mean() > 0.9999
        assert not ids[i, height:].any() and not ids[i, :, width:].any()
        own = segment_ids[i] > 0
        found = zip(segment_ids[i][own].tolist(), labels[i][own].tolist(), scores[i][own].tolist(), strict=True)
        wanted = [(info["id"], info["label_id"], pytest.approx(info["score"])) for info in result["segments_info"]]
        assert sorted(found) == wanted
    if threshold == 1.0:
        assert not ids.any()
    elif things == [1, 3]:
        assert any(info["was_fused"] for result in results for info in result["segments_info"])


def test_panoptic_counts_no_pixel_outside_and_keeps_the_best_score_of_a_label():
    """Columns of a quarter of the size: the image has 17.5 of 24. Query 0 has ten of them, of which query 1 wins five,
    and more beyond the image; queries 2 and 3 are one segment."""
    masks, classes = torch.full((1, 4, 16, 24), -8.0), torch.zeros(1, 4, LABELS + 1)
    for query, (label, score, first, end) in enumerate(
        [(1, 0.9, 8, 24), (1, 0.99, 8, 13), (0, 0.85, 0, 4), (0, 0.97, 4, 8)]
    ):
        masks[0, query, :, first:end] = 8
        classes[0, query, label] = math.log(LABELS * score / (1 - score))
    outputs = SimpleNamespace(class_queries_logits=classes, masks_queries_logits=masks, valid_sizes=SIZES[1:])
    processor = M2FImageProcessor(task="panoptic", thing_label_ids=[1, 2, 3])
    arguments = (*logits(outputs), inside()[1:], CANVAS, {0}, 0.8, 0.5, 0.8)
    ids, segment_ids, labels, scores = (x[0] for x in panoptic_map(*arguments))
    (result,) = processor.post_process_panoptic_segmentation(outputs, 0.8, label_ids_to_fuse={0})
    assert [(x["label_id"], x["score"]) for x in result["segments_info"]] == [
        (1, pytest.approx(0.99)),
        (0, pytest.approx(0.97)),
    ]
    assert (ids[:50, :70] == result["segmentation"]).float().mean() > 0.999
    assert segment_ids.tolist() == [0, 1, 2, 0]
    assert scores[1:3].tolist() == [pytest.approx(0.99), pytest.approx(0.97)]
