"""CVAT's own driver runs the function on a task, without a server."""

import logging
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
from object_reader import NAMES, Thing, draw, object_reader, polygon_area

from m2f.inference.segmenter import Segmenter

SIZE = (64, 96)
# The second object has two parts.
THINGS = [Thing(1, 0, 0.9, 8, 4, 40, 16), Thing(2, 1, 0.6, 8, 40, 40, 80), Thing(2, 1, 0.6, 48, 40, 60, 60)]


@pytest.fixture
def segmenter(monkeypatch) -> Mock:
    """In the place of `Segmenter.from_pretrained`."""
    model = object_reader()
    loading = Mock(return_value=Segmenter(model, model.processor))
    monkeypatch.setattr(Segmenter, "from_pretrained", loading)
    return loading


def annotated(monkeypatch, function, names=NAMES, **options) -> list:
    """The shapes that would be uploaded."""
    driver = pytest.importorskip("cvat_sdk.auto_annotation.driver")
    media = SimpleNamespace(load_image=lambda: draw(SIZE, THINGS))
    labels = [
        SimpleNamespace(name=name, id=70 + i, type="any", attributes=[], sublabels=[]) for i, name in enumerate(names)
    ]
    sample = SimpleNamespace(frame_name="x.png", frame_index=5, media=media)
    task = SimpleNamespace(labels=labels, samples=[sample])
    monkeypatch.setattr(driver, "TaskDataset", lambda *_, **__: task)
    uploaded = []
    api = SimpleNamespace(
        partial_update_annotations=lambda *_, patched_labeled_data_request: uploaded.append(
            patched_labeled_data_request
        )
    )
    client = SimpleNamespace(logger=logging.getLogger("test"), tasks=SimpleNamespace(api=api))
    driver.annotate_task(client, 42, function, **options)
    return uploaded[0].shapes


def test_masks_polygons_and_thresholds(monkeypatch, segmenter):
    masks = pytest.importorskip("cvat_sdk.masks")
    from m2f.integrations.cvat import create

    function = create("my_model", "instance", "cpu", 0.25, 512, tolerance=0.0)
    segmenter.assert_called_once_with("my_model", "instance", "cpu", threshold=0.25, tile=512)
    assert {label.type for label in function.spec.labels} == {"mask"}
    expected = segmenter.return_value(draw(SIZE, THINGS))
    assert [segment.label for segment in expected.segments] == ["cell", "<b>vessel</b>"]
    scores = [segment.score for segment in expected.segments]
    shapes = annotated(monkeypatch, function)
    assert [shape.score for shape in shapes] == scores
    assert [(shape.label_id, shape.frame, shape.type.value) for shape in shapes] == [(70, 5, "mask"), (71, 5, "mask")]
    for shape, segment in zip(shapes, expected.segments, strict=True):
        decoded = masks.decode_mask(shape.points, image_width=SIZE[1], image_height=SIZE[0])
        np.testing.assert_array_equal(decoded, segment.mask)
    for lowest, labels in ((scores[1], [70, 71]), (0.7, [70])):
        assert [shape.label_id for shape in annotated(monkeypatch, function, conf_threshold=lowest)] == labels
    polygons = annotated(monkeypatch, function, conv_mask_to_poly=True)
    assert [(shape.type.value, shape.label_id) for shape in polygons] == [("polygon", label) for label in (70, 71, 71)]
    assert [shape.score for shape in polygons] == [scores[0], scores[1], scores[1]]
    assert [shape.get("group") for shape in polygons] == [None, 2, 2]
    for shapes, segment in ((polygons[:1], expected.segments[0]), (polygons[1:], expected.segments[1])):
        assert sum(polygon_area(shape.points) for shape in shapes) == segment.area
        x, y = np.concatenate([np.reshape(shape.points, (-1, 2)) for shape in shapes]).T
        assert (x.min(), y.min(), x.max(), y.max()) == segment.box


def test_labels_of_the_task(monkeypatch, segmenter):
    """Its own rule: labels that it lacks are an error, or are left out."""
    pytest.importorskip("cvat_sdk")
    from m2f.integrations.cvat import CvatFunction

    shapes = annotated(monkeypatch, CvatFunction(), NAMES[:1], allow_unmatched_labels=True)
    assert [shape.label_id for shape in shapes] == [70]
    with pytest.raises(ValueError, match="tolerance of -1 pixels"):
        CvatFunction(tolerance=-1)
