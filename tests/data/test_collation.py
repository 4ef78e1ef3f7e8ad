import pickle

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from labelled_samples import make_sample, single_segments
from PIL import Image
from small_models import small_model
from torch.utils.data import DataLoader
from transformers.trainer_pt_utils import nested_concat, nested_numpify

from m2f.data.collation import Collator
from m2f.data.sample_geometry import resize
from m2f.data.segment_map import Sample, SegmentMap
from m2f.image_processing.image_processing_m2f import M2FImageProcessor

FORMS = ("maps", "masks")


def empty_sample(height: int, width: int) -> Sample:
    segments = SegmentMap(np.full((1, height, width), -1, np.int32), np.zeros(0, np.int64))
    return Sample(Image.new("RGB", (width, height)), segments, "empty.png")


def masks_of(batch: dict, image: int) -> dict[int, np.ndarray]:
    """class -> (H, W) bool of a batch of either form; the samples here have each class once."""
    labels, classes = batch["mask_labels"][image].numpy(), batch["class_labels"][image].tolist()
    stack = labels if labels.dtype == np.uint8 else [(labels == number).any(0) for number in range(len(classes))]
    return {c: np.array(mask, bool) for c, mask in zip(classes, stack, strict=True) if c != -100}


@pytest.mark.parametrize("form", FORMS)
def test_labels_stand_where_the_pixels_stand(form):
    """Two sizes in one batch; the canvas is 64 x 96, the largest of each rounded up to 32, images in its top left."""
    samples = [make_sample(40, 96, seed=1), make_sample(64, 33, count=3, seed=2)]
    batch = Collator(M2FImageProcessor(do_resize=False), form)(samples)
    assert list(batch) == ["pixel_values", "pixel_mask", "mask_labels", "class_labels"]
    assert batch["pixel_values"].shape == (2, 3, 64, 96) and batch["pixel_values"].dtype == torch.float32
    assert batch["pixel_mask"].sum((1, 2)).tolist() == [40 * 96, 64 * 33] and batch["pixel_mask"].dtype == torch.int64
    for image, sample in enumerate(samples):
        height, width = sample.segments.size
        found = masks_of(batch, image)
        assert found.keys() == set(sample.segments.class_ids.tolist())
        for class_id, single in single_segments(sample).items():
            expected = np.zeros((64, 96), bool)
            expected[:height, :width] = single.segments.ids[0] == 0
            np.testing.assert_array_equal(found[class_id], expected)


def test_maps_are_the_compact_labels():
    """Values of the contract: -1 nothing and padding, -2 ignored, -100 a layer that only fills up."""
    two_layers, one_layer = make_sample(32, 32, count=4, seed=1), make_sample(32, 30, count=1, seed=1)
    layers = len(two_layers.segments.ids)
    assert layers > 1 == len(one_layer.segments.ids)
    batch = Collator(M2FImageProcessor(do_resize=False), "maps")([two_layers, one_layer])
    labels = batch["mask_labels"]
    assert labels.dtype == torch.int32 and labels.shape == (2, layers, 32, 32)
    np.testing.assert_array_equal(labels[0], two_layers.segments.ids)
    np.testing.assert_array_equal(labels[1, 0, :, :30], one_layer.segments.ids[0])
    assert (labels[1, 0, :, 30:] == -1).all() and (labels[1, 1:] == -100).all()
    assert (labels == -2).any()
    assert batch["class_labels"].tolist() == [two_layers.segments.class_ids.tolist(), [0, -100, -100, -100]]
    assert batch["class_labels"].dtype == torch.int64


def test_masks_are_padded_with_zeros():
    batch = Collator(M2FImageProcessor(do_resize=False), "masks")([make_sample(count=4), make_sample(count=1)])
    labels = batch["mask_labels"]
    assert labels.dtype == torch.uint8 and set(labels.unique().tolist()) == {0, 1}
    assert not labels[1, 1:].any() and not labels[:, :, 24:].any() and not labels[:, :, :, 37:].any()


