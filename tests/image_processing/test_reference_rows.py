"""One test for each way in which transformers' post-processing departs from the original.

The numbers are those of the list of differences that CONTRIBUTING explains. Masks are blocks of columns: 8 x 8 logits
are 32 x 32 pixels, so column c of the logits is the pixels 4c..4c+3, and a border lies exactly between two pixels.
"""

import numpy as np
import pytest
import torch
from post_processing_reference import bilinear, class_logits_for, make_outputs, sigmoid

from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.image_processing.instance_masks import encode_coco_rle
from m2f.image_processing.post_processing import MaskGeometry, panoptic_segments

PROCESSOR = M2FImageProcessor(thing_label_ids=[0, 1, 2], size={"shortest_edge": 32})
LABELS = 6


def blocks(*spans: tuple[int, int], width: int = 8, logit: float = 12.0) -> np.ndarray:
    masks = np.full((len(spans), 8, width), -logit)
    for mask, (start, stop) in zip(masks, spans, strict=True):
        mask[:, start:stop] = logit
    return masks


def outputs_of(pairs, masks, valid=None):
    return make_outputs(class_logits_for(pairs, LABELS), masks, valid)


def pixel_row(result) -> list[int]:
    return result["segmentation"][0].tolist()


def areas(result) -> dict[int, int]:
    """Width in pixels of each segment."""
    ids, counts = np.unique(result["segmentation"][0].numpy(), return_counts=True)
    return dict(zip(ids.tolist(), counts.tolist(), strict=True))


def test_reference_row_01_masks_are_resized_to_the_padded_size_not_to_384():
    # 128 stripes on 1024 pixels, 4 on and 4 off: transformers' 384 columns cannot hold them and their size is returned
    masks = np.full((1, 8, 256), -12.0)
    masks[:, :, ::2] = 12.0
    outputs = outputs_of([(0, 0.9)], masks)
    result = PROCESSOR.post_process_instance_segmentation(outputs, return_binary_maps=True)[0]["segmentation"]
    assert result.shape == (1, 32, 1024)
    assert result[0, 0].int().diff().eq(1).sum() == 127  # all but the stripe at the left edge start inside
    assert result[0, 0].sum() == 512
    assert PROCESSOR.post_process_panoptic_segmentation(outputs)[0]["segmentation"].shape == (32, 1024)
    assert PROCESSOR.post_process_semantic_segmentation(outputs)[0].shape == (32, 1024)


@pytest.mark.parametrize("valid", [(32, 20), None])
def test_reference_row_02_padding_is_cropped(valid):
    # valid are columns 0..19; query 1 lives in the padding alone. The image file is 64 x 40.
    outputs = outputs_of([(0, 0.9), (1, 0.9)], blocks((0, 5), (5, 8)), valid)
    processor = M2FImageProcessor(thing_label_ids=[0, 1, 2], size={"shortest_edge": 20})
    result = processor.post_process_panoptic_segmentation(outputs, target_sizes=[(64, 40)])[0]
    assert areas(result) == {1: 40} and len(result["segments_info"]) == 1
    assert processor.post_process_semantic_segmentation(outputs, [(64, 40)])[0].unique().tolist() == [0]
    instances = processor.post_process_instance_segmentation(outputs, target_sizes=[(64, 40)])[0]
    assert areas(instances) == {0: 40}


def test_reference_row_05_pixels_below_the_mask_threshold_are_void():
    # one kept object on a quarter of the image; transformers paints all of it
    result = PROCESSOR.post_process_panoptic_segmentation(outputs_of([(0, 0.9)], blocks((0, 2))))[0]
    assert pixel_row(result) == [1] * 8 + [0] * 24


def flat(*rows: list[float]) -> torch.Tensor:
    """(Q,1,W) logits of the given probabilities, for a geometry that resizes nothing."""
    probs = torch.tensor(rows, dtype=torch.float64)
    return probs.logit().float()[:, None]


def merge(pairs, masks, threshold=0.0, overlap=0.8, fused=()):
    size = tuple(masks.shape[1:])
    logits = torch.tensor(class_logits_for(pairs, LABELS), dtype=torch.float32)
    return panoptic_segments(logits, masks, MaskGeometry(size, size, size), threshold, 0.5, overlap, fused)


