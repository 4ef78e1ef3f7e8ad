"""Where masks land when nobody said where the images end in the model's input.

The oracle is a truth at the image's own size: three rectangles. Their logits are made as a network that is always
right would make them, in the geometry by which the input was really made: the truth resized to the image's part of the
input, padding outside, a quarter of the resolution. Post-processing has to give the truth back, and exactly what it
gives when it is told the geometry (`valid_sizes`).
"""

from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_models import small_model
from transformers.models.mask2former.modeling_mask2former import Mask2FormerForUniversalSegmentationOutput

from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.modeling_m2f.outputs import M2FForUniversalSegmentationOutput
from m2f.modeling_m2f.pixel_values import image_sizes, sizes_to_report

TASKS = ("panoptic", "instance", "semantic")
LOGGER = "m2f.image_processing.mask_geometry.logger.warning_once"


class Case(NamedTuple):
    """Images, and how they became an input."""

    images: list[tuple[int, int]]  # (height, width) of the files
    settings: dict = {}  # of the processor that post-processes
    canvas: tuple[int, int] | None = None  # resized to this by something else; None: that processor prepared them
    targets: list[tuple[int, int]] | None = None  # None: the images' own
    doubt: str | None = None  # what a warning says
    forms: tuple[str, ...] = ("ours", "transformers", "bare")


BATCH = [(60, 90), (60, 150)]
CASES = {
    "shortest edge": Case([(480, 640)], {"size": 200}),
    "shortest edge, in both directions": Case([(640, 480)], {"size": {"shortest_edge": 100, "longest_edge": 120}}),
    "shortest edge, batch": Case([(120, 180), (120, 300)], {"size": 60}),
    "unscaled, batch": Case(BATCH, {"size": 60}),
    "exact multiple": Case([(128, 192)], {"size": 64}),
    "exact multiple, batch": Case([(128, 192), (128, 320)], {"size": 64}),
    "longest edge": Case([(100, 61)], {"size": {"longest_edge": 90}}),
    "fixed": Case([(100, 61)], {"size": {"height": 70, "width": 80}}),
    "fixed, batch": Case([(100, 61), (50, 99)], {"size": {"height": 64, "width": 96}}),
    "not resized": Case([(61, 90)], {"do_resize": False}),
    "not resized, batch": Case([(61, 90), (90, 50)], {"do_resize": False}),
    "not padded": Case([(200, 260)], {"size": 100, "do_pad": False}),
    "not padded, batch": Case([(200, 260), (400, 520)], {"size": 100, "do_pad": False}),
    "neither": Case([(61, 90)], {"do_resize": False, "do_pad": False}),
    "divisor 1, batch": Case([(61, 90), (90, 50)], {"do_resize": False, "size_divisor": 1}),
    "divisor 48": Case([(61, 90)], {"size": 50, "size_divisor": 48}),
    "pad_size": Case([(61, 90)], {"size": 50, "pad_size": {"height": 128, "width": 160}}),
    # resized by something else, and not padded
    "squashed": Case([(480, 640)], {"size": 200}, canvas=(512, 512), doubt="cover the images"),
    "squashed, batch": Case(BATCH, {"size": 60}, canvas=(128, 96), doubt="cover the images"),
    "squashed, the processor does not resize": Case(
        [(480, 640)], {"do_resize": False}, canvas=(256, 256), doubt="cover the images"
    ),
    "squashed, larger than pad_size": Case(
        [(480, 640)], {"size": 200, "pad_size": {"height": 64, "width": 64}}, canvas=(96, 96), doubt="cover the images"
    ),
    "odd size": Case([(480, 640)], {"size": 200}, (101, 130), doubt="cover the images", forms=("ours",)),
    "another size in the call": Case([(480, 640)], {}, canvas=(96, 128), doubt="cover the images"),
    # at the size of the input, as transformers' examples evaluate
    "targets are the canvas": Case([(480, 640)], {}, (64, 96), [(64, 96)]),
    "targets are the canvas, batch": Case(BATCH, {"do_resize": False}, (64, 96), [(64, 96)] * 2),
    "targets are the odd canvas": Case([(480, 640)], {}, (61, 90), [(61, 90)], forms=("ours",)),
    "targets are the odd canvas, for transformers": Case(
        [(480, 640)], {}, (62, 93), [(62, 93)], doubt="cover the images", forms=("transformers",)
    ),
    "targets are the canvas, but might be files": Case(
        [(480, 640)], {"size": 60}, (64, 96), [(64, 96)], doubt="taken for the size of pixel_values"
    ),
    "one target is the canvas by chance": Case(
        [(64, 96), (120, 180)], {"size": 60}, doubt="taken for those of the images"
    ),
    # an image that is given without its batch
    "taken out of its batch": Case([(60, 90), (100, 60)], {"size": 60}, doubt="from a batch"),
}


