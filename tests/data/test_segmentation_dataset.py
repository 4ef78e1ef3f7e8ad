from fake_reader import FakeReader

from m2f.data.segmentation_dataset import thing_labels


def test_things_are_those_that_the_dataset_names_or_all():
    assert thing_labels(FakeReader([], thing_label_ids=[0])) == [0]
    assert thing_labels(FakeReader([])) == [0, 1]
