import pytest
import torch

from m2f.modeling_m2f.loss_normalizer import of_accumulated_steps, of_this_step

CPU = torch.device("cpu")


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


@pytest.mark.parametrize("as_tensor", [False, True])
def test_totals_of_accumulated_steps_come_from_the_counts(as_tensor):
    """12 targets in 5 images of 10 queries: class weights 12 + 0.1 * 38."""
    items, images = (torch.tensor(12), torch.tensor(5)) if as_tensor else (12, 5)
    normalizer = of_accumulated_steps(4, 2, items, images, 10, 0.1, CPU)
    assert normalizer.num_masks == 12 and normalizer.class_weight.item() == pytest.approx(15.8)
    # No more than all 50 queries can be matched.
    assert of_accumulated_steps(4, 2, 70, 5, 10, 0.1, CPU).class_weight.item() == pytest.approx(50)
    assert of_accumulated_steps(0, 2, 0, 5, 10, 0.1, CPU).num_masks == 1


def test_without_the_number_of_images_the_others_are_taken_to_be_like_these():
    """4 targets in 2 images, 12 in all: 6 images; and this batch's own totals where it is the step."""
    normalizer = of_accumulated_steps(4, 2, 12, None, 10, 0.1, CPU)
    assert normalizer.class_weight.item() == pytest.approx(12 + 0.1 * 48)
    assert of_accumulated_steps(4, 2, 4, None, 10, 0.1, CPU).class_weight.item() == pytest.approx(4 + 0.1 * 16)
    assert of_accumulated_steps(0, 2, 0, None, 10, 0.1, CPU).class_weight.item() == pytest.approx(0.1 * 20)
