"""YOLO polygons; pycocotools rasterises the expected masks from the points in pixels."""

import shutil

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from m2f.data.dataset_formats import list_splits, open_dataset
from m2f.data.yolo_layout import yolo_label_path
from m2f.data.yolo_segmentation import YoloSegmentation

YAML = "train: images/train\nval: images/val\nnames:\n  0: cat\n  1: dog\n"
LINES = "1 0.1 0.25 0.6 0.25 0.6 0.75\n\n0 0 0 1 0 1 1 0 1\n"


@pytest.fixture
def root(tmp_path):
    """Images of 8 x 10: a with two objects, b with an empty text file, c without one."""
    for name in ("a", "b", "sub/c"):
        path = tmp_path / "images" / "train" / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (10, 8)).save(path)
    labels = tmp_path / "labels" / "train"
    labels.mkdir(parents=True)
    (labels / "a.txt").write_text(LINES)
    (labels / "b.txt").write_text("\n")
    (tmp_path / "data.yaml").write_text(YAML)
    return tmp_path


def test_polygons_are_shares_of_width_and_height(root):
    sample = YoloSegmentation(root / "data.yaml")[0]
    polygon = [[1, 2, 6, 2, 6, 6]]  # 10 wide, 8 high
    expected = coco_mask.decode(coco_mask.frPyObjects(polygon, 8, 10))[..., 0]
    np.testing.assert_array_equal(sample.segments.masks(), [expected, np.ones((8, 10))])
    np.testing.assert_array_equal(sample.segments.class_ids, [1, 0])
    assert (sample.image.size, sample.name) == ((10, 8), "images/train/a.jpg")


def test_an_image_without_lines_has_no_objects(root):
    dataset = YoloSegmentation(root / "data.yaml")
    assert len(dataset) == 3
    for index in (1, 2):
        segments = dataset[index].segments
        assert segments.masks().shape == (0, 8, 10) and not segments.ignored().any()


def test_what_is_told_without_decoding(root):
    dataset = YoloSegmentation(root / "data.yaml")
    assert (dataset.id2label, dataset.thing_label_ids) == ({0: "cat", 1: "dog"}, None)
    assert (dataset.task, dataset.format, dataset.split) == ("instance", "yolo-segmentation", "train")
    assert dataset.name_of(2) == "images/train/sub/c.jpg"
    assert dataset.image_path(2) == root / "images" / "train" / "sub" / "c.jpg"


def test_shares_belong_to_the_upright_image(root):
    """Stored 8 x 10 and turned by EXIF orientation 6: 10 high and 8 wide. The left half is 4 columns."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (10, 8)).save(root / "images" / "train" / "a.jpg", exif=exif)
    (root / "labels" / "train" / "a.txt").write_text("0 0 0 .5 0 .5 1 0 1")
    sample = YoloSegmentation(root / "data.yaml")[0]
    assert sample.image.size == (8, 10)
    np.testing.assert_array_equal(sample.segments.masks()[0], np.tile([1] * 4 + [0] * 4, (10, 1)))


@pytest.mark.parametrize(
    "yaml",
    [
        "path: .\ntrain: images/train\nnames: [cat, dog]\nnc: 2",
        "path: ../elsewhere/coco8-seg\ntrain: images/train\nnames: [cat, dog]",  # copied with its data
        "train: ../images/train\nval: ../valid/images\nnames: [cat, dog]",  # Roboflow's
        "train: [images/train]\ntest:\nnames: [cat, dog]",
        "train: train.txt\nnames: [cat, dog]",
        "train: lists/train.txt\nnames: [cat, dog]",
        "path: 'C:\\Users\\me\\data'\ntrain: 'images\\train'\nnames: [cat, dog]",
        "train: 'C:\\Users\\me\\data\\images\\train'\nnames: [cat, dog]",
        "train: ..\\data-1\\images\\train\nnames: [cat, dog]",
        "train: data-1/images/train\nnames: [cat, dog]",
        "train: /content/data-1/images/train\nnames: [cat, dog]",
        "train: Images/Train\nnames: [cat, dog]",
        "train: windows.txt\nnames: [cat, dog]",
    ],
)
def test_places_of_the_images(root, yaml):
    (root / "data.yaml").write_text(yaml)
    (root / "lists").mkdir()
    names = [f"images/train/{name}.jpg" for name in ("a", "b", "sub/c")]
    (root / "train.txt").write_text("\n".join(f"./{name}" for name in names))
    (root / "lists" / "train.txt").write_text("\r\n".join(names) + "\n")
    (root / "windows.txt").write_text("\r\n".join("C:\\me\\" + name.replace("/", "\\") for name in names))
    dataset = YoloSegmentation(root / "data.yaml")
    assert [dataset.image_path(i) for i in range(3)] == [root / name for name in names]
    assert len(dataset[0].segments.class_ids) == 2


def test_the_place_of_another_split_is_no_substitute(root):
    """Roboflow's data-1/valid/images does not mean images, which are those of train."""
    (root / "data.yaml").write_text("train: images/train\nval: data-1/valid/images\nnames: [cat, dog]")
    with pytest.raises(FileNotFoundError, match=r"no such folder or file: .*data-1/valid/images \(val in"):
        YoloSegmentation(root / "data.yaml", "val")


