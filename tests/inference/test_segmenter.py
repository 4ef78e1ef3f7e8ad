"""From images to results, with a model that reads scenes whose segments are known, and with real small models."""

import itertools

import numpy as np
import pytest
import torch
from object_reader import NAMES, Thing, draw, object_reader
from PIL import Image
from small_models import small_model

from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.inference.segmentation_result import SegmentationResult
from m2f.inference.segmenter import Segmenter
from m2f.inference.task_decoding import TaskDecoder

SIZE = (160, 208)
# Two cells that touch, one of them across four tiles of 96; one in a corner; sky around, behind them.
SCENE = [
    Thing(1, 2, 0.9, 0, 0, 160, 208),
    Thing(2, 0, 0.8, 40, 40, 120, 104),
    Thing(3, 0, 0.7, 40, 104, 120, 180),
    Thing(4, 1, 0.6, 0, 0, 12, 20),
]


def segmenter(task="instance", of="panoptic", **settings) -> Segmenter:
    model = object_reader(of)
    return Segmenter(model, model.processor, task, **settings)


def expected_ids(things: list[Thing]) -> np.ndarray:
    """The visible object of each pixel, by its code."""
    return np.asarray(draw(SIZE, things))[..., 0].astype(int)


def assert_same(mask: np.ndarray, expected: np.ndarray):
    """But for pixels at the borders: bilinear resizing of logits rounds corners off, and the model's cells of 4 pixels
    do not lie on the objects' edges in every tile. Two objects taken for one would agree by a half."""
    assert (mask & expected).sum() >= 0.95 * (mask | expected).sum()


def assert_instances(result: SegmentationResult, things: list[Thing]):
    """Those of SCENE that are things, best score first, with the pixels that are visible in the scene."""
    visible, wanted = expected_ids(SCENE), sorted(things, key=lambda thing: -thing.score)
    assert [segment.label for segment in result.segments] == [NAMES[thing.label_id] for thing in wanted]
    for segment, thing in zip(result.segments, wanted, strict=True):
        assert_same(segment.mask, visible == thing.code)
        # Times the mean mask probability, which is 0.905 at the borders and 1 inside.
        assert segment.score == pytest.approx(thing.score, abs=0.02)


def test_instances():
    result = segmenter()(draw(SIZE, SCENE))
    assert isinstance(result, SegmentationResult) and result.size == SIZE and result.task == "instance"
    assert_instances(result, SCENE[1:])


@pytest.mark.parametrize("tile", [64, 96, 128, 160, 300])
@pytest.mark.parametrize("overlap", [None, 32])
def test_instances_in_tiles(tile, overlap):
    model = object_reader("panoptic")
    result = Segmenter(model, model.processor, "instance", tile=tile, tile_overlap=overlap)(draw(SIZE, SCENE))
    assert max(model.shapes[0][2:]) <= (tile if tile < 208 else 224)
    assert_instances(result, SCENE[1:])


@pytest.mark.parametrize("tile", [None, 64, 96, 128])
def test_panoptic(tile):
    result = segmenter("panoptic", tile=tile)(draw(SIZE, SCENE))
    visible = expected_ids(SCENE)
    assert sorted(segment.label for segment in result.segments) == sorted(NAMES[thing.label_id] for thing in SCENE)
    for segment in result.segments:
        thing = SCENE[round(np.median(visible[segment.mask])) - 1]
        assert_same(segment.mask, visible == thing.code)
        assert (segment.label_id, segment.is_thing) == (thing.label_id, thing.label_id < 2)


@pytest.mark.parametrize("tile", [None, 64, 96, 128])
@pytest.mark.parametrize("of", ["panoptic", "semantic"])
def test_semantic(tile, of):
    result = segmenter("semantic", of, tile=tile)(draw(SIZE, SCENE))
    labels = np.asarray(draw(SIZE, SCENE))[..., 1] // 40
    assert (result.label_map != labels).mean() < 0.01  # borders; see `assert_same`
    assert [segment.label_id for segment in result.segments] == [0, 1, 2]


def test_one_many_and_endless(tmp_path):
    image = draw(SIZE, SCENE)
    image.save(tmp_path / "x.png")
    predict = segmenter(batch_size=2)
    for one in (tmp_path / "x.png", str(tmp_path / "x.png"), np.asarray(image), torch.from_numpy(np.array(image))):
        assert_instances(predict(one), SCENE[1:])
    assert predict(str(tmp_path / "x.png")).name == str(tmp_path / "x.png")
    assert len(predict([image] * 3)) == 3 and predict([]) == []
    assert len(predict(np.stack([np.asarray(image)] * 2))) == 2
    endless = predict(itertools.repeat(image))
    assert [len(next(endless)) for _ in range(3)] == [3, 3, 3]
    endless.close()


def test_batches_are_of_one_padded_shape_and_results_in_order():
    """Sizes alternate; each image has as many objects as its place says."""
    sizes, model = [(64, 96), (96, 64)], object_reader()
    images = [draw(sizes[n % 2], [Thing(i + 1, 0, 0.9, 0, 8 * i, 64, 8 * i + 8) for i in range(n)]) for n in range(8)]
    results = Segmenter(model, model.processor, batch_size=4)(images)
    assert [len(result) for result in results] == list(range(8))
    assert [result.size for result in results] == [sizes[n % 2] for n in range(8)]
    assert sorted(model.shapes) == [(4, 3, 64, 96), (4, 3, 96, 64)]