def test_reference_row_06_overlap_rule_uses_unweighted_probabilities():
    # A's mask (probability >= 0.5) has 10 pixels, of which it wins 7: 0.7 < 0.8, dropped. Weighted by its score of 0.9
    # the last three fall to 0.47, so that transformers counts 7 of 7.
    masks = flat([0.99] * 7 + [0.52] * 3, [0.01] * 7 + [0.9] * 3)
    ids, segments = merge([(0, 0.9), (1, 0.95)], masks)
    assert ids.tolist() == [[0] * 7 + [1] * 3]
    assert [(item["id"], item["label_id"]) for item in segments] == [(1, 1)]


def test_reference_row_06_overlap_rule_is_inclusive():
    # A wins 8 of its 10 pixels: exactly 0.8 stays, 7 of 10 goes
    for won, expected in ((8, [0, 1]), (7, [1])):
        masks = flat([0.9] * 10, [0.01] * won + [0.99] * (10 - won))
        assert [item["label_id"] for item in merge([(0, 0.9), (1, 0.95)], masks)[1]] == expected


def test_reference_row_06_pixels_won_outside_the_mask_count_as_won():
    # A's mask is 10 pixels and B wins 3 of them, but A also wins 5 pixels outside its mask: (7 + 5) / 10
    masks = flat([0.9] * 10 + [0.3] * 5, [0.01] * 7 + [0.99] * 3 + [0.01] * 5)
    ids, segments = merge([(0, 0.9), (1, 0.95)], masks)
    assert ids.tolist() == [[1] * 7 + [2] * 3 + [0] * 5] and len(segments) == 2


def test_query_without_a_visible_pixel_is_no_segment():
    # A wins 8 pixels, all below the mask threshold, and loses its mask of 2 pixels: nothing of it would be painted
    masks = flat([0.6] * 2 + [0.3] * 8, [0.9] * 2 + [0.01] * 8)
    ids, segments = merge([(0, 0.9), (1, 0.9)], masks)
    assert ids.tolist() == [[1] * 2 + [0] * 8] and [item["label_id"] for item in segments] == [1]


@pytest.mark.parametrize(("scores", "threshold"), [((0.45, 0.49), 0.4), ((0.6, 0.9), 0.4)])
def test_reference_row_07_scores_do_not_lower_the_masks(scores, threshold):
    # transformers asks for score * probability >= 0.5: no query with a score below 0.5 survives, nor 0.6 * 0.77
    masks = flat([0.77] * 5 + [0.01] * 5, [0.01] * 5 + [0.998] * 5)
    ids, segments = merge(list(zip((0, 1), scores, strict=True)), masks, threshold)
    assert ids.tolist() == [[1] * 5 + [2] * 5]
    assert [item["score"] for item in segments] == pytest.approx(scores, abs=1e-6)


def test_reference_row_08_fused_stuff_reuses_no_id_and_adds_no_entry():
    # sky, person A, person B, sky, person C: transformers gives the ids 1, 2, 3, 1, 2; the original 1, 2, 3, (1,) 4
    pairs = [(4, 0.9), (0, 0.9), (0, 0.9), (4, 0.9), (0, 0.9)]
    outputs = outputs_of(pairs, blocks((0, 2), (2, 3), (3, 4), (4, 6), (6, 8)))
    result = PROCESSOR.post_process_panoptic_segmentation(outputs)[0]
    assert pixel_row(result) == [1] * 8 + [2] * 4 + [3] * 4 + [1] * 8 + [4] * 8
    assert [(item["id"], item["label_id"], item["was_fused"]) for item in result["segments_info"]] == [
        (1, 4, True),
        (2, 0, False),
        (3, 0, False),
        (4, 0, False),
    ]


def test_reference_row_09_stuff_is_fused_unasked():
    outputs = outputs_of([(4, 0.9), (4, 0.9), (0, 0.9), (0, 0.9)], blocks((0, 2), (2, 4), (4, 6), (6, 8)))
    result = PROCESSOR.post_process_panoptic_segmentation(outputs)[0]
    assert areas(result) == {1: 16, 2: 8, 3: 8}


