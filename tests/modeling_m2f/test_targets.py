import re

import pytest
import torch
from torch.nn.functional import grid_sample, pad

from m2f.modeling_m2f.targets import prepare_targets

SIZE, GIVEN, CANVAS = (30, 44), (40, 60), (64, 64)


def prepare(masks, classes, padding_counts: bool = True, size=SIZE):
    images = len(classes)
    return prepare_targets(masks, classes, [size] * images, GIVEN, CANVAS, padding_counts, 5, 8, torch.device("cpu"))


def maps(size=SIZE) -> torch.Tensor:
    """Three segments on two layers, the third over both others."""
    ids = torch.full((2, *size), -1, dtype=torch.int32)
    ids[0, :10], ids[0, 15:, 20:] = 0, 1
    ids[1, 5:20, 10:30] = 2
    return ids


def stack(ids: torch.Tensor) -> torch.Tensor:
    return torch.stack([(ids == n).any(0) for n in range(3)]).to(torch.uint8)


CLASSES = torch.tensor([3, 1, 3])


@pytest.fixture(params=["index maps", "uint8 stack", "bool stack", "float stack", "stack with fillers"])
def targets_and_masks(request):
    """Targets of one image and the same masks one by one."""
    ids = maps()
    masks, classes = stack(ids), CLASSES
    given = {
        "index maps": ids,
        "uint8 stack": masks,
        "bool stack": masks.bool(),
        "float stack": masks.float(),
        "stack with fillers": masks[[0, 0, 1, 1, 2]],
    }[request.param]
    if request.param == "stack with fillers":
        classes = torch.tensor([3, -100, 1, -100, 3])
    return prepare([given], [classes])[0], masks


def test_values_at_shared_points_are_those_of_grid_sample_on_the_canvas(targets_and_masks):
    targets, masks = targets_and_masks
    assert targets.classes.tolist() == CLASSES.tolist()
    on_canvas = pad(masks.float(), (0, CANVAS[1] - SIZE[1], 0, CANVAS[0] - SIZE[0]))
    points = torch.rand(500, 2)
    points[:4] = torch.tensor([[0, 0], [1, 1], [0, 0.2], [0.3, 0]])
    expected = grid_sample(on_canvas[None], 2 * points[None, :, None] - 1, align_corners=False)[0, ..., 0]
    torch.testing.assert_close(targets.at_shared_points(points), expected, atol=1e-5, rtol=0)


def test_values_at_own_points_are_those_of_each_mask(targets_and_masks):
    targets, _ = targets_and_masks
    points, chosen = torch.rand(4, 100, 2), torch.tensor([2, 0, 2, 1])
    values = targets.at_own_points(chosen, points)
    for row, mask, own_points in zip(values, chosen, points, strict=True):
        torch.testing.assert_close(row, targets.at_shared_points(own_points)[mask], atol=1e-6, rtol=0)
    assert values.shape == (4, 100) and 0 < values.mean() < 1


def test_everything_counts_where_nothing_is_ignored_or_padding():
    assert prepare([maps()], [CLASSES])[0].weights(torch.rand(10, 2)) is None
    assert prepare([maps(GIVEN)], [CLASSES], padding_counts=True)[0].weights(torch.rand(10, 2)) is None


def test_points_over_padding_and_ignored_pixels_do_not_count():
    ids = maps()
    ids[:, 20:, :10] = -1
    ids[1, 20:25, :10] = -2  # ignored on one layer is ignored
    (targets,) = prepare([ids], [CLASSES], padding_counts=False)
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    expected = (y < 30) & (x < 44) & ~((y >= 20) & (y < 25) & (x < 10))
    for offset in (0.01, 0.5, 0.99):  # anywhere in a pixel
        points = (torch.stack([x, y], -1) + offset) / 64
        assert torch.equal(targets.weights(points).bool(), expected)
    # Where padding counts, only the ignored pixels do not.
    (targets,) = prepare([ids], [CLASSES], padding_counts=True)
    assert targets.weights(points).sum() == 64 * 64 - 50


def test_a_coordinate_just_below_one_lies_in_the_last_pixel():
    (targets,) = prepare([maps()], [CLASSES], padding_counts=False)
    targets.valid_size, targets.canvas = (30, 60), (60, 60)  # 60 * (1 - 2^-24) is 60 in float32
    assert targets.weights(torch.tensor([[1 - 2**-24, 0.1]])).tolist() == [1]


def changed(**pixels) -> torch.Tensor:
    ids = maps()
    for place, value in pixels.values():
        ids[place] = value
    return ids


WRONG_MAPS = {
    "an index without a class": (changed(a=((0, 0, 0), 3)), CLASSES, [r"hold \[3\]", "3 class_labels"]),
    "an ignore label": (changed(a=((0, 0, 0), 255)), CLASSES, [r"hold \[255\]", "-2"]),
    "an unknown negative value": (changed(a=((1, 0, 0), -3)), CLASSES, [r"hold \[-3\]"]),
    "a segment without a pixel": (changed(a=((1,), -1)), CLASSES, [r"segments \[2\]", "no pixel"]),
    "a segment on two layers": (changed(a=((1, 0, 0), 0)), CLASSES, [r"segment 0 lies on layers \[0, 1\]"]),
    "masks of 0 and 1": (stack(maps()).int(), CLASSES, ["segment", "uint8"]),
    "one mask of 0 and 1": (stack(maps())[:1].int(), CLASSES[:1], [r"hold \[1\]", "uint8"]),
    "fillers before classes": (maps(), torch.tensor([3, -100, 1]), ["-100", "at the end"]),
    "another size": (maps((30, 43)), CLASSES, [r"\(30, 43\)"]),
    "no layers": (maps()[0], CLASSES, [r"\(30, 44\)", "layers"]),
}
WRONG_STACKS = {
    "0 and 255": (255 * stack(maps()), CLASSES, ["from 0 to 255", "Divide"]),
    "negative values": (-stack(maps()).float(), CLASSES, ["from -1"]),
    "not a number": (stack(maps()) * float("nan"), CLASSES, ["nan"]),
    "a wide integer type": (stack(maps()).long(), CLASSES, ["torch.int64", "int32"]),
    "another count": (stack(maps())[:2], CLASSES, [r"\(2, 30, 44\)", r"\(3,\)"]),
    "a class out of range": (stack(maps()), torch.tensor([3, 5, 1]), [r"\[5\]", r"0\.\.4"]),
}


@pytest.mark.parametrize("case", [*WRONG_MAPS, *WRONG_STACKS])
def test_labels_that_do_not_fit_are_errors_that_name_the_image(case):
    masks, classes, words = {**WRONG_MAPS, **WRONG_STACKS}[case]
    good = maps() if case in WRONG_MAPS else stack(maps())
    with pytest.raises(ValueError, match="Image 1") as error:
        prepare([good, masks], [CLASSES, classes])
    for word in words:
        assert re.search(word, str(error.value)), (word, str(error.value))


def test_layers_that_only_fill_up_and_empty_images_are_no_error():
    ids = torch.full((2, 2, *SIZE), -100, dtype=torch.int32)
    ids[0] = maps()
    ids[1, 0] = -1
    with_three, empty = prepare(ids, torch.stack([CLASSES, torch.full_like(CLASSES, -100)]))
    assert len(with_three) == 3 and len(empty) == 0 and empty.weights(torch.rand(5, 2)) is None


def test_stacks_are_neither_copied_nor_converted():
    masks = stack(maps())
    (targets,) = prepare([masks], [CLASSES])
    assert targets.masks.data_ptr() == masks.data_ptr() and targets.masks.dtype == torch.uint8
