"""The model card, read back by huggingface_hub's ModelCard."""

import json

import pytest
from huggingface_hub import ModelCard
from published_model import FACTS, RESULTS, save_model, save_results

from m2f.hub.model_card import CardFacts, check_card, write_card


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
    for text in ("| PQ | PQ_things |", "| 0.5150 | 0.5000 |", "a\\|b", "| nuclei | - |", "2.00 images a second"):
        assert text in card.text
    for way in ("import m2f", "trust_remote_code=True", "--to transformers"):
        assert way in card.text
    assert "class 4" in card.text and "At most 8 segments" in card.text


def test_card_tells_how_it_was_trained_and_shows_pictures_that_are_there(folder):
    (folder / "training_options.yaml").write_text("model: user/start\nmax_steps: 7\n")
    (folder / "samples").mkdir()
    for name in ("samples/step-00000001.png", "samples/step-00000002.png", "curves.png"):
        (folder / name).write_bytes(name.encode())
    card = ModelCard.load(write_card(folder, CardFacts(license="mit", datasets=("d",))))
    assert "max_steps: 7" in card.text and "m2f train --config" in card.text and "Not measured." in card.text
    assert card.data.base_model == "user/start"
    assert (folder / "card" / "predictions.png").read_bytes() == b"samples/step-00000002.png"
    check_card(folder)
    (folder / "card" / "curves.png").unlink()
    with pytest.raises(ValueError, match="links files that are not there: card/curves.png"):
        check_card(folder)


@pytest.mark.parametrize(
    ("left_out", "option"), [("license", "--license"), ("datasets", "--dataset"), ("base_model", "--base-model")]
)
def test_missing_fields_are_named_with_their_options(folder, left_out, option):
    facts = {name: value for name, value in FACTS.items() if name != left_out}
    with pytest.raises(ValueError, match=option):
        write_card(folder, CardFacts(**facts))
    assert not (folder / "README.md").exists()


@pytest.mark.parametrize("origin", ["field", "base_model", "name"])
def test_published_weights_keep_their_licence(folder, origin):
    """Recorded by the conversion, or known from where the weights come from."""
    config = json.loads((folder / "config.json").read_text())
    released = "facebook/mask2former-swin-tiny-coco-panoptic"
    config |= {"field": {"weights_license": "cc-by-nc-4.0"}, "name": {"_name_or_path": released}}.get(origin, {})
    (folder / "config.json").write_text(json.dumps(config))
    facts = {**FACTS, "base_model": released if origin == "base_model" else "none"}
    with pytest.raises(ValueError, match="'apache-2.0' cannot be stated.*cc-by-nc-4.0"):
        write_card(folder, CardFacts(**facts))
    card = ModelCard.load(write_card(folder, CardFacts(**{**facts, "license": None})))
    assert card.data.license == "cc-by-nc-4.0"
    assert "CC-BY-NC-4.0" in card.text
    text = (folder / "README.md").read_text().replace("license: cc-by-nc-4.0", "license: mit")
    (folder / "README.md").write_text(text)
    with pytest.raises(ValueError, match="'mit' cannot be stated"):
        check_card(folder)


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


def test_results_must_be_those_of_a_finished_evaluation(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="m2f val --output"):
        write_card(folder, CardFacts(**FACTS, results=tmp_path / "nothing"))
    results = save_results(tmp_path / "results", finished=False)
    with pytest.raises(ValueError, match="not that of a finished"):
        write_card(folder, CardFacts(**FACTS, results=results))
    with pytest.raises(FileNotFoundError, match="no README.md"):
        check_card(folder)
    assert RESULTS["finished"]