def test_reference_row_10_default_thresholds_are_the_originals():
    # score 0.8; overlap 0.8: query 2 keeps 12 of 16 columns (0.75) and is dropped
    scores = [(0, 0.79), (1, 0.9), (2, 0.81)]
    outputs = outputs_of(scores, blocks((0, 3), (3, 5), (4, 8)))
    result = PROCESSOR.post_process_panoptic_segmentation(outputs)[0]
    assert [item["label_id"] for item in result["segments_info"]] == [1]
    result = PROCESSOR.post_process_panoptic_segmentation(outputs, overlap_mask_area_threshold=0.74)[0]
    assert [item["label_id"] for item in result["segments_info"]] == [1, 2]
    mapillary = M2FImageProcessor.from_preset("mapillary-vistas-panoptic", thing_label_ids=[0, 1, 2])
    result = mapillary.post_process_panoptic_segmentation(outputs)[0]
    assert [item["label_id"] for item in result["segments_info"]] == [0, 1]


def test_reference_row_11_logits_are_resized_before_the_sigmoid_and_the_sign():
    # Between logits of -1 and 3 lie -0.5, 0.5, 1.5, 2.5 (quarter steps): the mask starts at pixel 3, one pixel before
    # the border of the two logits, where a binary mask resized with nearest neighbours starts.
    masks = np.full((1, 8, 8), -1.0)
    masks[:, :, 1:] = 3.0
    outputs = outputs_of([(0, 0.9)], masks)
    assert pixel_row(PROCESSOR.post_process_instance_segmentation(outputs)[0]) == [-1] * 3 + [0] * 29
    assert pixel_row(PROCESSOR.post_process_panoptic_segmentation(outputs)[0]) == [0] * 3 + [1] * 29
    scores = PROCESSOR.post_process_semantic_segmentation(outputs, None, True)[0].segmentation_scores[0]
    np.testing.assert_allclose(scores.numpy(), 0.9 * sigmoid(bilinear(masks, (32, 32)))[0], atol=1e-6)


def test_reference_row_12_the_higher_score_lies_on_top_and_the_hidden_is_dropped():
    # columns 0..4 with 0.92 hide 3 of the 5 columns of 2..7 with 0.6, and all of 1..3 with 0.7
    outputs = outputs_of([(0, 0.6), (1, 0.92), (2, 0.7)], blocks((2, 7), (0, 5), (1, 3)))
    result = PROCESSOR.post_process_instance_segmentation(outputs, overlap_mask_area_threshold=0.3)[0]
    assert pixel_row(result) == [0] * 20 + [1] * 8 + [-1] * 4
    assert [(item["id"], item["label_id"]) for item in result["segments_info"]] == [(0, 1), (1, 0)]
    # at the default of 0.8 the partly hidden one (0.4 visible) goes too
    result = PROCESSOR.post_process_instance_segmentation(outputs)[0]
    assert pixel_row(result) == [0] * 20 + [-1] * 12
    # the binary maps keep everything, best first
    result = PROCESSOR.post_process_instance_segmentation(outputs, return_binary_maps=True)[0]
    assert [item["label_id"] for item in result["segments_info"]] == [1, 2, 0]
    assert result["segmentation"][:, 0].sum(1).tolist() == [20, 8, 20]


def test_reference_row_12_a_dropped_instance_hides_nothing():
    # 0.8 is dropped (1 of 3 columns visible), so the third keeps all of its columns
    outputs = outputs_of([(0, 0.9), (1, 0.8), (2, 0.7)], blocks((0, 4), (2, 5), (4, 8)))
    result = PROCESSOR.post_process_instance_segmentation(outputs)[0]
    assert pixel_row(result) == [0] * 16 + [1] * 16
    assert [item["label_id"] for item in result["segments_info"]] == [0, 2]


def test_reference_row_13_stuff_is_no_instance():
    outputs = outputs_of([(4, 0.95), (1, 0.9)], blocks((0, 4), (4, 8)))
    info = PROCESSOR.post_process_instance_segmentation(outputs)[0]["segments_info"]
    assert [item["label_id"] for item in info] == [1]
    # after the top-k choice: of the best pair alone nothing is left
    assert PROCESSOR.post_process_instance_segmentation(outputs, top_k=1)[0]["segments_info"] == []
    everything = M2FImageProcessor(task="instance").post_process_instance_segmentation(outputs)[0]["segments_info"]
    assert [item["label_id"] for item in everything] == [4, 1]