@pytest.mark.parametrize(("images", "labels"), [("Images", "Labels"), ("IMAGES", "LABELS"), ("images", "Labels")])
def test_folders_may_be_in_capitals(root, images, labels):
    (root / "images").rename(root / images)
    (root / "labels").rename(root / labels)
    for place in ("images/train", f"{images}/train"):
        (root / "data.yaml").write_text(f"train: {place}\nnames: [cat, dog]")
        assert len(YoloSegmentation(root / "data.yaml")[0].segments.class_ids) == 2


def test_a_split_without_any_text_file_says_where_they_were_looked_for(root):
    """Where "images" is the dataset's folder itself, the text files are looked for beside the images."""
    (root / "data.yaml").write_text("path: images\ntrain: train\ntest: train\nnames: [cat, dog]")
    where = root / "images" / "train" / "a.txt"
    with pytest.raises(ValueError, match=f"none of the 3 images of train has a text .* looked for {where} and the"):
        YoloSegmentation(root / "data.yaml")
    assert len(YoloSegmentation(root / "data.yaml", "test")[0].segments.class_ids) == 0


@pytest.mark.parametrize("place", ["classes.txt", "labels/classes.txt"])
def test_a_list_of_classes_stands_for_a_yaml(root, place):
    """Label Studio's export has all in images and labels; others have folders of splits."""
    (root / "data.yaml").unlink()
    (root / place).write_text("cat\r\ndog\n")
    for kind in ("images", "labels"):
        (root / kind / "valid").mkdir()
    Image.new("RGB", (10, 8)).save(root / "images" / "valid" / "v.jpg")
    (root / "labels" / "valid" / "v.txt").write_text(LINES)
    for path in (root, root / place):
        assert list_splits(path) == ["train", "val"]
        for split, count in (("train", 3), ("val", 1)):
            dataset = open_dataset(path, split)
            assert (dataset.id2label, len(dataset)) == ({0: "cat", 1: "dog"}, count)
            assert len(dataset[0].segments.class_ids) == 2
    for kind, end in (("images", "jpg"), ("labels", "txt")):
        (root / kind / "train" / f"a.{end}").rename(root / kind / f"a.{end}")
        for folder in ("train", "valid"):
            shutil.rmtree(root / kind / folder)
    assert list_splits(root) == ["train"]
    assert open_dataset(root).name_of(0) == "images/a.jpg"
    (root / "labels" / "a.txt").unlink()
    with pytest.raises(ValueError, match="no dataset of a known format"):
        open_dataset(root)


