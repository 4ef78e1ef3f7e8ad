"""The kernels' libraries of a target, which its wheel carries."""

import dataclasses
import hashlib
import itertools
import json
import os
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from m2f.modeling_m2f.kernels.built_kernels import MANIFEST, Built, Definitions
from m2f.modeling_m2f.kernels.cpu_compiler import FLAGS
from m2f.modeling_m2f.kernels.cpu_source import CpuSource
from m2f.modeling_m2f.kernels.kernel_report import CPU_SOURCES
from m2f.modeling_m2f.kernels.kernel_sources import read_source
from m2f.modeling_m2f.kernels.masked_attention import MASKED_ATTENTION
from m2f.modeling_m2f.kernels.ms_deform_attn_cpu import ENTRIES, MS_DEFORM_ATTN, usual_definitions
from m2f.modeling_m2f.kernels.window_attention import WINDOW_ATTENTION
from m2f.modeling_m2f.kernels.zig_compiler import run_commands, zig_commands

# Channels of a head: 32 in all published checkpoints, 16 in the bundled one. Edges of Swin's windows: 7 and 12, and 6.
HEAD_DIMS = (32, 16)
WINDOWS = (7, 12, 6)
# float16 is computed as float32, and models in float64 are for tests, which compile.
DTYPES = (torch.float32, torch.bfloat16)
_ENTRY = re.compile(r'extern "C"[^;{]*?\b(m2f_\w+)\(')
_X86 = {"x86-64-v2": "x86_64_v2", "x86-64-v3": "x86_64_v3", "x86-64-v4": "x86_64_v4"}
TIMEOUT_SECONDS = 1800  # the first makes a C library: 100 s, on a busy machine many times as long


@dataclasses.dataclass(frozen=True)
class Target:
    """A kind of machine.

    Args:
        tag: of its wheels.
        triple: zig's name of it, with the oldest system that the libraries load on.
        levels: the report's name of a level -> zig's.
        suffix: of a library.
    """

    tag: str
    triple: str
    levels: dict[str, str]
    suffix: str = ".so"


# By `machine_target`. Macs with AVX-512 were few, and macOS turns it on late.
TARGETS = {
    "linux-x86_64": Target("manylinux_2_28_x86_64", "x86_64-linux-gnu.2.28", _X86),
    "linux-aarch64": Target("manylinux_2_28_aarch64", "aarch64-linux-gnu.2.28", {"baseline": "generic"}),
    "macos-aarch64": Target("macosx_12_0_arm64", "aarch64-macos.12.0", {"baseline": "apple_m1"}, ".dylib"),
    "macos-x86_64": Target(
        "macosx_11_0_x86_64",
        "x86_64-macos.11.0",
        {level: _X86[level] for level in ("x86-64-v2", "x86-64-v3")},
        ".dylib",
    ),
    "windows-x86_64": Target("win_amd64", "x86_64-windows-gnu", _X86, ".dll"),
}


def usual_libraries() -> Iterator[tuple[CpuSource, Definitions]]:
    """Each source with each set of definitions that supported models use."""
    sizes: dict[str, list[dict[str, int]]] = {
        WINDOW_ATTENTION.file: [{"head_dim": d, "window": w} for d in HEAD_DIMS for w in WINDOWS],
        MASKED_ATTENTION.file: [{"head_dim": d} for d in HEAD_DIMS],
    }
    for source, _ in CPU_SOURCES.values():
        dtypes = [dtype for dtype in DTYPES if dtype in source.dtypes] or [None]
        for dtype, wanted in itertools.product(dtypes, sizes.get(source.file, [{}])):
            yield source, source.definitions(dtype, **wanted)
    for dtype, entry, head_dim in itertools.product(DTYPES, ENTRIES, HEAD_DIMS):
        yield MS_DEFORM_ATTN, MS_DEFORM_ATTN.definitions(**usual_definitions(dtype, entry, head_dim))


def build_libraries(zig: list[str], target: str, folder: Path) -> dict[str, bytes]:
    """Name -> content of a target's libraries and their list.

    Args:
        zig: the command of `find_zig`.
        folder: to work in; the result does not depend on it.

    Raises:
        RuntimeError: zig failed.
    """
    cases = list(itertools.product(TARGETS[target].levels, usual_libraries()))
    # The first alone: it makes what all need of the target's C library.
    first = _build(zig, target, folder, *cases[0])
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        others = list(pool.map(lambda case: _build(zig, target, folder, *case), cases[1:]))
    libraries = [first, *others]
    listed = json.dumps({"libraries": [built._asdict() for built in libraries]}, indent=1) + "\n"
    return {MANIFEST: listed.encode()} | {built.file: (folder / built.file).read_bytes() for built in libraries}


def _build(zig: list[str], name: str, folder: Path, level: str, library: tuple[CpuSource, Definitions]) -> Built:
    source, definitions = library
    target, text = TARGETS[name], read_source(source.file)
    digest = hashlib.sha256(json.dumps([level, definitions], sort_keys=True).encode()).hexdigest()[:8]
    file = f"{Path(source.file).stem}-{digest}{target.suffix}"
    # A folder each, in which a library has the same name as in the wheel: macOS writes it into the file.
    place = folder / file.replace(".", "_")
    place.mkdir()
    (place / source.file).write_text(text, encoding="utf-8")
    macros = [f"-D{key}={value}" for key, value in sorted(definitions.items())]
    flags = [*FLAGS, f"-ffile-prefix-map={place}=.", *macros]
    machine = ["-target", target.triple, f"-mcpu={target.levels[level]}"]
    commands = zig_commands(zig, machine, flags, place / source.file, place / file)
    failure = run_commands(commands, TIMEOUT_SECONDS, dict(os.environ))
    if failure:
        raise RuntimeError(f"{file} for {name}: {failure}")
    content = (place / file).read_bytes()
    if target.suffix == ".dll":
        content = _without_time(content)
    (folder / file).write_bytes(content)
    exports = _entries([*zig, *machine, *macros, "-std=c++17"], place / source.file)
    hashes = {
        "source_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    return Built(file, source.file, definitions=definitions, target=name, level=level, exports=exports, **hashes)


def _without_time(content: bytes) -> bytes:
    """A Windows library without the time of linking, for which zig has no switch: 4 bytes of the COFF header, 8 behind
    the signature that the number at 0x3C points to."""
    at = int.from_bytes(content[0x3C:0x40], "little") + 8
    return content[:at] + bytes(4) + content[at + 4 :]


def _entries(command: list[str], source: Path) -> list[str]:
    """The functions that a source exports with some definitions, as its preprocessed text has them."""
    text = subprocess.run([*command, "-E", "-P", str(source)], capture_output=True, text=True, check=True).stdout
    return sorted(set(_ENTRY.findall(text)))
