import json

import pytest

from m2f.data.class_names import check_names, find_class_names

# The head and two rows of ADE20K's objectInfo150.txt.
ADE20K_TABLE = """Idx\tRatio\tTrain\tVal\tStuff\tName
1\t0.1576\t11664\t1172\t1\twall
2\t0.1072\t6046\t612\t1\tbuilding, edifice
"""


def test_id2label_is_read_in_the_order_of_its_numbers(tmp_path):
    assert find_class_names(tmp_path) == (None, False)
    (tmp_path / "objectInfo150.txt").write_text(ADE20K_TABLE)
    assert find_class_names(tmp_path) == ({0: "wall", 1: "building, edifice"}, True)
    (tmp_path / "id2label.json").write_text(json.dumps({"10": "ten", "2": "two"}))
    names, counted_from_one = find_class_names(tmp_path)
    assert (list(names.items()), counted_from_one) == ([(2, "two"), (10, "ten")], False)
    (tmp_path / "id2label.json").write_text(json.dumps(["a", "b"]))
    assert find_class_names(tmp_path)[0] == {0: "a", 1: "b"}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({}, "x: the class names are dict"),
        ("ab", "x: the class names are str"),
        (None, "x: the class names are NoneType"),
        ({"1.0": "a"}, r"x: the label '1\.0' is no integer from 0 to 65534"),
        ({"1_0": "a"}, "the label '1_0' is no integer"),
        ({"١": "a"}, "the label '١' is no integer"),
        ({-1: "a"}, "the label -1 is no integer"),
        ({65535: "a"}, "the label 65535 is no integer"),
        ({True: "a"}, "the label True is no integer"),
        ({0: None}, "x: the name of label 0 is None; a text"),
        ({0: False}, "the name of label 0 is False; a text in quotes"),
        ({0: {"name": "a"}}, "the name of label 0 is {'name': 'a'}"),
    ],
)
def test_what_is_no_class_names_is_refused(names, message):
    with pytest.raises(ValueError, match=message):
        check_names(names, "x")


def test_names_that_yaml_read_as_numbers_are_texts():
    assert check_names([7, "x"], "x") == {0: "7", 1: "x"}


@pytest.mark.parametrize("table", ["", "a\tb\n1\t2\n", "Idx\tName\n1\t\n", "Idx\tName\n1\n"])
def test_another_table_than_that_of_ade20k_is_refused(tmp_path, table):
    (tmp_path / "objectInfo150.txt").write_text(table)
    with pytest.raises(ValueError, match=r"objectInfo150\.txt has no column Name with a name in each row"):
        find_class_names(tmp_path)
