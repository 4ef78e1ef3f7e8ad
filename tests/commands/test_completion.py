"""What a shell is offered, asked of the shell itself where it is installed."""

import shutil
import subprocess
from pathlib import Path

import pytest

from m2f.cli import COMMANDS, main

pytest.importorskip("shtab")


@pytest.fixture(scope="module")
def script(tmp_path_factory) -> Path:
    """Of bash."""
    from m2f.commands.completion import completion_script

    path = tmp_path_factory.mktemp("completion") / "m2f.bash"
    path.write_text(completion_script("bash"))
    return path


def offered(script: Path, *words: str, cwd: Path) -> set[str]:
    """What bash offers for the last of the words."""
    given = " ".join(f"'{word}'" for word in ("m2f", *words))
    code = f"""
    source {script}
    COMP_WORDS=({given}); COMP_CWORD={len(words)}; COMP_LINE="${{COMP_WORDS[*]}}"; COMP_POINT=${{#COMP_LINE}}
    "$(complete -p m2f | sed 's/.*-F \\([^ ]*\\) .*/\\1/')" m2f '{words[-1]}' '{(("m2f",) + words)[-2]}'
    printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, cwd=cwd, timeout=60)
    return set(done.stdout.split())


def test_bash_completes_commands_flags_choices_and_files(script, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photo.png").write_text("")
    assert offered(script, "", cwd=tmp_path) >= set(COMMANDS)
    assert offered(script, "pre", cwd=tmp_path) == {"predict"}
    assert offered(script, "predict", "--ti", cwd=tmp_path) == {"--tile", "--tile-overlap"}
    assert offered(script, "val", "--dtype", "b", cwd=tmp_path) == {"bfloat16"}
    assert offered(script, "train", "--schedule", "", cwd=tmp_path) == {"poly", "multistep"}
    assert offered(script, "predict", "pho", cwd=tmp_path) == {"photos", "photo.png"}
    assert offered(script, "predict", "--output", "pho", cwd=tmp_path) == {"photos"}
    assert offered(script, "completion", "", cwd=tmp_path) >= {"bash", "zsh", "fish"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_name_every_command_and_are_read_by_their_shell(shell, capsys, tmp_path):
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in COMMANDS) and "tile-overlap" in text
    if shutil.which(shell):
        (tmp_path / "script").write_text(text)
        subprocess.run([shell, "-n", str(tmp_path / "script")], check=True, timeout=60)


def test_an_unknown_shell_is_named(capsys):
    with pytest.raises(SystemExit) as exit:
        main(["completion", "tcsh"])
    assert exit.value.code == 2 and "invalid choice: 'tcsh'" in capsys.readouterr().err
