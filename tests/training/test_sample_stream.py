from collections import Counter

import numpy as np
import pytest
from shapes_dataset import ShapesDataset, flips

from m2f.data.training_dataset import TrainingDataset
from m2f.training.sample_stream import SampleStream, StreamBatches


def test_every_image_comes_once_an_epoch_in_an_order_of_its_own():
    stream = SampleStream(ShapesDataset(7), seed=3, length=70)
    epochs = [[stream.index_at(epoch * 7 + place) for place in range(7)] for epoch in range(10)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 5


def test_the_order_belongs_to_the_seed():
    orders = [[SampleStream(ShapesDataset(20), seed, 40).index_at(i) for i in range(40)] for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


def test_an_item_has_the_name_and_the_pixels_of_its_index():
    dataset = ShapesDataset(5)
    stream = SampleStream(dataset, seed=0, length=30)
    for position in (0, 4, 5, 23):
        index = stream.index_at(position)
        assert stream.name_of(position) == stream[position].name == dataset.name_of(index)
        assert np.array_equal(np.asarray(stream[position].image), np.asarray(dataset[index].image))


def test_an_image_is_augmented_anew_each_time():
    """32 times flipped with probability 0.5: both kinds occur, and a second reading gives the same ones."""
    data = TrainingDataset(SampleStream(ShapesDataset(1), 0, 32), flips().augmentation, seed=0)
    plain = np.asarray(ShapesDataset(1)[0].image)
    flipped = [not np.array_equal(np.asarray(data[i].image), plain) for i in range(32)]
    assert 0 < sum(flipped) < 32
    assert flipped == [not np.array_equal(np.asarray(data[i].image), plain) for i in range(32)]


@pytest.mark.parametrize(("passes", "processes"), [(1, 1), (2, 1), (1, 2), (3, 2), (1, 6)])
def test_a_step_has_the_same_images_for_any_number_of_passes_and_processes(passes, processes):
    samplers = [StreamBatches(12, passes, processes, rank, 0, 4) for rank in range(processes)]
    batches = [list(sampler) for sampler in samplers]
    assert all(len(own) == len(sampler) == 4 * passes for own, sampler in zip(batches, samplers, strict=True))
    for step in range(4):
        images = [i for own in batches for batch in own[step * passes : (step + 1) * passes] for i in batch]
        assert Counter(images) == Counter(range(step * 12, (step + 1) * 12))


def test_a_run_that_goes_on_reads_what_comes_next():
    assert list(StreamBatches(8, 2, 2, 1, 3, 5)) == list(StreamBatches(8, 2, 2, 1, 0, 5))[6:]


def test_a_batch_that_cannot_be_divided_is_an_error():
    with pytest.raises(ValueError, match="batch_size 6 cannot .* 4 processes with 1 passes .* multiple of 4"):
        StreamBatches(6, 1, 4, 0, 0, 1)


def test_an_empty_dataset_is_an_error():
    with pytest.raises(ValueError, match="no image in split 'train'"):
        SampleStream(ShapesDataset(0), 0, 10)