def truth(size: tuple[int, int]) -> np.ndarray:
    """(3,H,W) bool: upper left, upper right, below."""
    y, x = np.arange(size[0])[:, None], np.arange(size[1])[None]
    upper, left = y < 0.45 * size[0], x < 0.6 * size[1]
    return np.stack([upper & left, upper & ~left, ~upper & (x >= 0)])


def geometry(case: Case) -> tuple[tuple[int, int], list[tuple[int, int]]]:
    """The input's size and that of each image in it, from what the processor did."""
    if case.canvas is not None:
        return case.canvas, [case.canvas] * len(case.images)
    images = [np.zeros((*size, 3), np.uint8) for size in case.images]
    mask = M2FImageProcessor(**case.settings)(images, return_tensors="pt")["pixel_mask"]
    return tuple(mask.shape[1:]), [(int(one[:, 0].sum()), int(one[0].sum())) for one in mask]


def perfect_logits(case: Case, multiple: int) -> torch.Tensor:
    """(B,3,h,w) of a model that pads to `multiple`."""
    canvas, valid = geometry(case)
    padded = [-(-edge // multiple) * multiple for edge in canvas]
    logits = torch.full((len(valid), 3, *padded), -10.0)
    for image, size, inside in zip(logits, case.images, valid, strict=True):
        masks = F.interpolate(torch.from_numpy(truth(size)).float()[None], size=inside, mode="nearest-exact")[0]
        image[:, : inside[0], : inside[1]] = 20 * masks - 10
    return F.avg_pool2d(logits, 4)


def outputs_of(case: Case, form: str):
    multiple = 4 if form == "transformers" else 32
    classes = torch.tensor([[9.0, 0, 0, 0], [0, 9.0, 0, 0], [0, 0, 9.0, 0]]).repeat(len(case.images), 1, 1)
    fields = {"class_queries_logits": classes, "masks_queries_logits": perfect_logits(case, multiple)}
    if form == "bare":
        return SimpleNamespace(**fields)
    if form == "transformers":
        return Mask2FormerForUniversalSegmentationOutput(**fields)
    pixels = torch.empty(len(case.images), 3, *geometry(case)[0])
    valid, given = sizes_to_report(image_sizes(pixels, None), pixels, None)
    return M2FForUniversalSegmentationOutput(**fields, valid_sizes=valid, input_sizes=given)


def class_masks(task: str, settings: dict, outputs, targets) -> list[torch.Tensor]:
    """(3,H,W) bool for each image, one mask for each class, by the task's own method."""
    processor = M2FImageProcessor(task=task, thing_label_ids=[0, 1, 2], **settings)
    found = getattr(processor, f"post_process_{task}_segmentation")(outputs, target_sizes=targets)
    if task == "semantic":
        return [torch.stack([labels == label for label in range(3)]) for labels in found]
    masks = []
    for result in found:
        ids = {info["label_id"]: info["id"] for info in result["segments_info"]}
        masks.append(torch.stack([result["segmentation"] == ids.get(label, -9) for label in range(3)]))
    return masks


@pytest.fixture
def warnings(monkeypatch):
    found = []
    monkeypatch.setattr(LOGGER, found.append)
    return found


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", CASES)
def test_masks_land_where_the_images_are(name, task, warnings):
    case = CASES[name]
    targets = case.targets or case.images
    valid = geometry(case)[1]
    chosen = slice(0, 1) if name == "taken out of its batch" else slice(None)
    for form in case.forms:
        outputs = outputs_of(case, form)
        fields = {name: value[chosen] for name, value in vars(outputs).items() if value is not None}
        if chosen.stop:
            outputs = SimpleNamespace(**fields)
        warnings.clear()
        found = class_masks(task, case.settings, outputs, targets[chosen])
        assert len(warnings) == (case.doubt is not None), (form, warnings)
        assert all(case.doubt in warning for warning in warnings), form
        told = SimpleNamespace(**{**fields, "valid_sizes": torch.tensor(valid[chosen]), "input_sizes": None})
        expected = class_masks(task, case.settings, told, targets[chosen])
        for masks, exact, size in zip(found, expected, targets[chosen], strict=True):
            wanted = torch.from_numpy(truth(size))
            shares = (masks & wanted).sum((1, 2)) / (masks | wanted).sum((1, 2))
            assert torch.equal(masks, exact) and shares.min() > 0.9, (form, shares)


@torch.no_grad()
def test_a_model_without_pixel_mask_claims_no_size_and_with_it_the_said_ones_hold(warnings):
    """Expected: what `pixel_mask` says; the size of `pixel_values` (README: `model(pixel_values=...)`)."""
    model, processor = small_model("resnet"), M2FImageProcessor(size=60, thing_label_ids=[0])
    inputs = processor([np.zeros((*size, 3), np.uint8) for size in BATCH], return_tensors="pt")
    alone, told = model(inputs["pixel_values"]), model(**inputs)
    assert alone.valid_sizes is None and alone.input_sizes.tolist() == [[64, 160]] * 2
    assert told.valid_sizes.tolist() == [list(size) for size in BATCH] and told.input_sizes is None
    # With "the whole canvas" as the second target, the mask still knows better.
    outputs = outputs_of(Case(BATCH, {"size": 60}), "bare")
    outputs.valid_sizes = told.valid_sizes
    for masks in class_masks("panoptic", {"size": 800}, outputs, [(64, 160)] * 2):
        wanted = torch.from_numpy(truth((64, 160)))
        assert ((masks & wanted).sum((1, 2)) / (masks | wanted).sum((1, 2))).min() > 0.9
    # Said by hand in the outputs of a call without a mask, of multiples of 32 and of others.
    for size, valid in (((64, 96), (64, 96)), ((64, 96), (60, 90)), ((61, 90), (60, 90))):
        outputs = model(torch.zeros(1, 3, *size))
        outputs.valid_sizes = torch.tensor([valid])
        assert processor.post_process_semantic_segmentation(outputs)[0].shape == valid
    assert not warnings


@torch.no_grad()
def test_without_target_sizes_results_have_the_size_of_the_input():
    """All that is known: `pixel_values`, or 4 x the mask logits where not even these are."""
    model = small_model("resnet")
    for size in ((64, 96), (61, 90)):
        outputs = model(torch.zeros(1, 3, *size))
        assert M2FImageProcessor().post_process_semantic_segmentation(outputs)[0].shape == size
    bare = SimpleNamespace(**{name: outputs[name] for name in ("class_queries_logits", "masks_queries_logits")})
    assert M2FImageProcessor().post_process_semantic_segmentation(bare)[0].shape == (64, 96)


@torch.no_grad()
def test_every_output_of_a_call_without_mask_has_the_batch_first():
    """The pipeline and Trainer take outputs apart by their first dimension."""
    outputs = small_model("resnet")(torch.zeros(3, 3, 61, 90))
    assert outputs.input_sizes.shape == outputs.valid_sizes.shape == (3, 2)
    outputs.valid_sizes[0] = 7  # each has memory of its own
    assert outputs.input_sizes.tolist() == [[61, 90]] * 3 and outputs.valid_sizes[1].tolist() == [61, 90]
