import numpy as np
import pytest
from fake_reader import FakeReader, good
from PIL import Image
from shapes_dataset import ShapesDataset, shapes_processor

from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.validation.evaluation_batches import (
    TestTimeView,
    batches_by_shape,
    batches_in_order,
    batches_of_one_size,
    evaluation_loader,
    processed_sizes,
    scaled_size,
    shard_batches,
)


@pytest.mark.parametrize(("count", "batch_size", "processes"), [(7, 2, 1), (7, 2, 2), (5, 2, 3), (1, 4, 2), (8, 2, 2)])
def test_every_image_counts_on_one_process_and_all_have_equally_many_batches(count, batch_size, processes):
    batches = batches_in_order(count, batch_size)
    shards = [shard_batches(batches, processes, rank) for rank in range(processes)]
    counted = [index for shard in shards for batch in shard for index, counts in batch if counts]
    assert sorted(counted) == list(range(count))
    assert len({len(shard) for shard in shards}) == 1
    assert all(1 <= len(batch) <= batch_size for shard in shards for batch in shard)


def test_batches_are_of_similar_shape_and_of_limited_memory():
    """Portrait and landscape are kept apart; a large image counts for as many as it takes the memory of."""
    sizes = [(8, 12), (12, 8), (8, 12), (12, 8), (8, 12), None, (16, 24), (16, 24)]
    batches = batches_by_shape(sizes, 4)
    assert sorted(index for batch in batches for index in batch) == list(range(8))
    assert batches[-1] == [5]  # not known
    budget = 4 * 8 * 12  # the median image's pixels
    assert [7 in batch or 6 in batch for batch in batches] == [True, True, False, False, False]
    for batch in batches[:-1]:
        heights, widths = zip(*(sizes[index] for index in batch), strict=True)
        assert len(batch) * max(heights) * max(widths) <= budget
        assert len({sizes[index] for index in batch}) == 1


def test_equal_images_fill_whole_batches_in_their_order():
    assert batches_by_shape([(4, 4)] * 5, 2) == [[0, 1], [2, 3], [4]]
    assert batches_by_shape([None] * 3, 2) == [[0, 1], [2]]


def test_sizes_are_those_after_the_processor(tmp_path):
    """Of files without decoding them; upright, as the readers open them."""
    Image.new("RGB", (40, 20)).save(tmp_path / "plain.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.new("RGB", (40, 20)).save(tmp_path / "turned.jpg", exif=exif)
    (tmp_path / "broken.png").write_bytes(b"no image")
    names = ["plain.png", "turned.jpg", "broken.png", "missing.png"]
    dataset = FakeReader([good(name) for name in names], paths=[tmp_path / name for name in names])
    expected = [(10, 20), (20, 10), None, None]
    assert processed_sizes(dataset, M2FImageProcessor(size={"shortest_edge": 10})) == expected
    assert processed_sizes(dataset, M2FImageProcessor(do_resize=False))[0] == (20, 40)
    assert processed_sizes(FakeReader([good("a")]), M2FImageProcessor()) == [None]


def test_views_are_scaled_and_mirrored_before_the_padding():
    processor, dataset = shapes_processor(), ShapesDataset(2)
    views = [TestTimeView(), TestTimeView(flipped=True), TestTimeView(0.5)]
    (batch,) = evaluation_loader(dataset, processor, [[(0, True), (1, False)]], views=views)
    assert batch.indices == [0, None] and [sample.name for sample in batch.samples] == ["train-0.png", "train-1.png"]
    plain, mirrored, half = (view["pixel_values"] for view in batch.views)
    assert np.allclose(mirrored.flip(-1), plain) and not np.allclose(mirrored, plain)
    assert half.shape == (2, 3, 32, 32)


def test_all_edges_are_scaled():
    assert scaled_size({"shortest_edge": 512, "longest_edge": 2048}, 1.75) == {
        "shortest_edge": 896,  # the original's largest scale and its limit for ADE20K
        "longest_edge": 3584,
    }
    assert scaled_size({"height": 1, "width": 3}, 0.5) == {"height": 1, "width": 2}


def test_batches_of_one_size_hold_no_padding():
    sizes = [(4, 4), (2, 8), (4, 4), None, (4, 4), (2, 8), (9, 9)]
    batches = batches_of_one_size(sizes, lambda size: 2 if size == (4, 4) else 3)
    assert batches == [[6], [0, 2], [1, 5], [4], [3]]
    assert batches_of_one_size([None, None], lambda size: 9) == [[0], [1]]
