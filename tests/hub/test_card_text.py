"""The text of a model card."""

import pytest
from huggingface_hub import ModelCard
from published_model import save_model, save_training

from m2f.hub.model_card import CardFacts, check_card, write_card


@pytest.fixture
def folder(tmp_path):
    return save_model(tmp_path / "my-model", with_card=False)


def test_card_tells_how_it_was_trained_and_shows_pictures_that_are_there(folder):
    card = ModelCard.load(write_card(save_training(folder), CardFacts(license="mit", datasets=("d",))))
    assert "max_steps: 40" in card.text and "m2f train --config" in card.text
    assert "Speed of the training: 4.00 images a second (GPU 9000, Fast One, 1 thread, 2 processes" in card.text
    assert card.data.base_model == "user/start"
    assert (folder / "card" / "predictions.png").read_bytes() == b"samples/step-00000040.png"
    for link in ("card/predictions.png", "card/curves.png"):
        assert f"]({link})" in card.text
    check_card(folder)
    (folder / "card" / "curves.png").unlink()
    with pytest.raises(ValueError, match="links files that are not there: card/curves.png"):
        check_card(folder)
