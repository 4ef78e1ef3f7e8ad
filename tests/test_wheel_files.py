"""Wheels that are written anew, read by the rules of the wheel's format (PEP 427)."""

import base64
import hashlib
import sys
import zipfile
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parent.parent / "scripts"))
from wheel_files import write_wheel  # noqa: E402

ABOUT = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


@pytest.fixture
def pure(tmp_path) -> Path:
    path = tmp_path / "m2f-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m2f/__init__.py", "x = 1\n")
        archive.writestr("m2f-1.0.dist-info/WHEEL", ABOUT)
        archive.writestr("m2f-1.0.dist-info/RECORD", "to be replaced")
    return path


def test_tag_files_and_their_hashes(pure, tmp_path):
    (tmp_path / "out").mkdir()
    path = write_wheel(pure, tmp_path / "out", {"m2f/built/a.so": b"library"}, "win_amd64")
    assert path.name == "m2f-1.0-py3-none-win_amd64.whl"
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    assert files["m2f/built/a.so"] == b"library" and files["m2f/__init__.py"] == b"x = 1\n"
    about = files["m2f-1.0.dist-info/WHEEL"].decode()
    assert "Tag: py3-none-win_amd64\n" in about and "Root-Is-Purelib: false\n" in about
    rows = dict(line.split(",", 1) for line in files.pop("m2f-1.0.dist-info/RECORD").decode().splitlines())
    assert rows.pop("m2f-1.0.dist-info/RECORD") == ","
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
        assert rows.pop(name) == f"sha256={digest},{len(content)}"
    assert not rows


def test_same_content_is_same_bytes(pure, tmp_path, monkeypatch):
    written = []
    for name, epoch in (("first", None), ("second", None), ("third", "1700000000")):
        if epoch:
            monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
        (tmp_path / name).mkdir()
        written.append(write_wheel(pure, tmp_path / name, {"m2f/b.so": b"b"}).read_bytes())
    assert written[0] == written[1] != written[2]
    with zipfile.ZipFile(tmp_path / "third" / pure.name) as archive:
        assert {entry.date_time[:3] for entry in archive.infolist()} == {(2023, 11, 14)}
