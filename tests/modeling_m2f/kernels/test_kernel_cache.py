import os
import stat

import pytest

from m2f.modeling_m2f.kernels.kernel_cache import cache_folder, cached_file


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("M2F_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def writer(content: bytes, calls: list):
    def make(path):
        calls.append(path)
        path.write_bytes(content)

    return make


def test_a_file_is_made_once(folder):
    calls = []
    paths = [cached_file("name", ".bin", writer(b"content", calls)) for _ in range(2)]
    assert paths[0] == paths[1] and paths[0].read_bytes() == b"content" and len(calls) == 1
    assert sorted(folder.iterdir()) == [paths[0]]


@pytest.mark.parametrize("damage", [b"", b"conten", b"other content"])
def test_a_file_whose_content_is_not_what_its_name_says_is_made_anew(folder, damage):
    calls = []
    path = cached_file("name", ".bin", writer(b"content", calls))
    path.write_bytes(damage)
    assert cached_file("name", ".bin", writer(b"content", calls)).read_bytes() == b"content"
    assert len(calls) == 2


@pytest.mark.parametrize("planted", ["folder", "dangling link", "link to a folder", "pipe"])
def test_what_is_no_file_under_its_name_does_no_harm(folder, planted):
    path = cached_file("name", ".bin", writer(b"content", []))
    path.unlink()
    if planted == "folder":
        path.mkdir()
    elif planted == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(folder if planted == "link to a folder" else folder / "nowhere")
    found = cached_file("name", ".bin", writer(b"content", []))
    assert found.read_bytes() == b"content" and found.is_file()
    assert stat.S_IMODE(found.parent.stat().st_mode) == 0o700


def test_what_a_killed_compilation_left_is_removed_once_it_is_old(folder):
    for name in ("making-old", "making-new"):
        (folder / name).mkdir(parents=True)
        (folder / name / "made.so").write_bytes(b"half")
    os.utime(folder / "making-old", (0, 0))
    cached_file("name", ".bin", writer(b"content", []))
    assert sorted(path.name[:10] for path in folder.iterdir()) == ["making-new", "name-ed700"]


def test_a_user_without_a_home_has_a_temporary_folder(monkeypatch):
    """A number without an entry in the system's table of users, as in containers."""
    for name in ("M2F_CACHE", "XDG_CACHE_HOME", "HOME", "USERPROFILE"):
        monkeypatch.delenv(name, raising=False)
    pwd = pytest.importorskip("pwd")

    def unknown(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert os.access(cache_folder(), os.W_OK)


def test_a_failed_make_leaves_nothing(folder):
    def fail(path):
        path.write_bytes(b"half")
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        cached_file("name", ".bin", fail)
    assert list(folder.iterdir()) == []


def test_the_folder_is_private(folder):
    assert cache_folder() == folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_xdg_rules(tmp_path, monkeypatch):
    monkeypatch.delenv("M2F_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "m2f"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "m2f"


def test_a_folder_that_others_may_write_to_is_not_used(folder):
    folder.mkdir()
    folder.chmod(0o777)
    other = cache_folder()
    assert other != folder and stat.S_IMODE(other.stat().st_mode) == 0o700
    assert cache_folder() == other


def test_a_place_that_cannot_be_a_folder_is_replaced(tmp_path, monkeypatch):
    """As in a read-only home; root may write everywhere, so a file stands in the way here."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("M2F_CACHE", str(tmp_path / "file" / "cache"))
    assert os.access(cache_folder(), os.W_OK)
