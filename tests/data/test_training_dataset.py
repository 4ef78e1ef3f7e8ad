import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
from labelled_samples import make_sample
from torch.utils.data import DataLoader

from m2f.data.augmentation import Compose, RandomFlip
from m2f.data.random_resize_crop import LargeScaleJitter, RandomCrop, ResizeAndCrop
from m2f.data.segment_map import Sample
from m2f.data.training_dataset import TrainingDataset

AUGMENTATION = Compose((RandomFlip(), ResizeAndCrop(LargeScaleJitter((20, 20), 0.5, 2.0), RandomCrop((15, 15)))))


class FakeReader:
    """Samples from their index; those in `broken` raise what readers raise."""

    def __init__(self, count: int = 12, broken: tuple[int, ...] = ()):
        self.count, self.broken = count, broken

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if index in self.broken:
            error = FileNotFoundError if index % 2 else ValueError
            raise error(f"{self.image_path(index)} is broken")
        return make_sample(16, 20, seed=index, name=self.name_of(index))

    def name_of(self, index: int) -> str:
        return f"{index}.png"

    def image_path(self, index: int) -> Path | None:
        return Path("folder", self.name_of(index)) if index < 10 else None


class FailingAugmentation:
    def __call__(self, sample, generator):
        raise ValueError("the augmentation is wrong")


def keep(samples: list[Sample]) -> list[tuple]:
    """A batch as what can be compared."""
    return [(s.name, np.asarray(s.image).tobytes(), s.segments.ids.tobytes(), s.segments.ids.shape) for s in samples]


def items(dataset: TrainingDataset, workers: int = 0, **options) -> list[tuple]:
    loader = DataLoader(dataset, batch_size=5, num_workers=workers, collate_fn=keep, **options)
    return [item for batch in loader for item in batch]


def test_items_depend_on_seed_epoch_and_index_alone():
    dataset = TrainingDataset(FakeReader(), AUGMENTATION, seed=3)
    first = keep([dataset[i] for i in range(12)])
    assert keep([dataset[i] for i in reversed(range(12))])[::-1] == first
    dataset.set_epoch(1)
    assert dataset.epoch == 1
    second = keep([dataset[i] for i in range(12)])
    assert all(a != b for a, b in zip(first, second, strict=True))
    assert keep([TrainingDataset(FakeReader(), AUGMENTATION, seed=3, epoch=1)[4]]) == second[4:5]
    assert keep([TrainingDataset(FakeReader(), AUGMENTATION, seed=4, epoch=1)[4]]) != second[4:5]


def test_generator_is_the_documented_one():
    dataset = TrainingDataset(FakeReader(), AUGMENTATION, seed=3, epoch=2)
    expected = AUGMENTATION(FakeReader()[7], np.random.default_rng([3, 2, 7]))
    assert keep([dataset[7]]) == keep([expected])


def test_without_augmentation_samples_stay():
    assert keep([TrainingDataset(FakeReader())[2]]) == keep([FakeReader()[2]])


def test_workers_change_nothing():
    """Two broken images too: their replacement and their count."""
    alone = TrainingDataset(FakeReader(broken=(3, 8)), AUGMENTATION, on_error="skip")
    shared = TrainingDataset(FakeReader(broken=(3, 8)), AUGMENTATION, on_error="skip")
    with pytest.warns(
        RuntimeWarning, match=r"image [38] \(folder/[38].png\) cannot be read and is left out"
    ) as caught:
        expected = items(alone)
    assert len(caught) == 2
    assert items(shared, workers=2, multiprocessing_context="fork") == expected
    assert len(expected) == 12 and not {"3.png", "8.png"} & {item[0] for item in expected}
    assert alone.skipped == shared.skipped == 2
    assert alone.skipped_names == shared.skipped_names == ["3.png", "8.png"]


def test_spawned_worker_that_lives_on_sees_the_epoch_and_shares_the_count():
    dataset = TrainingDataset(FakeReader(6, broken=(1,)), AUGMENTATION, on_error="skip")
    loader = DataLoader(
        dataset, 5, num_workers=1, collate_fn=keep, persistent_workers=True, multiprocessing_context="spawn"
    )
    for epoch in (0, 1):
        dataset.set_epoch(epoch)
        found = [item for batch in loader for item in batch]
        assert dataset.skipped == 1
        alone = TrainingDataset(FakeReader(6, broken=(1,)), AUGMENTATION, epoch=epoch, on_error="skip")
        with pytest.warns(RuntimeWarning):
            assert found == items(alone)


def test_plain_pickle_gives_a_copy():
    dataset = TrainingDataset(FakeReader(), AUGMENTATION, seed=1, epoch=5)
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy.epoch == 5 and keep([copy[3]]) == keep([dataset[3]])
    copy.set_epoch(6)
    assert dataset.epoch == 5


@pytest.mark.parametrize(("index", "name"), [(3, "folder/3.png"), (8, "folder/8.png"), (11, "11.png")])
def test_broken_image_stops_the_run_with_its_path(index, name):
    dataset = TrainingDataset(FakeReader(broken=(3, 8, 11)))
    with pytest.raises(ValueError, match=rf"image {index} \({name}\) cannot be read: .* is broken; .*on_error='skip'"):
        dataset[index]
    assert dataset.skipped == 0
    with pytest.raises(ValueError, match=r"folder/3.png\) cannot be read"):
        items(dataset, workers=1, multiprocessing_context="fork")


def test_broken_image_is_warned_of_once_and_replaced_anew_each_epoch():
    dataset, names = TrainingDataset(FakeReader(broken=(3,)), on_error="skip"), set()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for epoch in range(20):
            dataset.set_epoch(epoch)
            names.add(dataset[3].name)
    assert len(caught) == 1 and dataset.skipped == 1
    assert len(names) > 5 and "3.png" not in names


def test_replacement_can_be_broken_too():
    dataset = TrainingDataset(FakeReader(4, broken=(0, 1, 2)), on_error="skip")
    with pytest.warns(RuntimeWarning):
        assert {dataset[i].name for i in range(4)} == {"3.png"}


def test_nothing_but_broken_images_is_an_error():
    dataset = TrainingDataset(FakeReader(2, broken=(0, 1)), on_error="skip")
    with (
        pytest.warns(RuntimeWarning),
        pytest.raises(ValueError, match="16 images drawn one after the other could not"),
    ):
        dataset[0]
    assert dataset.skipped == 2


def test_error_of_the_augmentation_is_not_skipped():
    dataset = TrainingDataset(FakeReader(), FailingAugmentation(), on_error="skip")
    with pytest.raises(ValueError, match="the augmentation is wrong"):
        dataset[0]
    assert dataset.skipped == 0


def test_indices_are_those_of_a_sequence():
    dataset = TrainingDataset(FakeReader(3), AUGMENTATION)
    assert len(list(dataset)) == 3 and keep([dataset[-1]]) == keep([dataset[2]])


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="on_error must be one of raise, skip, got 'ignore'"):
        TrainingDataset(FakeReader(), on_error="ignore")
    with pytest.raises(ValueError, match="seed must be at least 0, got -1"):
        TrainingDataset(FakeReader(), seed=-1)
    dataset = TrainingDataset(FakeReader())
    with pytest.raises(ValueError, match="epoch must be at least 0, got -2"):
        dataset.set_epoch(-2)