@pytest.mark.parametrize("kind", ["yaml", "list", "classes"])
def test_images_may_be_elsewhere(root, tmp_path_factory, kind):
    """As Label Studio exports images of its Local Files, and CVAT data without images."""
    photos = tmp_path_factory.mktemp("photos")
    (root / "images" / "train").rename(photos / "all")
    Image.new("RGB", (10, 8)).save(photos / "unlabelled.jpg")
    (photos / "all" / "b.jpg").rename(photos / "b ü.png")
    (root / "labels" / "train" / "b.txt").rename(root / "labels" / "train" / "b%20%C3%BC.txt")
    if kind == "list":
        (root / "train.txt").write_text("data/images/train/a.jpg\ndata/images/train/b%20%C3%BC.png\nimages/c.jpg\n/\n")
        (root / "data.yaml").write_text("path: .\ntrain: train.txt\nnames: [cat, dog]")
    if kind == "classes":
        (root / "data.yaml").unlink()
        (root / "classes.txt").write_text("cat\ndog\n")
        shutil.rmtree(root / "images")
    assert list_splits(root)[0] == "train"
    dataset = open_dataset(root, image_folder=photos)
    assert [dataset.name_of(index) for index in range(len(dataset))] == ["all/a.jpg", "b ü.png"]
    assert [len(sample.segments.class_ids) for sample in map(dataset.__getitem__, range(2))] == [2, 0]
    (photos / "all" / "a.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"no such file: .*photos\d+/a"):
        open_dataset(root, image_folder=photos)[0]
    (photos / "b ü.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"none of the 2 images of train is there, such as .*photos\d+/a;"):
        open_dataset(root, image_folder=photos)
    with pytest.raises((ValueError, FileNotFoundError), match="give their folder|is not read"):
        open_dataset(root)


def test_text_files_for_one_image_are_named(root, tmp_path_factory):
    photos = tmp_path_factory.mktemp("photos")
    Image.new("RGB", (10, 8)).save(photos / "a.jpg")
    (root / "labels" / "train" / "sub").mkdir()
    (root / "labels" / "train" / "sub" / "a.txt").write_text(LINES)
    with pytest.raises(ValueError, match=r"train/a\.txt and .*sub/a\.txt are for images of one name"):
        YoloSegmentation(root / "data.yaml", images=photos)


def test_the_last_folder_named_images_becomes_labels(tmp_path):
    for image, label in (
        ("images/train/a.jpg", "labels/train/a.txt"),
        ("train/images/a.b.png", "train/labels/a.b.txt"),
        ("images/images/a.jpg", "images/labels/a.txt"),
        ("train/a.jpg", "train/a.txt"),
        ("images.jpg", "images.txt"),
    ):
        assert yolo_label_path(tmp_path / image, tmp_path) == tmp_path / label
    root = tmp_path / "images"  # above the dataset the name means nothing
    assert yolo_label_path(root / "x" / "a.jpg", root) == root / "x" / "a.txt"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.1 0.1 0.5 0.5", r"has 4 coordinates \(four are a box"),
        ("0 0.1 0.1 0.5 0.5 0.2 0.2 0.3", "has 7 coordinates; x and y of at least 3 points"),
        ("0", "has 0 coordinates"),
        ("2 0 0 1 0 1 1", "class 2 is not among the 2 names"),
        ("-1 0 0 1 0 1 1", "class -1 is not among"),
        ("0.5 0 0 1 0 1 1", "class 0.5 is not among"),
        ("nan 0 0 1 0 1 1", "class nan is not among"),
        ("cat 0 0 1 0 1 1", "is not a list of numbers"),
        ("0 0 0 1 0 1_0 1", "'1_0' is no number"),
        ("0 0 0 1 0 ١ 1", "'١' is no number"),
        ("0 0 0 1 0 1 1.02", r"coordinates from 0\.0 to 1\.02; shares"),
        ("0 0 0 1 0 1 -0.02", r"coordinates from -0\.02 to 1\.0"),
        ("0 0 0 1 0 1 nan", "coordinates from"),
        ("0 0 0 1 0 1 inf", "coordinates from 0.0 to inf"),
        ("0 10 20 300 20 300 80", "coordinates from 10.0 to 300.0; shares of width and height"),
    ],
)
def test_bad_lines_are_named(root, line, message):
    (root / "labels" / "train" / "a.txt").write_text(f"{LINES}{line}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=rf"labels/train/a\.txt, line 4.*{message}"):
        YoloSegmentation(root / "data.yaml")[0]


def test_a_little_outside_is_taken(root):
    (root / "labels" / "train" / "a.txt").write_text("0 -0.01 -0.01 1.01 -0.01 1.01 1.01 -0.01 1.01")
    assert YoloSegmentation(root / "data.yaml")[0].segments.areas().tolist() == [80]


def test_a_file_that_is_no_text_is_named(root):
    (root / "labels" / "train" / "a.txt").write_bytes(b"0 \xff\xfe")
    with pytest.raises(ValueError, match=r"cannot read .*labels/train/a\.txt"):
        YoloSegmentation(root / "data.yaml")[0]


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("", "is no yaml of a YOLO dataset"),
        ("- a", "is no yaml of a YOLO dataset"),
        ("train: images/train", "it has no names, or none of train, val, test"),
        ("names: [a]", "it has no names, or none of train"),
        ("{", "is no yaml file"),
        ('names: !!int ""\ntrain: x', "is no yaml file"),
        ("names: !!timestamp x\ntrain: x", "is no yaml file"),
        ("names: !!python/object/apply:os.getcwd []\ntrain: x", "is no yaml file"),
        ("[" * 5000, "is no yaml file"),
        ("names: {0: a, 2: b}\ntrain: images/train", r"names has the classes \[0, 2\], nc is absent"),
        ("names: [a]\nnc: 2\ntrain: images/train", r"classes \[0\], nc is 2"),
        ("names: [a]\nnc: 1000000000000\ntrain: images/train", "nc is 1000000000000"),
        ("names: [a, no]\ntrain: images/train", "names: the name of 1 is False|the name of label 1 is False"),
        ("names: [a]\nval: images/train", r"has no split 'train'; it has val"),
        ("names: [a]\ntrain: {a: b}", "train has {'a': 'b'}; the path of a folder or file is needed"),
        ("names: [a]\ntrain: labels", "train has no image in labels"),
        ("names: [a]\ntrain: ../../x", r"data\.yaml names the file '\.\./\.\./x', which is outside"),
        ("names: [a]\ntrain: /etc", "names the file '/etc', which is outside"),
        ("names: [a]\ntrain: evil.txt", r"evil\.txt names the file '/etc/passwd', which is outside"),
        ("names: [a]\ntrain: images/train\npath: [a]", r"path is \['a'\]; a text is needed"),
        ("names: [a]\ntrain: images/train\npath: ..", "which is outside its own folder; if you trust it, give"),
        ("names: [a]\ntrain: images/train\npath: /", "which is outside its own folder"),
    ],
)
def test_bad_yaml_is_refused(root, yaml, message):
    (root / "data.yaml").write_text(yaml)
    (root / "evil.txt").write_text("images/train/a.jpg\n/etc/passwd\n")
    with pytest.raises(ValueError, match=message):
        YoloSegmentation(root / "data.yaml")


