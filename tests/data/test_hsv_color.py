"""Expected values are those of OpenCV 5.0 and 4.8 (cvtColor, 8 bits), recorded; colorsys gives the exact ones."""

import colorsys

import numpy as np

from m2f.data.hsv_color import hsv_to_rgb, rgb_to_hsv

HSV_OF_RGB = {
    (0, 0, 0): (0, 0, 0),
    (255, 255, 255): (0, 0, 255),
    (77, 77, 77): (0, 0, 77),
    (255, 0, 0): (0, 255, 255),
    (0, 255, 0): (60, 255, 255),
    (0, 0, 255): (120, 255, 255),
    (255, 254, 253): (15, 2, 255),
    (3, 1, 2): (165, 170, 3),
    (200, 10, 11): (0, 242, 200),
    (217, 163, 130): (11, 102, 217),
    (69, 78, 10): (34, 222, 78),
    (19, 4, 44): (131, 232, 44),
    (128, 155, 248): (113, 123, 248),
    (143, 239, 71): (47, 179, 239),
    (8, 195, 186): (89, 245, 195),
}
RGB_OF_HSV = {
    (0, 0, 0): (0, 0, 0),
    (0, 255, 255): (255, 0, 0),
    (179, 255, 255): (255, 0, 8),
    (60, 128, 200): (99, 200, 99),
    (15, 100, 101): (101, 81, 61),
    (152, 103, 195): (195, 116, 189),
    (155, 31, 255): (255, 224, 249),
    (97, 171, 251): (82, 211, 251),
    (14, 134, 97): (97, 69, 46),
    (53, 165, 175): (88, 175, 61),
    (86, 65, 243): (181, 243, 234),
    (76, 157, 166): (63, 166, 118),
}


def test_rgb_to_hsv_is_that_of_opencv():
    found = rgb_to_hsv(np.array(list(HSV_OF_RGB), np.uint8).T)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found.T, list(HSV_OF_RGB.values()))


def test_hsv_to_rgb_is_that_of_opencv():
    found = hsv_to_rgb(np.array(list(RGB_OF_HSV), np.float32).T)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found.T, list(RGB_OF_HSV.values()))


def test_every_sixteenth_colour_against_colorsys():
    """17^3 colours. H is rounded to whole steps, and the reciprocal of 12 bits adds less than 0.2 to that."""
    steps = range(0, 256, 15)
    colours = np.array([(r, g, b) for r in steps for g in steps for b in steps], np.uint8)
    hue, saturation, value = rgb_to_hsv(colours.T)
    exact = np.array([colorsys.rgb_to_hsv(*(colour / 255)) for colour in colours]) * (180, 255, 255)
    turn = np.abs(hue - exact[:, 0])
    assert np.minimum(turn, 180 - turn).max() <= 0.7 and 0 <= hue.min() and hue.max() < 180
    assert np.abs(saturation - exact[:, 1]).max() <= 0.5 + 1e-3
    np.testing.assert_array_equal(value, colours.max(1))


def test_every_hue_back_to_rgb_against_colorsys():
    """Cutting the fraction off takes less than 1, and float32 may land just below a whole number."""
    grid = np.stack(np.meshgrid(np.arange(180), range(0, 256, 51), range(0, 256, 51), indexing="ij")).reshape(3, -1)
    exact = np.array([colorsys.hsv_to_rgb(h / 180, s / 255, v / 255) for h, s, v in grid.T]).T * 255
    below = exact - hsv_to_rgb(grid.astype(np.float32))
    assert -1e-3 < below.min() and below.max() < 1 + 1e-3
