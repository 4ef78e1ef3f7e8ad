"""Runs saved programs in a process of its own: python traced_program_process.py FOLDER, where inputs.pt, program.pt2
(torch.export) and program.pt (torch.jit.trace) lie; writes outputs.pt."""

import sys
from pathlib import Path

import torch

folder = Path(sys.argv[1])
pixels = torch.load(folder / "inputs.pt")
traced = torch.jit.load(folder / "program.pt")(pixels)  # before the import: it needs nothing of this project
import m2f  # noqa: E402, F401  (the operators that the exported program names)

exported = torch.export.load(folder / "program.pt2").module()(pixels)
names = ("class_queries_logits", "masks_queries_logits")
torch.save([[outputs[name] for name in names] for outputs in (traced, exported)], folder / "outputs.pt")