def test_nested_aliases_are_not_written_out(root):
    """Each line doubles what the one before it stands for: 2^100 entries if it were shown in full."""
    lines = ["a0: &a0 [x, x]", *(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 100))]
    (root / "data.yaml").write_text("\n".join([*lines, "names: [a]", "train: [*a99]"]))
    with pytest.raises(ValueError, match="data.yaml is no yaml file: it has an alias"):
        YoloSegmentation(root / "data.yaml")


def test_missing_files_are_named(root):
    with pytest.raises(FileNotFoundError, match="no such file: .*absent.yaml"):
        YoloSegmentation(root / "absent.yaml")
    with pytest.raises(FileNotFoundError, match=r"no such folder or file: .*images/val \(val in .*data\.yaml\)"):
        YoloSegmentation(root / "data.yaml", "val")
    dataset = YoloSegmentation(root / "data.yaml")
    (root / "images" / "train" / "b.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"no such file: .*images/train/b\.jpg"):
        dataset[1]


def test_the_folder_can_be_given(root, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("yaml") / "data.yaml"
    elsewhere.write_text(f"path: {root}\n{YAML}")
    with pytest.raises(ValueError, match="outside its own folder"):
        YoloSegmentation(elsewhere)
    assert YoloSegmentation(elsewhere, root=root)[0].segments.class_ids.tolist() == [1, 0]
