import numpy as np
from PIL import Image

from m2f.inference.segmentation_result import SegmentationResult

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


def of_map(ids: np.ndarray, image: Image.Image) -> SegmentationResult:
    infos = [{"id": 1, "label_id": 0, "was_fused": True, "score": 0.7}]
    return SegmentationResult.from_map(image, "panoptic", ids, infos, {0: "sky"})


def test_captions_where_there_is_room():
    """The sky is 30 by 10, too small for its name at the least size of the font; a large image has room."""
    image, ids = Image.fromarray(PIXELS), np.zeros((20, 30), np.int32)
    ids[:10] = 1
    small = of_map(ids, image)
    np.testing.assert_array_equal(np.asarray(small.plot()), np.asarray(small.plot(captions=False)))
    assert (np.asarray(small.plot(captions=True)) != np.asarray(small.plot(captions=False))).any()
    large = of_map(np.ones((200, 300), np.int32), image.resize((300, 200)))
    differing = (np.asarray(large.plot()) != np.asarray(large.plot(captions=False))).any(2)
    assert differing.any() and not differing[50:].any() and not differing[:, 150:].any()  # in the upper left corner
