import os

import pytest

from m2f.commands.output_check import check_file, check_folder


def test_what_can_be_written_passes_and_nothing_is_made(tmp_path):
    check_folder(tmp_path)
    check_folder(tmp_path / "new" / "deep")
    check_file(tmp_path / "new.txt")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "deep"):
        with pytest.raises(NotADirectoryError, match=f"cannot write into {path}: {tmp_path / 'file'} is no folder"):
            check_folder(path)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        check_file(tmp_path / "new" / "x.png")
    with pytest.raises(IsADirectoryError, match="it is a folder"):
        check_file(tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # whoever runs the test may be allowed everything
    with pytest.raises(PermissionError, match=f"no permission for {tmp_path}"):
        check_folder(tmp_path / "new")
    with pytest.raises(PermissionError, match="no permission"):
        check_file(tmp_path / "file")
