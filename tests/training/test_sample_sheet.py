import numpy as np
import pytest
import torch
from PIL import Image
from shapes_dataset import SIZE, ShapesDataset, shapes_processor
from shapes_oracle import Oracle
from transformers.modeling_outputs import ModelOutput

from m2f.training.sample_sheet import SampleSheet
from m2f.validation.evaluation_loop import evaluate_model

TITLE = 16  # height of the line above a panel


def sheet_of(task: str, count: int, limit: int, size: int = SIZE) -> SampleSheet:
    dataset, processor = ShapesDataset(count, task, size=size), shapes_processor(task)
    sheet = SampleSheet(processor, dataset, limit, count)
    evaluate_model(Oracle(processor), processor, dataset, observe=sheet.observe)
    return sheet


@pytest.mark.parametrize("task", ["instance", "panoptic", "semantic"])
def test_rows_show_image_truth_and_prediction(task, tmp_path):
    sheet_of(task, 4, 2).save(tmp_path / "samples" / "a.png")
    picture = np.asarray(Image.open(tmp_path / "samples" / "a.png"))
    assert picture.shape == (2 * (SIZE + TITLE), 3 * SIZE, 3)
    first = picture[TITLE : TITLE + SIZE].astype(int)
    image, truth, predicted = first[:, :SIZE], first[:, SIZE : 2 * SIZE], first[:, 2 * SIZE :]
    dataset = ShapesDataset(4, task)
    assert np.array_equal(image, np.asarray(dataset[0].image))
    inside = dataset[0].segments.ids[0] == 0
    for drawn in (truth, predicted):
        changed = (drawn != image).any(-1)
        assert changed[inside].mean() > 0.9
        if task != "semantic":  # whose predictions leave no pixel without a class
            assert changed[~inside].mean() < 0.05
    if task == "semantic":  # a class has one colour, in the truth and in the prediction
        middle = tuple(np.argwhere(inside).mean(0).astype(int))
        assert np.abs(truth[middle] - predicted[middle]).max() < 4


def test_the_images_are_spread_over_the_dataset(monkeypatch):
    drawn = []
    monkeypatch.setattr("m2f.training.sample_sheet.side_by_side", lambda panels: drawn.append(panels[0][0]))
    sheet_of("instance", 7, 3)
    assert drawn == ["train-0.png", "train-2.png", "train-4.png"]


def test_large_images_are_shrunk(tmp_path):
    sheet_of("instance", 1, 1, size=600).save(tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").size == (3 * 512, 512 + TITLE)


def test_without_an_image_there_is_no_file(tmp_path):
    sheet_of("instance", 2, 0).save(tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_nothing_predicted_is_drawn_as_nothing(tmp_path):
    dataset, processor = ShapesDataset(1), shapes_processor()
    sheet = SampleSheet(processor, dataset, 1, 1)

    class Blind(Oracle):
        def forward(self, pixel_values, pixel_mask):
            outputs = super().forward(pixel_values, pixel_mask)
            nothing = torch.tensor([0.0, 0, 0, 9]).expand(1, 3, 4)
            return ModelOutput({**outputs, "class_queries_logits": nothing})

    evaluate_model(Blind(processor), processor, dataset, observe=sheet.observe)
    sheet.save(tmp_path / "a.png")
    picture = np.asarray(Image.open(tmp_path / "a.png"))[TITLE:]
    assert np.array_equal(picture[:, :SIZE], picture[:, 2 * SIZE :])