def test_reference_row_14_instances_are_the_100_best_pairs_of_query_and_class():
    generator = torch.Generator().manual_seed(0)
    class_logits = torch.randn(200, LABELS + 1, generator=generator)
    outputs = make_outputs(class_logits, blocks(*[(0, 4)] * 200))
    processor = M2FImageProcessor(task="instance")
    result = processor.post_process_instance_segmentation(outputs, 0.0, return_binary_maps=True)[0]
    best = class_logits.softmax(-1)[:, :-1].flatten().sort(descending=True).values
    # all masks are equal: mean probability inside, by hand from the logits 12 (14 columns), 9 and 3
    mask_score = (14 * sigmoid(12) + sigmoid(9) + sigmoid(3)) / 16
    scores = [item["score"] for item in result["segments_info"]]
    np.testing.assert_allclose(scores, best[:100] * mask_score, atol=1e-6)
    assert (
        len(
            processor.post_process_instance_segmentation(outputs, 0.0, return_binary_maps=True, top_k=9999)[0][
                "segments_info"
            ]
        )
        == 200 * LABELS
    )
    # the threshold is inclusive
    cut = processor.post_process_instance_segmentation(outputs, scores[9], return_binary_maps=True)[0]
    assert len(cut["segments_info"]) == 10


def test_instance_threshold_is_on_class_score_times_mask_score():
    # sigmoid(1) = 0.73: 0.6 * 0.73 is below 0.5, 0.8 * 0.73 is not
    outputs = outputs_of([(0, 0.6), (1, 0.8)], np.full((2, 8, 8), 1.0))
    info = PROCESSOR.post_process_instance_segmentation(outputs, 0.5, return_binary_maps=True)[0]["segments_info"]
    assert [item["label_id"] for item in info] == [1]
    assert info[0]["score"] == pytest.approx(0.8 * sigmoid(1.0), abs=1e-6)


def test_reference_row_15_coco_annotations_are_coco_run_lengths():
    coco_mask = pytest.importorskip("pycocotools.mask")
    # a 2 x 2 square in 4 x 5, from row 1 and column 2: column-major runs 9, 2, 2, 2, 5
    square = torch.zeros((1, 4, 5), dtype=torch.bool)
    square[0, 1:3, 2:4] = True
    expected = coco_mask.frPyObjects({"size": [4, 5], "counts": [9, 2, 2, 2, 5]}, 4, 5)
    assert encode_coco_rle(square) == [{"size": [4, 5], "counts": expected["counts"].decode()}]

    outputs = outputs_of([(0, 0.9), (1, 0.8)], blocks((0, 5), (3, 8)))
    result = PROCESSOR.post_process_instance_segmentation(outputs, return_coco_annotation=True)[0]
    # one per instance, none for the background, overlaps kept
    assert [coco_mask.area(rle) for rle in result["segmentation"]] == [20 * 32, 20 * 32]
    assert [item["label_id"] for item in result["segments_info"]] == [0, 1]


def test_reference_row_15_missing_pycocotools_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pycocotools", None)
    with pytest.raises(ImportError, match="pip install pycocotools"):
        encode_coco_rle(torch.ones(1, 2, 2))


def test_reference_row_16_void_and_background():
    nothing = outputs_of([(0, 0.6), (1, 0.6)], blocks((0, 4), (4, 8)))
    result = PROCESSOR.post_process_panoptic_segmentation(nothing)[0]
    assert result["segments_info"] == [] and result["segmentation"].dtype == torch.int32
    assert result["segmentation"].shape == (32, 32) and not result["segmentation"].any()
    result = PROCESSOR.post_process_instance_segmentation(nothing, 0.7)[0]
    assert result["segmentation"].dtype == torch.int32 and result["segmentation"].unique().tolist() == [-1]
    result = PROCESSOR.post_process_instance_segmentation(nothing, 0.7, return_binary_maps=True)[0]
    assert result["segmentation"].shape == (0, 32, 32) and result["segments_info"] == []
    assert (
        PROCESSOR.post_process_instance_segmentation(nothing, 0.7, return_coco_annotation=True)[0]["segmentation"]
        == []
    )


def test_reference_row_16_a_mask_without_a_pixel_is_no_instance():
    empty = outputs_of([(0, 0.9)], np.full((1, 8, 8), -3.0))
    assert PROCESSOR.post_process_instance_segmentation(empty, 0.0)[0]["segments_info"] == []
    assert PROCESSOR.post_process_panoptic_segmentation(empty)[0]["segments_info"] == []
