"""A Hub's cache that is made here; the Hub itself is switched off."""

import json
from pathlib import Path

import pytest
from huggingface_hub import constants

from m2f.checkpoints.cached_checkpoints import cached_checkpoints
from m2f.checkpoints.checkpoint_config import read_config


def add(cache: Path, name: str, model_type: str | None, size: int):
    """A repository as the Hub's client stores it."""
    folder = cache / f"models--{name.replace('/', '--')}"
    snapshot = folder / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0123abc")
    (folder / "blobs").mkdir()
    for file, content in (("config.json", json.dumps({"model_type": model_type})), ("w.bin", "x" * size)):
        blob = folder / "blobs" / f"blob-{file}"
        blob.write_text(content)
        (snapshot / file).symlink_to(blob)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def message_about(name: str) -> str:
    with pytest.raises(OSError) as caught:
        read_config(name)
    return str(caught.value)


def test_a_mistyped_name(cache):
    add(cache, "facebook/mask2former-swin-tiny-coco-instance", "mask2former", 2_000_000)
    add(cache, "me/nuclei-m2f", "m2f", 400)
    add(cache, "bert-base", "bert", 10)
    assert [entry.name for entry in cached_checkpoints(["m2f"])] == ["me/nuclei-m2f"]
    message = message_about("facebook/mask2former-swin-tiny-coco-instanc")
    assert "there is no folder facebook/mask2former-swin-tiny-coco-instanc here, it is not cached" in message
    assert "the Hub cannot be reached; did you mean facebook/mask2former-swin-tiny-coco-instance?" in message
    assert "; cached on this machine: facebook/mask2former-swin-tiny-coco-instance (2 MB), me/nuclei-m2f (4" in message
    assert message.endswith("; bundled: nuclei") and "bert" not in message and "\n" not in message
    assert "did you mean me/nuclei-m2f or nuclei?" in message_about("nuclei_m2f")  # without the owner
    assert "did you mean nuclei or" in message_about("nuclie")


def test_nothing_is_cached(cache):
    assert message_about("some/model").endswith("; cached on this machine: none; bundled: nuclei")
    cache.write_text("a file")
    assert "cached on this machine: none" in message_about("some/model")


def test_what_the_hub_says(cache, monkeypatch):
    """Its own errors, as they are raised under those of transformers."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
    from transformers import PretrainedConfig

    def failing(kind):
        def get(*_, **__):
            error = kind.__new__(kind)
            Exception.__init__(error, "x")
            raise OSError("long\ntext") from error

        return classmethod(get)

    for kind, text in (
        (RepositoryNotFoundError, "no such model on the Hub, or it is private"),
        (GatedRepoError, "who have access alone"),
    ):
        monkeypatch.setattr(PretrainedConfig, "get_config_dict", failing(kind))
        assert text in message_about("some/model")
