"""SAHI's own slicing with m2f's checkpoints; `scripts/test_integrations.sh` installs it."""

import numpy as np
import pytest

pytest.importorskip("sahi")

from object_reader import NAMES, Thing, draw, object_reader  # noqa: E402
from sahi.predict import get_prediction, get_sliced_prediction  # noqa: E402

from m2f.inference.detection import Box, Detection  # noqa: E402
from m2f.inference.segmentation_result import SegmentationResult  # noqa: E402
from m2f.inference.segmenter import Segmenter  # noqa: E402
from m2f.integrations.sahi import SahiModel  # noqa: E402

THINGS = [Thing(1, 0, 0.9, 8, 8, 40, 40), Thing(2, 1, 0.8, 16, 100, 56, 150), Thing(3, 0, 0.8, 80, 20, 120, 60)]
SIZE = (128, 192)


def reader() -> Segmenter:
    model = object_reader()
    return Segmenter(model, model.processor)


def found(result) -> list[tuple[str, np.ndarray]]:
    return in_order([(entry.category.name, entry.mask.bool_mask) for entry in result.object_prediction_list])


def in_order(pairs):
    return sorted(pairs, key=lambda pair: np.argwhere(pair[1]).mean(axis=0).tolist())


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    return (first & second).sum() / (first | second).sum()


def test_whole_images_give_the_segmenters_segments():
    image = np.asarray(draw(SIZE, THINGS))
    expected = reader()(image)
    result = found(get_prediction(image, SahiModel(model=reader(), device="cpu")))
    masks = sorted(
        ((s.label, s.mask) for s in expected.segments), key=lambda p: np.argwhere(p[1]).mean(axis=0).tolist()
    )
    assert [name for name, _ in result] == [name for name, _ in masks] and len(result) == 3
    assert all(overlap(a, b) > 0.9 for (_, a), (_, b) in zip(result, masks, strict=True))


def test_slices_are_put_together():
    """No object is cut, so that the slices' objects are the image's."""
    image = np.asarray(draw(SIZE, THINGS))
    sliced = get_sliced_prediction(
        image,
        SahiModel(model=reader(), device="cpu"),
        slice_height=64,
        slice_width=96,
        overlap_height_ratio=0,
        overlap_width_ratio=0,
        perform_standard_pred=False,
        batch_size=3,  # of four slices
        verbose=0,
    )
    whole = found(get_prediction(image, SahiModel(model=reader(), device="cpu")))
    result = found(sliced)
    assert [name for name, _ in result] == [name for name, _ in whole]
    assert all(overlap(a, b) > 0.9 for (_, a), (_, b) in zip(result, whole, strict=True))


@pytest.mark.parametrize(("task", "count"), [("panoptic", 3), ("instance", 3), ("semantic", 2)])
def test_every_task_of_a_panoptic_checkpoint(task, count):
    """Semantic maps have a segment for each class."""
    image = np.asarray(draw(SIZE, THINGS))
    model = object_reader("panoptic")
    segmenter = Segmenter(model, model.processor, task)
    expected = [segment for segment in segmenter(image).segments if segment.label in NAMES[:2]]
    sahi = SahiModel(model=segmenter, device="cpu")
    assert sahi.has_mask and sahi.num_categories == len(NAMES) and sahi.category_names == list(NAMES)
    assert list(sahi.category_mapping) == ["0", "1", "2", "3"]
    result = [x for x in get_prediction(image, sahi).object_prediction_list if x.category.name in NAMES[:2]]
    assert len(result) == len(expected) == count
    wanted = sorted((s.label_id, s.label, s.score) for s in expected)
    assert sorted((x.category.id, x.category.name, x.score.value) for x in result) == wanted


def test_inference_without_a_place_in_a_larger_image():
    """SAHI's two steps by themselves. What is too small for a polygon is left out."""
    sahi = SahiModel(model=reader(), device="cpu")
    image = draw(SIZE, THINGS)
    sahi.perform_inference(np.asarray(image)[:, ::-1])
    cells = [Detection(0, 0.9, Box(0, 0, size, size), np.ones((size, size), bool)) for size in (1, 8)]
    few = SegmentationResult.from_detections(image, cells, {0: "cell"})
    for results, count in ((sahi.original_predictions, 3), ([few], 1)):
        sahi._original_predictions = results
        sahi.convert_original_predictions()
        assert [entry.mask.full_shape for entry in sahi.object_prediction_list] == [list(SIZE)] * count


def test_a_checkpoint_for_a_task(monkeypatch):
    """SAHI's thresholds are the segmenter's, but for semantic maps, which have none."""
    asked = []

    def loaded(*args):
        asked.append((*args[:2], str(args[2])))
        model = object_reader("panoptic")
        return Segmenter(model, model.processor, args[1])

    monkeypatch.setattr(Segmenter, "from_pretrained", loaded)
    for task, threshold in (("instance", 0.5), ("semantic", None)):
        model = SahiModel("my_model", task, device="cpu").model
        assert (model.task, model.decoder.threshold) == (task, threshold)
        assert asked.pop() == ("my_model", task, "cpu")


def test_a_checkpoint_by_its_name():
    sahi = SahiModel("nuclei", confidence_threshold=0.25, mask_threshold=0.75, device="cpu")
    assert (sahi.model.decoder.threshold, sahi.model.decoder.mask_threshold) == (0.25, 0.75)
    assert sahi.category_names == ["nucleus"]
