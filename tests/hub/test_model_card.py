"""The model card, read back by huggingface_hub's ModelCard."""

import json

import pytest
from huggingface_hub import ModelCard
from published_model import FACTS, RESULTS, save_model, save_results, save_training

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
