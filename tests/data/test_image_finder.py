"""Names of images as tools write them, and the files that are meant."""

import pytest
from PIL import Image

from m2f.data.image_finder import ImageFinder


@pytest.fixture
def root(tmp_path):
    for name in ("a.png", "train/b c.jpg", "train/twice.png", "val/twice.png", "train/train/deep.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2)).save(path)
    return tmp_path


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["a.png"], "a.png"),
        (["./a.png"], "a.png"),
        (["train\\b c.jpg"], "train/b c.jpg"),
        (["C:\\data\\b c.jpg"], "train/b c.jpg"),
        (["https://x.org/y/b%20c.jpg?token=a.png"], "train/b c.jpg"),
        (["../../../elsewhere/a.png"], "a.png"),  # never outside the folder
        (["/etc/a.png"], "a.png"),
        (["val/twice.png"], "val/twice.png"),
        (["/home/x/data/val/twice.png"], "val/twice.png"),
        (["A.PNG"], "a.png"),
        (["0123abcd-a.png", "a.png"], "a.png"),
        (["0123abcd-a.png"], "a.png"),
        (["x/absent.png", "other.png"], "absent.png"),
        (["a"], "a"),
        (["/"], "unnamed"),
    ],
)
def test_a_name_is_found(root, names, found):
    assert ImageFinder(root).find(*names) == found


def test_names_without_a_suffix(root):
    finder = ImageFinder(root, by_stem=True)
    found = [finder.find(name) for name in ("b c", "0123abcd-b_c", "0123abcd-c")]
    assert found == ["train/b c.jpg", "train/b c.jpg", "0123abcd-c"]


def test_what_is_not_clear(root):
    with pytest.raises(ValueError, match="2 files called 'twice.png', .*--image-folder"):
        ImageFinder(root).find("twice.png")
    with pytest.raises(FileNotFoundError, match="no such folder: .*absent"):
        ImageFinder(root / "absent")
