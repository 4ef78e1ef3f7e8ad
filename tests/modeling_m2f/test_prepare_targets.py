import re

import numpy as np
import pytest
import torch
from torch.nn.functional import grid_sample, pad

from m2f.modeling_m2f.prepare_targets import NOTHING, countable_classes, prepare_targets

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


STACKS = {
    "uint8 stack": lambda masks: masks,
    "bool stack": lambda masks: masks.bool(),
    "float stack": lambda masks: masks.float(),
    "int64 stack": lambda masks: masks.long(),  # what `datasets` with format torch gives
    "int16 stack": lambda masks: masks.short(),
    "int8 stack": lambda masks: masks.char(),
    "uint16 stack": lambda masks: masks.to(torch.uint16),
    "array": lambda masks: masks.numpy(),
    "int64 array of another byte order": lambda masks: masks.numpy().astype(">i8"),
    "reversed array": lambda masks: masks.flip(1).numpy()[:, ::-1],
    "nested lists": lambda masks: masks.tolist(),
    "list of masks": lambda masks: list(masks.long()),
    "list of arrays": lambda masks: [mask.numpy() for mask in masks],
}


@pytest.fixture(params=["index maps", "index map array", *STACKS, "stack with fillers"])
def targets_and_masks(request):
    """Targets of one image and the same masks one by one."""
    ids = maps()
    masks, classes = stack(ids), CLASSES
    others = {"index maps": ids, "index map array": ids.numpy(), "stack with fillers": masks[[0, 0, 1, 1, 2]]}
    given = STACKS[request.param](masks) if request.param in STACKS else others[request.param]
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
    "classes without layers": (maps()[:0], CLASSES, [r"\(0, ", r"\(3,\)"]),
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
    "index maps of another type": (maps()[[0, 1, 1]].long(), CLASSES, ["torch.int64", "from -1 to 2", "int32"]),
    "65535 as 1": (65535 * stack(maps()).to(torch.uint16), CLASSES, ["from 0 to 65535"]),
    "masks of different sizes": ([*stack(maps())[:2], torch.zeros(3, 3)], CLASSES, ["mask_labels", "one shape"]),
    "no masks at all": (None, CLASSES, ["mask_labels", "NoneType"]),
    "classes that are no integers": (stack(maps()), [3.0, 1.0, 3.0], ["float64", "integers"]),
    "classes that are text": (stack(maps()), ["a", "b", "c"], ["class_labels", "list"]),
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


CLASS_FORMS = (np.array([3, 1, 3], np.uint8), [3, 1, 3], (np.int64(3), 1, 3), [torch.tensor(3), 1, 3], CLASSES.short())


@pytest.mark.parametrize("classes", CLASS_FORMS)
def test_classes_may_be_lists_and_arrays(classes):
    (targets,) = prepare([stack(maps())], [classes])
    assert targets.classes.tolist() == [3, 1, 3] and targets.classes.dtype == torch.int64


NO_MASKS = (
    torch.tensor([]),
    torch.zeros(0, *SIZE, dtype=torch.uint8),
    torch.zeros(0, 0, 0, dtype=torch.int64),
    torch.zeros(0, 5, 7, dtype=torch.int32),
    torch.full((1, *SIZE), NOTHING, dtype=torch.int32),
    np.zeros((0, *SIZE)),
    [],
)


@pytest.mark.parametrize("classes", [torch.tensor([]), np.zeros(0), np.zeros((0,), bool), [], (), [-100]])
def test_an_image_without_targets_may_have_labels_of_any_type_and_shape(classes):
    """`torch.tensor([])` is float32."""
    for masks in NO_MASKS:
        if len(classes) and len(masks) == 0:
            continue  # a class that fills up, and nothing that it stands for
        with_three, none = prepare([maps(), masks], [CLASSES, classes])
        assert len(with_three) == 3 and len(none) == 0 and none.at_shared_points(torch.rand(5, 2)).shape == (0, 5)


@pytest.mark.parametrize("form", ["index maps", "uint8 stack", "bool stack", "float stack", "int64 stack"])
@pytest.mark.parametrize("empty", [[0], [1], [2], [0, 2], [0, 1, 2]])
def test_a_mask_without_a_pixel_is_dropped_as_if_it_were_not_given(form, empty):
    """In every form, with its class: the values are those of the other masks alone."""
    ids = maps()
    ids[torch.isin(ids, torch.tensor(empty))] = NOTHING
    kept = [n for n in range(3) if n not in empty]
    given = ids if form == "index maps" else STACKS[form](stack(ids))
    classes = torch.tensor([4, 1, 3])
    (targets,) = prepare([given], [classes])
    assert targets.classes.tolist() == classes[kept].tolist()
    (alone,) = prepare([stack(ids)[kept]], [classes[kept]])
    points = torch.rand(200, 2)
    assert torch.equal(targets.at_shared_points(points), alone.at_shared_points(points))
    chosen, own = torch.arange(len(kept)), torch.rand(len(kept), 50, 2)
    assert torch.equal(targets.at_own_points(chosen, own), alone.at_own_points(chosen, own))
    # What is counted for accumulated batches is what is kept.
    assert [c.tolist() for c in countable_classes([classes], [given])] == [classes[kept].tolist()]
    assert [c.tolist() for c in countable_classes([[3, -100, 1]])] == [[3, 1]]


def test_a_dropped_target_that_somebody_may_have_counted_is_warned_about(monkeypatch):
    warnings = []
    monkeypatch.setattr("m2f.modeling_m2f.prepare_targets.logger.warning_once", warnings.append)
    masks = stack(maps())
    masks[1] = 0
    arguments = [[SIZE], GIVEN, CANVAS, True, 5, 8, torch.device("cpu")]
    prepare_targets([masks], [CLASSES], *arguments)
    prepare_targets([masks[[0, 2]]], [CLASSES[[0, 2]]], *arguments, counted_by_labels=True)
    assert not warnings
    prepare_targets([masks], [CLASSES], *arguments, counted_by_labels=True)
    assert "Image 0: 1 targets have no pixel" in warnings[0]
