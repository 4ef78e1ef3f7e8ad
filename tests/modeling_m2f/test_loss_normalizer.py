import pytest
import torch

from m2f.modeling_m2f.loss_normalizer import (
    class_weight_of_counts,
    count_step,
    of_counted_step,
    of_similar_batches,
    of_this_step,
)

OWN = torch.tensor([5.0])  # class weights of a batch at hand


def test_a_step_of_one_process_divides_by_its_own_totals():
    normalizer = of_this_step(7, torch.tensor([3.0, 4.0]), reduce=True)
    assert normalizer.num_masks == 7 and normalizer.class_weight.tolist() == [3, 4]
    assert of_this_step(0, torch.tensor([3.0]), reduce=True).num_masks == 1


def _count_on_rank(rank: int, counts: list[int], folder: str, results):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=len(counts)
    )
    reduced = of_this_step(counts[rank], torch.tensor([1.0 + rank, 10.0]), reduce=True)
    own = of_this_step(counts[rank], torch.tensor([1.0 + rank, 10.0]), reduce=False)
    results[rank] = (reduced.num_masks.item(), reduced.class_weight.tolist(), own.num_masks.item())
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(("counts", "expected"), [([10, 6], 8.0), ([0, 0], 0.5), ([0, 3], 1.5)])
def test_reference_row_22_totals_are_means_over_the_processes(counts, expected, tmp_path):
    """The original: 10 and 6 masks on two processes count 8 on each; transformers divides twice and counts 4. No mask
    at all counts as one on one of the processes, so that averaged gradients are those of a single process."""
    results = torch.multiprocessing.get_context("spawn").Manager().dict()
    torch.multiprocessing.spawn(_count_on_rank, (counts, str(tmp_path), results), nprocs=len(counts))
    for rank, count in enumerate(counts):
        assert results[rank] == (expected, [1.5, 10.0], max(count, 1))


def equal_weights(num_items, num_images) -> torch.Tensor:
    """Of 10 queries for each image."""
    return class_weight_of_counts(num_items, num_images, 10, torch.tensor([1.0, 1.0, 0.1]))


@pytest.mark.parametrize("as_tensor", [False, True])
def test_totals_of_accumulated_steps_come_from_the_counts(as_tensor):
    """12 targets in 5 images of 10 queries: class weights 12 + 0.1 * 38."""
    items, images = (torch.tensor(12), torch.tensor(5)) if as_tensor else (12, 5)
    normalizer = of_counted_step(items, equal_weights(items, images), OWN)
    assert normalizer.num_masks == 12 and normalizer.class_weight.item() == pytest.approx(15.8)
    # No more than all 50 queries can be matched.
    assert equal_weights(70, 5).item() == pytest.approx(50)
    assert of_counted_step(0, 1.0, OWN).num_masks == 1


def test_without_the_number_of_images_the_others_are_taken_to_be_like_these():
    """4 targets in 2 images, 12 in all: 6 images; and this batch's own totals where it is the step."""
    own = torch.tensor([4 + 0.1 * 16])
    assert of_similar_batches(4, own, 12).class_weight.item() == pytest.approx(12 + 0.1 * 48)
    assert of_similar_batches(4, own, 4).class_weight.item() == pytest.approx(4 + 0.1 * 16)
    assert of_similar_batches(0, torch.tensor([0.1 * 20]), 0).class_weight.item() == pytest.approx(0.1 * 20)


def test_class_weights_of_a_step_are_those_of_its_targets():
    """Classes of weights 2, 0.5 and 0, "no object" 0.1; 4 queries. By hand: 2 + 0.5 + 0.1 * 2; no target, 0.1 * 4; six
    targets of mean weight 1.5, four of which are matched."""
    weight = torch.tensor([2.0, 0.5, 0.0, 0.1])
    images = [torch.tensor([0, 1]), torch.tensor([], dtype=torch.int64), torch.tensor([0, 0, 0, 0, 1, 1])]
    for image, expected in zip(images, (2.7, 0.4, 6.0), strict=True):
        assert count_step([image], 4, weight).tolist() == pytest.approx([len(image), 1, expected])
    assert count_step(images, 4, weight).tolist() == pytest.approx([8, 3, 2.7 + 0.4 + 6.0])
    assert count_step([], 4, weight).tolist() == [0, 0, 0]


def test_counts_that_do_not_tell_the_class_weights_are_an_error():
    with pytest.raises(ValueError, match="class_weight_in_batch.*count_targets"):
        class_weight_of_counts(12, 5, 10, torch.tensor([1.0, 2.0, 0.1]))
    assert class_weight_of_counts(12, 5, 10, torch.tensor([3.0, 3.0, 0.1])).item() == pytest.approx(36 + 3.8)


def test_a_batch_in_which_nothing_weighs_anything_has_a_loss_of_zero_and_not_nan():
    """As with classes of weight 0 alone, and no_object_weight 0."""
    nothing = torch.zeros(2)
    normalizers = (
        of_this_step(3, nothing, True),
        of_counted_step(3, 0.0, nothing),
        of_similar_batches(3, nothing, 6),
    )
    for normalizer in normalizers:
        assert (nothing / normalizer.class_weight).tolist() == [0, 0]
