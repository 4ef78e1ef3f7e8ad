"""The numbers of a model card, from the files that `m2f val` and `m2f train` leave."""

import pytest
from huggingface_hub import ModelCard
from published_model import FACTS, RESULTS, save_model, save_results, save_training

from m2f.hub.model_card import CardFacts, check_card, write_card


@pytest.fixture
def folder(tmp_path):
    return save_model(tmp_path / "my-model", with_card=False)


def test_numbers_of_the_training_stand_in_the_card_until_the_model_is_measured_anew(folder, tmp_path):
    facts = CardFacts(license="mit", datasets=("d",))
    card = ModelCard.load(write_card(save_training(folder), facts))
    found = {result.metric_type: (result.metric_value, result.dataset_split) for result in card.data.eval_results}
    assert found == {"mask_ap": (0.25, "val"), "mask_ap_50": (0.5, "val")}
    assert "Measured by `m2f train` after step 40 on the split val (coco-instance, 3 images)." in card.text
    assert "| 0 | cell | 0.2500 |" in card.text and "0.50 images a second" in card.text
    results = save_results(tmp_path / "results")
    card = ModelCard.load(write_card(folder, CardFacts(license="mit", datasets=("d",), results=results)))
    assert "`m2f val` on the split" in card.text and "after step 40" not in card.text
    (folder / "results.json").unlink()
    assert "Not measured." in write_card(folder, facts).read_text()


def test_results_must_be_those_of_a_finished_evaluation(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="m2f val --output"):
        write_card(folder, CardFacts(**FACTS, results=tmp_path / "nothing"))
    results = save_results(tmp_path / "results", finished=False)
    with pytest.raises(ValueError, match="not that of a finished"):
        write_card(folder, CardFacts(**FACTS, results=results))
    with pytest.raises(FileNotFoundError, match="no README.md"):
        check_card(folder)
    assert RESULTS["finished"]
