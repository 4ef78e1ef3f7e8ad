import pytest

from m2f.evaluation.coco_matching import choose_engine


def test_an_engine_that_is_not_installed_is_not_chosen(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert choose_engine("auto") == "pycocotools"
    with pytest.raises(ImportError, match="pip install faster-coco-eval"):
        choose_engine("faster-coco-eval")
