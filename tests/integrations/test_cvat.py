"""CVAT's own driver runs the function on a task, without a server."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest
from object_reader import NAMES, Thing, draw, object_reader

from m2f.inference.segmenter import Segmenter

SIZE = (64, 96)
THINGS = [Thing(1, 0, 0.9, 8, 4, 40, 16), Thing(2, 1, 0.6, 8, 40, 40, 80)]


@pytest.fixture
def segmenter(monkeypatch) -> Segmenter:
    model = object_reader()
    loaded = Segmenter(model, model.processor)
    monkeypatch.setattr(Segmenter, "from_pretrained", classmethod(lambda *_, **__: loaded))
    return loaded


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

    function = create("my_model", tolerance=0.0)
    expected = segmenter(draw(SIZE, THINGS))
    assert [segment.label for segment in expected.segments] == ["cell", "<b>vessel</b>"]
    shapes = annotated(monkeypatch, function)
    assert [(shape.label_id, shape.frame, shape.type.value) for shape in shapes] == [(70, 5, "mask"), (71, 5, "mask")]
    for shape, segment in zip(shapes, expected.segments, strict=True):
        decoded = masks.decode_mask(shape.points, image_width=SIZE[1], image_height=SIZE[0])
        np.testing.assert_array_equal(decoded, segment.mask)
    assert [shape.label_id for shape in annotated(monkeypatch, function, conf_threshold=0.7)] == [70]
    polygons = annotated(monkeypatch, function, conv_mask_to_poly=True)
    assert [shape.type.value for shape in polygons] == ["polygon", "polygon"]
    x, y = np.reshape(polygons[1].points, (-1, 2)).T
    box = expected.segments[1].box
    assert (x.min(), y.min(), x.max(), y.max()) == box


def test_labels_of_the_task(monkeypatch, segmenter):
    """Its own rule: labels that it lacks are an error, or are left out."""
    pytest.importorskip("cvat_sdk")
    from m2f.integrations.cvat import CvatFunction

    shapes = annotated(monkeypatch, CvatFunction(), NAMES[:1], allow_unmatched_labels=True)
    assert [shape.label_id for shape in shapes] == [70]
    with pytest.raises(ValueError, match="tolerance of -1 pixels"):
        CvatFunction(tolerance=-1)
