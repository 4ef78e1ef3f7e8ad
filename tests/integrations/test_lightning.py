"""The module of docs/integrations.md, trained by Lightning; `scripts/test_integrations.sh` installs it."""

import re
from pathlib import Path

import pytest
import torch

pytest.importorskip("lightning")

import lightning  # noqa: E402
from shapes_dataset import ShapesDataset, shapes_model, shapes_processor  # noqa: E402

from m2f.data.collation import Collator  # noqa: E402
from m2f.modeling_m2f.modeling_m2f import M2FForUniversalSegmentation  # noqa: E402

TEXT = (Path(__file__).parents[2] / "docs" / "integrations.md").read_text(encoding="utf-8")
(CODE,) = [code for code in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL) if "import lightning" in code]


def test_the_module_of_the_page_trains_and_its_model_is_a_checkpoint(tmp_path):
    names: dict = {}
    exec(CODE, names)
    model = shapes_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    dataset = ShapesDataset()
    loader = torch.utils.data.DataLoader(
        [dataset[i] for i in range(4)], batch_size=2, collate_fn=Collator(shapes_processor())
    )
    trainer = lightning.Trainer(
        max_steps=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        default_root_dir=tmp_path,
    )  # fmt: skip
    module = names["Segmentation"](model)
    trainer.fit(module, loader)
    assert trainer.global_step == 2 and trainer.callback_metrics["loss"] > 0
    rates = {group["lr"] for group in trainer.optimizers[0].param_groups}
    assert rates == {1e-4, 1e-5}
    changed = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])]
    assert any(name.startswith("model.pixel_level_module.encoder") for name in changed)
    assert any(name.startswith("model.transformer_module") for name in changed)
    model.save_pretrained(tmp_path / "model")
    loaded = M2FForUniversalSegmentation.from_pretrained(tmp_path / "model")
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.state_dict().items())
