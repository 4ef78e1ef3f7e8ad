"""The CPU kernel that gives each pixel a class, against its definition in plain PyTorch."""

import pytest
import torch
from mask_logits import SIZES, masks_of

from m2f.image_processing.plain_masks import MaskGeometry
from m2f.image_processing.post_processing import semantic_map, semantic_scores

pytest_plugins = ("kernel_fixtures",)
pytestmark = pytest.mark.usefixtures("compiled_kernel")


@pytest.mark.parametrize("resize_scores", [False, True])
@pytest.mark.parametrize("kind", ["noise", "discs"])
@pytest.mark.parametrize(("size", "geometry"), SIZES)
def test_votes_are_the_best_scores(kind, size, geometry, resize_scores):
    masks = masks_of(kind, 13, size)
    class_logits = 2 * torch.randn(13, 8, generator=torch.Generator().manual_seed(0))
    geometry = MaskGeometry(*geometry)
    scores = semantic_scores(class_logits, masks, geometry, resize_scores)
    found = {}
    with torch.autocast("cpu", torch.bfloat16):
        found = semantic_map(class_logits, masks, geometry, resize_scores)
    torch.testing.assert_close(found.best, scores.max(0).values, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.total, scores.sum(0), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(scores.gather(0, found.labels[None])[0], found.best, rtol=1e-5, atol=1e-5)
    assert (found.labels != scores.argmax(0)).sum() <= (1 if kind == "noise" else 0)
