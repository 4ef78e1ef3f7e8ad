"""Peak memory of one form of deformable attention on a CPU, in a process of its own (Linux alone).

    python benchmarks/ms_deform_attn_memory.py ours 640x640 1 float32 2

prints the growth of the resident set in bytes, forward and forward+backward, above what the inputs hold.
"""

import json
import subprocess
import sys

import torch
from ms_deform_attn_forms import installed_forms, make_inputs, run

from m2f.bench.peak_memory import can_measure, growth

SMALL = (64, 64)


def measure_memory(form: str, size: tuple[int, int], batch: int, dtype: str, threads: int) -> dict[str, int] | None:
    """Bytes by pass; None where the system does not tell."""
    if not can_measure("cpu"):
        return None
    command = [sys.executable, __file__, form, f"{size[0]}x{size[1]}", str(batch), dtype, str(threads)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main():
    name, size, batch, dtype, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    form, dtype = installed_forms()[name], getattr(torch, dtype)
    height, width = map(int, size.split("x"))
    found = {}
    for kind in ("forward", "forward+backward"):
        # Threads, libraries and kernels are there before.
        run(form, make_inputs(SMALL, 1, dtype, "cpu"), kind != "forward")
        inputs = make_inputs((height, width), int(batch), dtype, "cpu")
        found[kind] = growth(lambda inputs=inputs, kind=kind: run(form, inputs, kind != "forward"))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
