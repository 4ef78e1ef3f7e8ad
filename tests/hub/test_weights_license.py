"""The licence of the original's published weights through conversion, loading and publishing."""

import json

import pytest
from huggingface_hub import ModelCard
from original_checkpoints import fields_of, original_weights, write_original
from published_model import FACTS, save_model
from stock_models import transformers_model
from transformers import AutoModelForUniversalSegmentation, Mask2FormerForUniversalSegmentation

import m2f
from m2f.configuration.configuration_m2f import LICENSE_FIELD
from m2f.hub.checkpoint_conversion import convert_checkpoint
from m2f.hub.model_card import CardFacts, check_card, write_card
from m2f.hub.weights_license import stated_license
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation


def test_copies_of_the_published_weights_on_the_hub_keep_their_licence_however_they_are_loaded(tmp_path, monkeypatch):
    """A folder of the same relative path stands for the repository."""
    monkeypatch.chdir(tmp_path)
    name = "facebook/mask2former-swin-tiny-coco-instance"
    transformers_model("resnet").save_pretrained(name)
    (tmp_path / name / "preprocessor_config.json").write_text('{"image_processor_type": "Mask2FormerImageProcessor"}')
    m2f.replace_mask2former()
    loaded = AutoModelForUniversalSegmentation.from_pretrained(name)
    m2f.restore_mask2former()
    stock = AutoModelForUniversalSegmentation.from_pretrained(name)
    assert type(loaded) is M2FForUniversalSegmentation and type(stock) is Mask2FormerForUniversalSegmentation
    convert_checkpoint(name, tmp_path / "converted", dataset="none")
    M2FForUniversalSegmentation.from_pretrained(name).save_pretrained(tmp_path / "direct")
    loaded.save_pretrained(tmp_path / "auto")
    m2f.convert(stock).save_pretrained(tmp_path / "in memory")
    for folder in ("converted", "direct", "auto", "in memory"):
        assert fields_of(tmp_path / folder)[LICENSE_FIELD] == "cc-by-nc-4.0", folder
    transformers_model("resnet").save_pretrained("user/mask2former")
    M2FForUniversalSegmentation.from_pretrained("user/mask2former").save_pretrained(tmp_path / "own")
    assert LICENSE_FIELD not in fields_of(tmp_path / "own")


def test_licence_of_the_published_weights_stays_unless_they_are_ones_own(tmp_path):
    source = write_original(tmp_path / "model.pth", original_weights("mini_r18"))
    convert_checkpoint(source, tmp_path / "ours", task="semantic")
    convert_checkpoint(tmp_path / "ours", tmp_path / "theirs")
    convert_checkpoint(tmp_path / "theirs", tmp_path / "again")
    M2FForUniversalSegmentation.from_pretrained(tmp_path / "again").save_pretrained(tmp_path / "fine-tuned")
    for name in ("ours", "theirs", "again", "fine-tuned"):
        assert fields_of(tmp_path / name)[LICENSE_FIELD] == "cc-by-nc-4.0"
    convert_checkpoint(source, tmp_path / "own", task="semantic", own_weights=True)
    assert LICENSE_FIELD not in fields_of(tmp_path / "own")


@pytest.fixture
def folder(tmp_path):
    return save_model(tmp_path / "my-model", with_card=False)


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


@pytest.mark.parametrize(
    ("card", "stated"),
    [
        ("---\nlicense: mit\n---\ntext", "mit"),
        ("---\r\ntags: [a]\r\nlicense: 'cc-by-nc-4.0'\r\n---\r\n", "cc-by-nc-4.0"),
        ("---\ntags: [a]\n---\nlicense: mit", None),
        ("license: mit", None),
        ("---\nlicense: mit", None),
        ("---\n- license\n---\n", None),
        ("---\nlicense: [mit]\n---\n", None),
        ("---\nlicense: 'a\x1b[31m'\n---\n", None),
        ('---\nlicense: "a\\nb"\n---\n', None),
        ("---\nlicense: !!python/object/apply:os.system ['touch stated']\n---\n", None),
        ("---\na: " + "[" * 9000 + "\nlicense: mit\n---\n", None),
        ("---\nlicense: " + "a" * 99 + "\n---\n", None),
        ("---\na: " + "a" * 70_000 + "\nlicense: mit\n---\n", None),
        (None, None),
    ],
)
def test_the_licence_of_a_card_is_read_and_nothing_else_of_it(card, stated, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    if card is not None:
        (tmp_path / "model" / "README.md").write_bytes(card.encode())
    assert stated_license("model") == stated
    assert not (tmp_path / "stated").exists()


def test_the_licence_of_a_card_on_the_hub(tmp_path, monkeypatch):
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    asked = []
    monkeypatch.setattr(
        "m2f.hub.weights_license.cached_file", lambda *names, **_: asked.append(names) or tmp_path / "README.md"
    )
    assert stated_license("user/model") == "apache-2.0" and asked == [("user/model", "README.md")]