@pytest.mark.parametrize("form", FORMS)
def test_labels_are_resized_with_their_image(form):
    """The image is shrunk from 47 x 75 to 24 x 38; nearest neighbours of PIL give the expected masks."""
    sample = make_sample(47, 75, seed=5)
    batch = Collator(M2FImageProcessor(size={"shortest_edge": 24}), form)([sample])
    assert batch["pixel_mask"][0].sum() == 24 * 38 and batch["pixel_mask"][0, :24, :38].all()
    found = masks_of(batch, 0)
    for class_id, single in single_segments(sample).items():
        mask = Image.fromarray((single.segments.ids[0] == 0).astype(np.uint8))
        expected = np.asarray(mask.resize((38, 24), Image.Resampling.NEAREST))
        np.testing.assert_array_equal(found.pop(class_id, np.zeros((32, 64)))[:24, :38], expected)
    assert not found


@pytest.mark.parametrize("form", FORMS)
def test_segment_that_shrinks_to_nothing_is_dropped(form):
    """One pixel of 40 x 40 between the centres of 10 x 10, and a square that stays."""
    ids = np.full((1, 40, 40), -1, np.int32)
    ids[0, 0, 0], ids[0, 10:30, 10:30] = 0, 1
    sample = Sample(Image.new("RGB", (40, 40)), SegmentMap(ids, np.array([7, 9])), "")
    batch = Collator(M2FImageProcessor(size={"height": 10, "width": 10}), form)([sample])
    assert batch["class_labels"].tolist() == [[9]]
    assert masks_of(batch, 0)[9].sum() == 25


def test_keep_size_and_canvas_are_said_to_the_processor():
    processor = M2FImageProcessor(size={"shortest_edge": 20}, do_pad=False)
    sample = make_sample(40, 50)
    batch = Collator(processor, keep_size=True, canvas=(64, 70))([sample])
    assert batch["pixel_values"].shape == (1, 3, 64, 70) and batch["mask_labels"].shape[2:] == (64, 70)
    assert batch["pixel_mask"][0, :40, :50].all() and batch["pixel_mask"].sum() == 2000
    expected = processor([sample.image], do_resize=False, return_tensors="pt")["pixel_values"]
    assert torch.equal(batch["pixel_values"][:, :, :40, :50], expected) and not batch["pixel_values"][:, :, 40:].any()
    assert processor.size == {"shortest_edge": 20}  # only this call was different
    assert Collator(processor)([sample])["pixel_values"].shape == (1, 3, 20, 25)
    with pytest.raises(ValueError, match="does not fit into pad_size 32 x 32"):
        Collator(processor, keep_size=True, canvas=(32, 32))([sample])


def test_labels_for_trainer_count_the_segments():
    """Trainer counts `labels != -100`; an entry of its own, so that changing one leaves the other."""
    samples = [make_sample(count=4), make_sample(count=2), empty_sample(24, 37)]
    batch = Collator(M2FImageProcessor(do_resize=False), count_labels=True)(samples)
    assert batch["labels"].ne(-100).sum() == sum(len(sample.segments.class_ids) for sample in samples)
    assert torch.equal(batch["labels"], batch["class_labels"])
    assert batch["labels"].data_ptr() != batch["class_labels"].data_ptr()


def test_unknown_form_is_refused():
    with pytest.raises(ValueError, match="form must be one of maps, masks, got 'rle'"):
        Collator(M2FImageProcessor(), "rle")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("empty", ["all", "one"])
def test_images_without_segments_go_through_the_model(form, empty):
    """The loss is finite and reaches every parameter, as distributed training needs."""
    samples = [empty_sample(32, 40), empty_sample(40, 32) if empty == "all" else make_sample(40, 32, count=4, seed=1)]
    batch = Collator(M2FImageProcessor(do_resize=False), form)(samples)
    assert batch["class_labels"].shape == (2, 0 if empty == "all" else 4)
    assert batch["mask_labels"].shape[2:] == (64, 64) and (batch["class_labels"][0] == -100).all()
    model = small_model()
    loss = model(**batch).loss
    loss.backward()
    assert loss.isfinite() and all(parameter.grad is not None for parameter in model.parameters())


