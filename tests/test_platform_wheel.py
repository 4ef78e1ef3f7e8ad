"""The wheel of this machine, with its kernels built ahead, where no compiler is; and wheels written anew.

Building it takes a minute or more, and two with an empty cache of zig, so that M2F_ZIG has to name the folder of one
(ZIG_GLOBAL_CACHE_DIR); the package ziglang has to be installed.
"""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from m2f.modeling_m2f.kernels.kernel_report import CPU_SOURCES
from m2f.modeling_m2f.kernels.processor_level import machine_target
from m2f.modeling_m2f.kernels.zig_compiler import find_zig

ROOT = Path(__file__).resolve().parent.parent
NUMBERS = """
import torch
from m2f.modeling_m2f.kernels.masked_attention import MASKED_ATTENTION, masked_attention
query, key, value = torch.randn(3, 2, 50, 64).unbind()
keep = torch.ones(2, 1, 50, 50, dtype=torch.bool).tril()
q, k, v = (x.unflatten(-1, (2, 32)).transpose(1, 2).double() for x in (query, key, value))
exact = torch.nn.functional.scaled_dot_product_attention(q, k, v, keep).transpose(1, 2).flatten(2)
found = masked_attention(query, key, value, keep, 2)
torch.testing.assert_close(found.double(), exact, atol=2e-6, rtol=0)
print(MASKED_ATTENTION.found(torch.float32, head_dim=32).origin)
"""


def run(*words: str | Path, **variables: str) -> str:
    hidden = ("PYTHONPATH", "CXX", "M2F_KERNELS")
    environment = {name: value for name, value in os.environ.items() if name not in hidden} | variables
    done = subprocess.run(
        [str(word) for word in words], env=environment, capture_output=True, text=True, cwd=ROOT.parent
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(not find_zig(), reason="the package ziglang is not installed")
@pytest.mark.skipif("M2F_ZIG" not in os.environ, reason="M2F_ZIG names no prepared cache of zig")
def test_a_wheel_with_kernels_needs_no_compiler(tmp_path):
    cache, folders = os.environ["M2F_ZIG"], os.pathsep.join([str(ROOT), str(Path(find_zig()[0]).parent.parent)])
    zig = {"ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache, "PYTHONPATH": folders}
    script = ROOT / "scripts" / "build_wheels.py"
    run(sys.executable, script, "--targets", machine_target(), "--out", tmp_path / "dist", **zig)
    wheel = next(path for path in (tmp_path / "dist").glob("*.whl") if not path.name.endswith("-any.whl"))
    assert wheel.stat().st_size < 12e6
    venv.create(tmp_path / "venv", with_pip=False)
    packages = next((tmp_path / "venv").glob("lib/*/site-packages"))
    zipfile.ZipFile(wheel).extractall(packages)
    (packages / "running_environment.pth").write_text(sysconfig.get_paths()["purelib"])
    bare = {"PATH": str(tmp_path / "venv" / "bin"), "M2F_CACHE": str(tmp_path / "cache")}
    python = tmp_path / "venv" / "bin" / "python"
    report = run(python, "-m", "m2f", "env", **bare)
    assert report.count("threads, built ahead (") == len(CPU_SOURCES) + 1, report
    assert run(python, "-c", NUMBERS, M2F_KERNELS="compiled", **bare).startswith("built ahead (")
    assert not list((tmp_path / "cache").glob("*.so"))
