"""The per-class table as csv and png, read back with the csv module and Pillow."""

import csv
import math

import numpy as np
import pytest
from PIL import Image

from m2f.evaluation.class_table import draw_class_chart, write_class_chart, write_class_csv

ROWS = [
    {"class_id": 0, "name": "cell, dark", "PQ": 0.25, "TP": 3},
    {"class_id": 1, "name": "Größe", "PQ": math.nan, "TP": 0},
    {"class_id": 2, "name": "sky", "PQ": 1.0, "TP": 1},
]


def test_csv_has_a_line_for_each_class_and_nothing_where_there_is_no_number(tmp_path):
    write_class_csv(ROWS, tmp_path / "classes.csv")
    with open(tmp_path / "classes.csv", newline="", encoding="utf-8") as file:
        lines = list(csv.reader(file))
    assert lines[0] == ["class_id", "name", "PQ", "TP"]
    assert lines[1:] == [["0", "cell, dark", "0.25", "3"], ["1", "Größe", "", "0"], ["2", "sky", "1.0", "1"]]


def test_chart_has_bars_in_descending_order_as_long_as_the_numbers(tmp_path):
    """360 pixels stand for 1: bars of 360, 90 and none, in rows of 22 pixels under the title."""
    write_class_chart(ROWS, "PQ", tmp_path / "classes.png")
    pixels = np.asarray(Image.open(tmp_path / "classes.png"))
    filled = (pixels == (0x3A, 0x76, 0xAF)).all(2)
    lengths = [int(filled[12 + 22 * number + 8].sum()) for number in (1, 2, 3)]
    assert lengths == [360, 90, 0]


def test_long_names_do_not_touch_the_bars():
    chart = np.asarray(draw_class_chart([{"name": "a" * 60, "IoU": 1.0}], "IoU"))
    filled = (chart == (0x3A, 0x76, 0xAF)).all(2)
    start = int(filled.any(0).argmax())
    assert (chart[34:56, start - 8 : start] == 255).all() and start > 300


def test_wrong_tables_are_refused(tmp_path):
    for write in (write_class_csv, lambda rows, path: write_class_chart(rows, "PQ", path)):
        with pytest.raises(ValueError, match="the table has no rows"):
            write([], tmp_path / "x")
    with pytest.raises(ValueError, match="no column 'AP', only class_id, name, PQ, TP"):
        write_class_chart(ROWS, "AP", tmp_path / "x")
    assert not list(tmp_path.iterdir())
