"""The model card, read back by huggingface_hub's ModelCard."""

import pytest
from huggingface_hub import ModelCard
from published_model import FACTS, save_model, save_results, save_training

from m2f.hub.model_card import CardFacts, check_card, is_as_written, write_card


@pytest.fixture
def folder(tmp_path):
    return save_model(tmp_path / "my-model", with_card=False)


def test_card_has_the_fields_of_the_hub_and_the_numbers_of_our_evaluation(folder, tmp_path):
    results = save_results(tmp_path / "results")
    card = ModelCard.load(write_card(folder, CardFacts(**FACTS, results=results)))
    data = card.data
    assert (data.license, data.library_name, data.pipeline_tag) == ("apache-2.0", "transformers", "image-segmentation")
    assert (data.datasets, data.get("base_model")) == (["user/nuclei"], None)
    assert {"m2f", "panoptic-segmentation"} <= set(data.tags)
    found = {result.metric_type: (result.metric_value, result.dataset_name) for result in data.eval_results}
    assert found == {"pq": (0.515, "user/nuclei"), "mean_iou": (0.61, "user/nuclei")}
    assert {result.dataset_split for result in data.eval_results} == {"val"}
    assert "model-index" in data.to_yaml()
    for text in ("| PQ | PQ_things |", "| 0.5150 | 0.5000 |", "a\\|b", "| nuclei | - |"):
        assert text in card.text
    assert "2.00 images a second (Fast One, 4 threads, 1 process, torch 2.13.0, transformers 5.23.0)" in card.text
    for way in ("import m2f", "trust_remote_code=True", "--to transformers"):
        assert way in card.text
    assert "class 4" in card.text and "At most 8 segments" in card.text


def test_card_may_be_open_until_it_is_published(folder):
    """As `m2f train` writes it; `m2f push` checks it."""
    card = ModelCard.load(write_card(save_training(folder), CardFacts(), may_be_open=True))
    assert (card.data.license, card.data.datasets, card.data.eval_results) == (None, None, None)
    assert "m2f push --license" in card.text and "m2f push --dataset" in card.text and "| 0.2500 |" in card.text
    with pytest.raises(ValueError, match=r"lacks license, datasets .*\(--license\), .*\(--dataset\)"):
        check_card(folder)
    with open(folder / "training_options.yaml", "a") as file:
        file.write("license: mit\ndataset: [user/nuclei]\n")
    card = ModelCard.load(write_card(folder, CardFacts()))
    assert (card.data.license, card.data.datasets) == ("mit", ["user/nuclei"])
    assert {result.dataset_name for result in card.data.eval_results} == {"user/nuclei"}


def test_a_card_that_somebody_changed_is_known(folder):
    write_card(folder, CardFacts(**FACTS))
    assert is_as_written(folder)
    text = (folder / "README.md").read_text()
    for changed in (f"{text}More.\n", text.replace("Intended", "Best"), text.replace("license: apache", "license: b")):
        (folder / "README.md").write_text(changed)
        assert not is_as_written(folder)
    (folder / "README.md").write_text(text)
    assert is_as_written(folder)


@pytest.mark.parametrize(
    ("left_out", "option"), [("license", "--license"), ("datasets", "--dataset"), ("base_model", "--base-model")]
)
def test_missing_fields_are_named_with_their_options(folder, left_out, option):
    facts = {name: value for name, value in FACTS.items() if name != left_out}
    with pytest.raises(ValueError, match=option):
        write_card(folder, CardFacts(**facts))
    assert not (folder / "README.md").exists()


@pytest.mark.parametrize("field", ["license", "library_name", "pipeline_tag", "datasets"])
def test_card_of_somebody_else_is_checked(folder, field):
    fields = {
        "license": "mit",
        "library_name": "transformers",
        "pipeline_tag": "image-segmentation",
        "datasets": "[d]",
    }
    lines = [f"{name}: {value}" for name, value in fields.items()]
    (folder / "README.md").write_text("---\n" + "\n".join(lines) + "\n---\ntext [site](https://x.y) [part](#z)\n")
    check_card(folder)
    lines = [line for line in lines if not line.startswith(field)]
    (folder / "README.md").write_text("---\n" + "\n".join(lines) + "\n---\ntext\n")
    with pytest.raises(ValueError, match=f"lacks {field} in its YAML"):
        check_card(folder)
