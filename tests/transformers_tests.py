"""transformers' own tests, of which ours run those that concern our classes.

scripts/test.sh unpacks transformers' source distribution and names the folder in M2F_TRANSFORMERS_SOURCE. It holds the
files directly in tests/, and none of the sub-folders; a checkout of transformers' repository holds all.
"""

import importlib.util
import os
import sys
import types
import unittest
from pathlib import Path

import pytest
import torch

SOURCE = os.environ.get("M2F_TRANSFORMERS_SOURCE")

# What the common files import from elsewhere: generation, exporters, language models, and files of the Hub, whose
# address in place of a path leads to no file.
_STAND_INS = {
    "tests.exporters": {},
    "tests.exporters.test_export": {"ExportTesterMixin": type("ExportTesterMixin", (), {})},
    "tests.generation": {},
    "tests.generation.test_utils": {"GenerationTesterMixin": type("GenerationTesterMixin", (), {})},
    "fetch_hub_objects_for_ci": {"url_to_local_path": lambda url: url},
}
# What they need only where there is a network.
_NOT_INSTALLED = ("httpx",)
# transformers' image processor needs torchvision, which this project does not.
_THEIR_PROCESSOR = "transformers.models.mask2former.image_processing_mask2former"


def import_tests(name: str) -> types.ModuleType:
    """The file `name` of transformers' tests, such as "test_modeling_common"; where it is missing, the tests of the
    file that asks for it are skipped."""
    if not SOURCE:
        pytest.skip("M2F_TRANSFORMERS_SOURCE names no unpacked source distribution", allow_module_level=True)
    file = Path(SOURCE, "tests", *name.split(".")).with_suffix(".py")
    if not file.is_file():
        reason = "the source distribution lacks it, a checkout of transformers' repository has it"
        pytest.skip(f"there is no {file}: {reason}", allow_module_level=True)
    if SOURCE not in sys.path:
        sys.path.insert(0, SOURCE)
    for module, members in _STAND_INS.items():
        vars(sys.modules.setdefault(module, types.ModuleType(module))).update(members)
    absent = [package for package in _NOT_INSTALLED if importlib.util.find_spec(package) is None]
    sys.modules |= {package: types.ModuleType(package) for package in absent}
    if importlib.util.find_spec("torchvision") is None:
        absent.append(_THEIR_PROCESSOR)
        sys.modules[_THEIR_PROCESSOR] = importlib.import_module(
            _THEIR_PROCESSOR.replace("processing", "processing_pil")
        )
    try:
        return importlib.import_module(f"tests.{name}")
    finally:
        for package in absent:
            del sys.modules[package]


def skip(case: type[unittest.TestCase], reasons: dict[str, str]) -> None:
    """Skip tests of `case`, each with its reason; not every version of transformers has all."""
    for name, reason in reasons.items():
        if hasattr(case, name):
            setattr(case, name, unittest.skip(reason)(getattr(case, name)))


class LabelsForTraining:
    """For a `ModelTesterMixin`: labels where the tests train, which it does not know how to make, and inputs that are
    the same in each run."""

    with_labels = True

    def setUp(self):
        # Drawn anew in each run, about one of 50 comparisons of eager with SDPA attention failed in float16: the Swin
        # backbone's two attentions round differently, and a mask logit near 0 then changes sides of the threshold.
        import_tests("test_modeling_common").global_rng.seed(0)
        super().setUp()

    def labels(self, pixel_values: torch.Tensor, num_labels: int) -> dict[str, torch.Tensor]:
        """A random mask for each class, and random classes."""
        size = (len(pixel_values), num_labels, *pixel_values.shape[-2:])
        return {
            "mask_labels": (torch.rand(size) > 0.5).float(),
            "class_labels": torch.randint(num_labels, size[:2]),
        }

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = dict(inputs_dict)
        if return_labels and self.with_labels and model_class is self.all_model_classes[1]:
            inputs |= self.labels(inputs["pixel_values"], self.model_tester.num_labels)
        return inputs

    def test_model_outputs_equivalence(self):
        self.with_labels = False  # the loss is taken at random points; two calls cannot agree
        super().test_model_outputs_equivalence()
