"""Run by test_remote_code.py in a new process: loads a folder with transformers' Auto classes and records results.

Arguments: folder or Hub id, output folder, "without" or "with" an installed m2f; or "training" and "with training",
which compute a loss too.
"""

import hashlib
import json
import sys
from pathlib import Path

import dill
import torch
from computed_values import computed_values
from PIL import Image

ABSENT = ("m2f", "pycocotools", "torchvision", "accelerate")


class Without:
    """A finder that does not find some packages."""

    def __init__(self, finder, absent):
        self.finder = finder
        self.absent = absent

    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in self.absent else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)


def main(source: str, output: Path, mode: str):
    if mode in ("with", "with training"):
        import m2f  # noqa: F401
    else:
        absent = ABSENT if mode == "training" else (*ABSENT, "scipy")
        sys.meta_path[:] = [Without(finder, absent) for finder in sys.meta_path]
    from transformers import (
        AutoConfig,
        AutoModel,
        AutoModelForImageSegmentation,
        AutoModelForUniversalSegmentation,
        pipeline,
    )
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    trusted = {"trust_remote_code": True}
    config = AutoConfig.from_pretrained(source, **trusted)
    processor = AutoImageProcessor.from_pretrained(source, **trusted)
    model = AutoModelForUniversalSegmentation.from_pretrained(source, **trusted).eval()
    other = AutoModelForImageSegmentation.from_pretrained(source, **trusted).eval()
    base = AutoModel.from_pretrained(source, **trusted).eval()
    image = Image.open(output / "image.png")
    inputs = processor(images=image, return_tensors="pt")
    with torch.no_grad():
        outputs, again, of_base = model(**inputs), other(**inputs), base(**inputs)
    assert torch.equal(outputs.masks_queries_logits, again.masks_queries_logits)
    assert torch.equal(outputs.masks_queries_logits, of_base.masks_queries_logits[-1])
    segments = pipeline("image-segmentation", model=source, **trusted)(image, threshold=0.0)
    by_parts = pipeline("image-segmentation", model=model, image_processor=processor)(image, threshold=0.0)
    assert [(s["label"], s["score"]) for s in segments] == [(s["label"], s["score"]) for s in by_parts]
    for kept in (config, processor, model):
        by_name = dill.loads(dill.dumps(type(kept)))  # by value `datasets` would need half a minute for a fingerprint
        assert by_name is type(kept)
    model.save_pretrained(output / "saved")
    processor.save_pretrained(output / "saved")
    torch.save(computed_values(model, processor, image, "training" in mode), output / "values.pt")
    names = {
        "classes": [type(x).__module__ for x in (config, processor, model, base)],
        "segments": [(s["label"], s["score"]) for s in segments],
        "kernel": hasattr(torch.ops.m2f, "ms_deform_attn_v1"),
        "m2f": "m2f" in sys.modules,
        "compiled": sorted(_compiled_sources()),
    }
    (output / "record.json").write_text(json.dumps(names))


def _compiled_sources() -> set[str]:
    """Hashes of the sources that this process compiled, or loaded from its cache."""
    compilers = [module for name, module in sys.modules.items() if name.endswith(".cpu_compiler")]
    sources = {key[0] for module in compilers for key in module._libraries}
    return {hashlib.sha256(source.encode()).hexdigest() for source in sources}


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
