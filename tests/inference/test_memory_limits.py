"""Images that are too large for the memory, or for that of the model, in place of the system's own errors."""

import pytest
import torch
from object_reader import Thing, draw, object_reader

from m2f.inference.memory_limits import ImageTooLargeError
from m2f.inference.segmenter import Segmenter

SIZE = (160, 208)
SCENE = [
    Thing(1, 2, 0.9, 0, 0, 160, 208),
    Thing(2, 0, 0.8, 40, 40, 120, 104),
    Thing(3, 0, 0.7, 40, 104, 120, 180),
    Thing(4, 1, 0.6, 0, 0, 12, 20),
]


def segmenter(task="instance", **settings) -> Segmenter:
    model = object_reader("panoptic")
    return Segmenter(model, model.processor, task, **settings)


@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
def test_image_larger_than_memory(task, monkeypatch):
    """2 MB are free: not enough for the whole scene with its temporaries (64 bytes a pixel), and enough for a tile of
    96 (and 44 bytes for each pixel of the scene)."""
    monkeypatch.setattr("m2f.inference.memory_limits.free_memory", lambda device: 2_000_000)
    with pytest.raises(ImageTooLargeError, match="160 x 208 pixels need about .* --tile 1024"):
        segmenter(task)(draw(SIZE, SCENE))
    assert len(segmenter(task, tile=96)(draw(SIZE, SCENE))) > 2
    with pytest.raises(ImageTooLargeError, match="even in tiles"):
        segmenter(task, tile=96)(draw((320, 208), []))


def test_out_of_memory_in_the_model():
    """A batch that does not fit is computed image by image; an image that does not fit is an error with advice."""
    predict = segmenter(batch_size=2)
    forward = predict.model.forward

    def greedy(pixel_values, pixel_mask):
        if len(pixel_values) > 1 or pixel_values.shape[-1] > 300:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(pixel_values, pixel_mask)

    predict.model.forward = greedy
    assert [len(result) for result in predict([draw(SIZE, SCENE)] * 2)] == [3, 3]
    with pytest.raises(ImageTooLargeError, match="the model's computation; segment it in tiles"):
        predict(draw((64, 320), []))
