import numpy as np
import pytest
from PIL import Image

from m2f.training.loss_curves import Panel, draw_panels, ticks


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (18.6, 24.9, [20, 22, 24]),
        (-0.3, 0.31, [-0.2, 0, 0.2]),
        (1e-5, 9e-5, [2e-5, 4e-5, 6e-5, 8e-5]),
        (120, 5000, [1000, 2000, 3000, 4000, 5000]),
        (3, 3, [3]),
    ],
)
def test_ticks_are_round_and_few(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected, abs=1e-12)


def test_a_line_falls_where_the_numbers_fall(tmp_path):
    draw_panels([Panel("loss", {"": [(step, 100 - step) for step in range(0, 101, 10)]})], tmp_path / "c.png")
    pixels = np.asarray(Image.open(tmp_path / "c.png")).astype(int)
    coloured = np.argwhere(pixels.max(-1) - pixels.min(-1) > 60)  # the line; axes and words are grey
    columns = coloured[:, 1]
    left, right = coloured[columns < np.quantile(columns, 0.1)], coloured[columns > np.quantile(columns, 0.9)]
    assert left[:, 0].mean() + 100 < right[:, 0].mean()


def test_what_is_not_finite_is_left_out_and_a_panel_without_points_too(tmp_path):
    nan = float("nan")
    panels = [
        Panel("a", {"one": [(1, 2.0), (2, nan), (3, float("inf"))], "two": []}),
        Panel("b", {"": [(1, nan)]}),
        Panel("c", {"": [(1, 5.0), (2, 5.0)]}),
    ]
    draw_panels(panels, tmp_path / "c.png")
    assert Image.open(tmp_path / "c.png").size == (560, 600)
    draw_panels(panels[1:2], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