def test_small_images_and_tiles_come_together_by_themselves():
    """16 tiles of 192 x 192 have as many pixels as are put together; of an iterator no image waits for another."""
    model = object_reader()
    image = draw((64, 96), SCENE)
    predict = Segmenter(model, model.processor)
    assert predict.batch_size == "auto" and len(predict([image] * 5)) == 5
    assert model.shapes == [(5, 3, 64, 96)]
    model.shapes.clear()
    assert len(list(predict(iter([image] * 3)))) == 3
    assert model.shapes == [(1, 3, 64, 96)] * 3
    model.shapes.clear()
    Segmenter(model, model.processor, tile=64, tile_overlap=16)(draw((128, 256), SCENE))
    assert len(model.shapes) == 1 and model.shapes[0][0] > 4
    model.shapes.clear()
    Segmenter(model, model.processor, batch_size=1)([image] * 2)
    assert model.shapes == [(1, 3, 64, 96)] * 2


def test_the_model_waits_neither_for_the_first_tiles_nor_for_the_parts_of_the_last(monkeypatch):
    """20 tiles, 8 at a time: while the model has the image, 12 are prepared and as many decoded, the others before
    and after, when it may have another."""
    predict = segmenter(tile=64, tile_overlap=16, batch_size=8)
    views, image, calls = predict._views, draw((192, 240), SCENE), []
    for owner, name in ((M2FImageProcessor, "__call__"), (TaskDecoder, "decode")):
        plain = getattr(owner, name)
        monkeypatch.setattr(
            owner, name, lambda *a, _plain=plain, _name=name, **k: calls.append(_name) or _plain(*a, **k)
        )
    counts = []
    view = views.prepare(None, image, "")
    counts.append((calls.count("__call__"), calls.count("decode")))
    (computed,) = views.compute([view])
    counts.append((calls.count("__call__"), calls.count("decode")))
    (found,) = views.segments(view, computed)
    counts.append((calls.count("__call__"), calls.count("decode")))
    assert counts == [(8, 0), (20, 12), (20, 20)]
    assert len(found) == len(predict(image))


def test_batch_of_a_real_model_gives_what_single_images_give():
    torch.manual_seed(0)
    model = small_model(task="panoptic", thing_label_ids=[0, 1])
    processor = M2FImageProcessor(task="panoptic", thing_label_ids=[0, 1], size={"shortest_edge": 64})
    images = [Image.fromarray(np.random.default_rng(n).integers(0, 256, (60, 90, 3), np.uint8)) for n in range(3)]
    single = Segmenter(model, processor, "instance", threshold=0.0)
    together = Segmenter(model, processor, "instance", threshold=0.0, batch_size=3)(images)
    for image, result in zip(images, together, strict=True):
        alone = single(image)
        assert len(alone) > 0
        np.testing.assert_allclose([s.score for s in result.segments], [s.score for s in alone.segments], atol=1e-5)


def test_tiles_are_resized_as_images_of_their_size():
    """The processor doubles tiles of 64, and so the strip of an image that is only 32 high."""
    model = object_reader()
    model.processor.do_resize, model.processor.size = True, {"shortest_edge": 128, "longest_edge": 128}
    Segmenter(model, model.processor, tile=64)(draw((32, 160), []))
    assert {shape[2:] for shape in model.shapes} == {(64, 128)}


def test_the_checkpoints_tile_is_used_unless_told_otherwise():
    """The scene is 160 by 208; the model's inputs tell what it saw."""
    for settings, edge in (({}, 96), ({"tile": 64}, 64), ({"tile": 0}, 224)):
        model = object_reader()
        model.processor.tile, model.processor.tile_overlap = 96, 40
        segmenter = Segmenter(model, model.processor, **settings)
        segmenter(draw(SIZE, SCENE))
        assert max(shape[3] for shape in model.shapes) == edge
    assert (segmenter.tile, segmenter.tile_overlap) == (None, 0)
    assert Segmenter(model, model.processor).tile_overlap == 40
    assert Segmenter(model, model.processor, tile=64).tile_overlap == 16
    with pytest.raises(ValueError, match="no tile"):
        Segmenter(model, model.processor, tile=0, tile_overlap=8)


def test_nothing_above_the_threshold():
    result = segmenter(threshold=0.95)(draw(SIZE, SCENE))
    assert (len(result), result.to_coco()) == (0, [])


def test_orientation_is_applied():
    image = draw(SIZE, SCENE)
    image.getexif()[0x0112] = 3  # upside down
    result = segmenter()(image)
    assert_same(result.segments[0].mask, np.rot90(expected_ids(SCENE) == 2, 2))


def test_other_precision():
    model = small_model(task="instance")
    processor = M2FImageProcessor(task="instance", size={"shortest_edge": 64})
    result = Segmenter(model.to(torch.bfloat16), processor, threshold=0.0)(draw((64, 64), SCENE))
    assert len(result) > 0


@pytest.mark.parametrize(
    ("of", "settings", "message"),
    [
        ("instance", {"task": "semantic"}, "trained for instance predicts instance"),
        ("semantic", {"task": "panoptic"}, "predicts semantic"),
        ("panoptic", {"task": "depth"}, "predicts panoptic, instance, semantic"),
        ("semantic", {"task": "semantic", "threshold": 0.5}, "no threshold"),
        ("instance", {"task": "instance", "threshold": 1.5}, r"in \[0, 1\], got 1.5"),
        ("instance", {"task": "instance", "tile": 8}, "at least 32"),
        ("instance", {"task": "instance", "batch_size": 0}, "batch_size must be at least 1"),
    ],
)
def test_wrong_settings(of, settings, message):
    with pytest.raises(ValueError, match=message):
        segmenter(of=of, **settings)


def test_instances_need_things():
    model = object_reader("panoptic")
    model.processor.thing_label_ids = []
    with pytest.raises(ValueError, match="without things predicts panoptic, semantic"):
        Segmenter(model, model.processor, "instance")
