"""Makes the pure wheel, and one for each platform, which carries the CPU kernels built ahead.

    pip install "m2f[compiler]" setuptools
    python scripts/build_wheels.py --out dist

Every target can be built on every machine. The first run makes zig's C library for each target, which takes up to a
minute on 2 cores and is kept where ZIG_GLOBAL_CACHE_DIR says.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from kernel_libraries import TARGETS, build_libraries
from setup_constants import setup_constant
from wheel_files import write_wheel

from m2f.modeling_m2f.kernels.zig_compiler import find_zig

ROOT = Path(__file__).resolve().parent.parent
PLACE = "m2f/modeling_m2f/kernels/built"
MOST_BYTES = 12_000_000
_FILES = ("setup.py", "pyproject.toml", "README.md", "LICENSE")


def pure_wheel(folder: Path) -> Path:
    """As pip makes it, from a copy: building writes into the folder."""
    copy = folder / "checkout"
    copy.mkdir()
    for name in _FILES:
        shutil.copy(ROOT / name, copy / name)
    for name in setup_constant("FOLDERS").values():
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    words = ("--quiet", "--no-deps", "--no-build-isolation", "-w", folder, copy)
    subprocess.run([sys.executable, "-m", "pip", "wheel", *map(str, words)], check=True)
    return next(folder.glob("m2f-*.whl"))


def platform_wheel(pure: Path, target: str, out: Path) -> Path:
    """The wheel of one of `TARGETS`.

    Raises:
        RuntimeError: zig failed, or the wheel is too large.
    """
    with tempfile.TemporaryDirectory() as folder:
        libraries = build_libraries(find_zig(), target, Path(folder))
    added = {f"{PLACE}/{name}": content for name, content in libraries.items()}
    wheel = write_wheel(pure, out, added, TARGETS[target].tag)
    if wheel.stat().st_size > MOST_BYTES:
        raise RuntimeError(f"{wheel} has {wheel.stat().st_size} bytes, more than {MOST_BYTES}")
    return wheel


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    choices = {"nargs": "*", "choices": list(TARGETS), "metavar": "TARGET"}
    parser.add_argument("--targets", default=list(TARGETS), help=f"of {', '.join(TARGETS)}; all by default", **choices)
    parser.add_argument("--out", type=Path, default=Path("dist"), help="folder for the wheels (default: %(default)s)")
    return parser.parse_args()


def main(args: argparse.Namespace):
    if args.targets and not find_zig():
        sys.exit('the package ziglang is not installed: pip install "m2f[compiler]"')
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        made = pure_wheel(Path(folder))
        wheels = [write_wheel(made, args.out, {})]
        print(f"{wheels[0]}: {wheels[0].stat().st_size / 1e6:.2f} MB", flush=True)
        for target in args.targets:
            wheel = platform_wheel(made, target, args.out)
            print(f"{wheel}: {wheel.stat().st_size / 1e6:.2f} MB", flush=True)


if __name__ == "__main__":
    main(parse_args())
