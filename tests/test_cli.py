"""The command line's frame, with a command made here; the commands have tests of their own in tests/commands."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors import SafetensorError

from m2f.cli import _MEMORY_ADVICE, COMMANDS, main
from m2f.modeling_m2f.kernels.kernel_policy import KernelUnavailableError

ROOT = Path(__file__).resolve().parent.parent

# Runs the frame without m2f/__init__.py, which imports torch: what the frame itself costs.
FRAME_ALONE = f"""
import sys, types
package = types.ModuleType("m2f")
package.__path__, package.__version__ = [{str(ROOT / "m2f")!r}], "1.2.3"
sys.modules["m2f"] = package
from m2f.cli import main
"""


def fake_command(run) -> ModuleType:
    module = ModuleType("m2f.commands.fake", "Does what the test says.")
    module.add_arguments = lambda parser: parser.add_argument("--code", type=int, default=0)
    module.run = run
    return module


@pytest.fixture
def fake(monkeypatch):
    """Makes `m2f fake` run a function."""

    def install(run):
        monkeypatch.setitem(COMMANDS, "fake", "a command of the test")
        monkeypatch.setitem(sys.modules, "m2f.commands.fake", fake_command(run))

    return install


def raising(error: BaseException):
    def run(args):
        raise error

    return run


def test_command_gets_its_arguments_and_gives_the_exit_code(fake):
    fake(lambda args: args.code)
    assert main(["fake", "--code", "7"]) == 7
    assert main(["fake"]) == 0


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("a\n  b"), "a b"),
        (FileNotFoundError(2, "No such file", "x.json"), "[Errno 2] No such file: 'x.json'"),
        (OSError(), "OSError"),
        (MemoryError(), "not enough memory; use a smaller --batch-size, smaller images or --tile"),
        (torch.OutOfMemoryError("CUDA out of memory. x"), f"{_MEMORY_ADVICE} (CUDA out of memory. x)"),
        (RuntimeError("[enforce] DefaultCPUAllocator: can't allocate memory: y"), "y)"),
        (ValueError("a\x1b[31m \u202eb \u00e9"), "a\\x1b[31m \\u202eb \u00e9"),
        (SafetensorError("header"), "header"),
        (RecursionError("maximum depth"), "in each other (maximum depth); --debug shows which"),
        (KernelUnavailableError("no compiler"), "no compiler"),
        (ImportError("it needs x: pip install 'm2f[x]'"), "it needs x: pip install 'm2f[x]'"),
    ],
)
def test_errors_of_values_and_files_are_one_line(fake, capsys, error, message):
    fake(raising(error))
    assert main(["fake"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("m2f fake: error: ") and err.endswith(f"{message}\n") and err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--debug", "fake"], ["fake", "--debug"]])
def test_debug_shows_the_traceback(fake, capsys, arguments):
    fake(raising(ValueError("wrong")))
    assert main(arguments) == 2
    assert re.search(r"^Traceback .*\n(.*\n)+ValueError: wrong$", capsys.readouterr().err)


@pytest.mark.parametrize("error", [KeyError("bug"), RuntimeError("bug"), KeyError("out of memory: a bug")])
def test_other_errors_are_bugs_and_keep_their_traceback(fake, error):
    fake(raising(error))
    with pytest.raises(type(error), match="bug"):
        main(["fake"])


def test_help_ends_with_the_exit_codes_of_the_command(fake, monkeypatch, capsys):
    fake(lambda args: 0)
    monkeypatch.setattr(sys.modules["m2f.commands.fake"], "EXIT_CODES", {1: "half done"}, raising=False)
    _, out, _ = exit_of(capsys, "fake", "--help")
    assert out.endswith("exit codes: 0 done; 1 half done; 2 an error, in one line\n")


def test_wrong_arguments_are_one_line_with_the_nearest_flags(fake, capsys):
    fake(lambda args: 0)
    code, out, err = exit_of(capsys, "fake", "--cod=3")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("m2f fake: error: unrecognized arguments: --cod=3; --cod: did you mean --code,")


def test_interrupt(fake, capsys):
    fake(raising(KeyboardInterrupt()))
    assert main(["fake"]) == 130
    assert capsys.readouterr() == ("", "m2f fake: interrupted\n")


def exit_of(capsys, *arguments: str):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    return caught.value.code, *capsys.readouterr()


def test_help_lists_the_commands_and_fits_a_screen(capsys):
    code, out, err = exit_of(capsys, "--help")
    assert (code, err) == (0, "")
    assert len(out.splitlines()) <= 24 and max(map(len, out.splitlines())) <= 80
    assert "exit codes: 0 done;" in out
    for name, text in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(text)}$", out, re.MULTILINE)
        assert (ROOT / "m2f" / "commands" / f"{name}.py").is_file()


def test_help_of_a_command(fake, capsys):
    fake(lambda args: 0)
    code, out, _ = exit_of(capsys, "fake", "--help")
    assert code == 0
    assert "usage: m2f fake [-h] [--debug] [--code CODE]" in out and "Does what the test says." in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "m2f: error: the following arguments are required: COMMAND"),
        (["chekc"], "m2f: error: argument COMMAND: invalid choice: 'chekc'"),
        (["fake", "--unknown"], "m2f fake: error: unrecognized arguments: --unknown"),
        (["fake", "--code", "x"], "m2f fake: error: argument --code: invalid int value: 'x'"),
    ],
)
def test_wrong_arguments(fake, capsys, arguments, message):
    fake(lambda args: 0)
    code, out, err = exit_of(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith(message.split(": ")[0])
    assert message in err


def run_python(code: str, *arguments: str, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, **options)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["unknown"], []])
def test_frame_imports_no_heavy_package(arguments):
    report = """
try:
    main(sys.argv[1:])
except SystemExit:
    heavy = {"torch", "transformers", "numpy", "PIL", "tqdm", "m2f.commands"}
    print("imported:", sorted(heavy & set(sys.modules)))
"""
    assert run_python(FRAME_ALONE + report, *arguments).stdout.endswith("imported: []\n")


def test_version():
    assert run_python(FRAME_ALONE + "main(['--version'])").stdout == "m2f 1.2.3\n"


@pytest.mark.parametrize("lines", [1, 100_000])  # written when the command ends, and before
def test_closed_pipe_is_quiet(lines):
    code = f"""
module = types.ModuleType("m2f.commands.env", "")
module.add_arguments = lambda parser: None
module.run = lambda args: print(*range({lines}), sep="\\n")
sys.modules["m2f.commands.env"] = module
sys.exit(main(["env"]))
"""
    reader, writer = os.pipe()
    os.close(reader)
    # Where output is not buffered, nothing is left to write when the command ends.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-c", FRAME_ALONE + code]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, env=environment, timeout=60)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_module_is_the_command():
    """`python -m m2f`, with the package's own version."""
    version = re.search(r'^__version__ = "(.+)"$', (ROOT / "m2f" / "__init__.py").read_text(), re.MULTILINE)[1]
    command = [sys.executable, "-m", "m2f", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"m2f {version}\n", "")


def test_setup_installs_the_command():
    assert '"console_scripts": ["m2f = m2f.cli:main"]' in (ROOT / "setup.py").read_text()