def test_both_forms_train_alike():
    """The same points are drawn; nothing is ignored here, which the masks could not say."""
    samples = [make_sample(40, 32, count=4, seed=1), make_sample(30, 50, count=3, seed=2)]
    samples = [Sample(s.image, s.segments.with_ids(np.maximum(s.segments.ids, -1)), s.name) for s in samples]
    model, losses = small_model(), []
    for form in FORMS:
        torch.manual_seed(0)
        losses.append(model(**Collator(M2FImageProcessor(do_resize=False), form)(samples)).loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def two_batches(form: str) -> list[dict]:
    """Different numbers of segments and layers; one canvas, as `canvas` is for."""
    collate = Collator(M2FImageProcessor(do_resize=False), form, canvas=(64, 64), count_labels=True)
    few, many = make_sample(40, 32, count=1, seed=1), make_sample(30, 50, count=6, seed=2)
    return [collate([few, empty_sample(20, 20)]), collate([many])]


def labels_of(batch: dict) -> dict[str, torch.Tensor]:
    return {key: batch[key] for key in ("mask_labels", "class_labels", "labels")}


def assert_all_arrived(gathered: dict, batches: list[dict]):
    """Each image's labels, without what fills up, are those of the batch it came from."""
    image = 0
    for batch in batches:
        for i in range(len(batch["class_labels"])):
            found, expected = masks_of(gathered, image), masks_of(batch, i)
            assert found.keys() == expected.keys()
            assert all(np.array_equal(found[c], expected[c]) for c in expected)
            image += 1
    assert len(gathered["class_labels"]) == image
    assert gathered["mask_labels"].dtype == batches[0]["mask_labels"].dtype


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("order", [1, -1])
def test_batches_survive_trainers_concatenation(form, order):
    batches = two_batches(form)[::order]
    gathered = nested_concat(*map(labels_of, batches), padding_index=-100)
    assert_all_arrived(gathered, batches)
    on_host = nested_numpify(gathered)
    assert_all_arrived({key: torch.from_numpy(array) for key, array in on_host.items()}, batches)
    assert gathered["labels"].ne(-100).sum() == sum(batch["labels"].ne(-100).sum() for batch in batches)


@pytest.fixture
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


@pytest.mark.parametrize("form", FORMS)
def test_last_batch_of_a_loop_keeps_its_segments(accelerator, form):
    """5 images by twos: Accelerate cuts what it gathers of the last batch to 1 along the first dimension, which are
    segments where labels are lists per image."""
    samples = [make_sample(count=count, seed=1) for count in (3, 1, 4, 2, 5)]
    collate = Collator(M2FImageProcessor(do_resize=False), form, canvas=(32, 64))
    loader = accelerator.prepare(DataLoader(samples, 2, collate_fn=collate))
    gathered = [accelerator.gather_for_metrics((b["mask_labels"], b["class_labels"])) for b in loader]
    batches = [{"mask_labels": masks, "class_labels": classes} for masks, classes in gathered]
    found = [masks_of(batch, image).keys() for batch in batches for image in range(len(batch["class_labels"]))]
    assert found == [set(sample.segments.class_ids.tolist()) for sample in samples]


def test_a_worker_collates():
    samples = [make_sample(seed=i) for i in range(4)]
    collate = Collator(M2FImageProcessor(do_resize=False))
    copy = pickle.loads(pickle.dumps(collate))  # as a spawned worker gets it
    loader = DataLoader(samples, 2, collate_fn=copy, num_workers=1, multiprocessing_context="fork")
    for found, expected in zip(loader, (collate(samples[:2]), collate(samples[2:])), strict=True):
        assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_resized_labels_and_pixels_are_those_of_the_geometry():
    """Evaluation resizes labels as augmentations do."""
    sample = make_sample(30, 41, seed=4)
    batch = Collator(M2FImageProcessor(size={"height": 17, "width": 90}))([sample])
    np.testing.assert_array_equal(batch["mask_labels"][0, :, :17, :90], resize(sample, (17, 90)).segments.ids)
