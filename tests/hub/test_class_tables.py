"""Class names and things of the paper's datasets. The counts are those of the original's configurations."""

import pytest

from m2f.data.cityscapes_labels import CLASSES, THINGS
from m2f.hub.class_tables import class_names, presets_with, thing_labels
from m2f.image_processing.resolution_presets import RESOLUTION_PRESETS

COUNTS = {  # classes; things, where there are both
    "coco-panoptic": (133, 80),
    "coco-instance": (80, None),
    "cityscapes-panoptic": (19, 8),
    "cityscapes-instance": (8, None),
    "cityscapes-semantic": (19, None),
    "ade20k-panoptic": (150, 100),
    "ade20k-instance": (100, None),
    "ade20k-semantic": (150, None),
    "ade20k-semantic-640": (150, None),
    "mapillary-vistas-panoptic": (65, 37),
    "mapillary-vistas-semantic": (65, None),
}


@pytest.mark.parametrize("preset", RESOLUTION_PRESETS)
def test_every_preset_has_as_many_classes_and_things_as_the_original(preset):
    names, things = class_names(preset), thing_labels(preset)
    assert (len(names), None if things is None else len(things)) == COUNTS[preset]
    assert list(names) == list(range(len(names)))
    assert all(name and name == name.strip() for name in names.values())
    double = {name for name in names.values() if list(names.values()).count(name) > 1}
    assert not double
    assert things is None or things == sorted(set(things) & set(names))


def test_places_of_single_classes():
    """Looked up in the sources that class_tables.py names."""
    coco, ade, vistas = (class_names(f"{name}-panoptic") for name in ("coco", "ade20k", "mapillary-vistas"))
    assert (coco[0], coco[79], coco[80], coco[117], coco[132]) == (
        *("person", "toothbrush", "banner", "fence-merged", "rug-merged"),
    )
    assert (ade[7], ade[44], ade[149]) == ("bed", "chest of drawers, chest, bureau, dresser", "flag")
    assert (vistas[0], vistas[8], vistas[43], vistas[55], vistas[64]) == (
        *("Bird", "Crosswalk - Plain", "Pothole", "Car", "Ego Vehicle"),
    )
    things = thing_labels("mapillary-vistas-panoptic")
    assert {8, 55, 62} <= set(things) and not {43, 58, 63, 64} & set(things)  # 58: On Rails
    assert class_names("ade20k-instance")[0] == "bed" and class_names("ade20k-instance")[2] == "cabinet"
    things = {ade[label] for label in thing_labels("ade20k-panoptic")}
    assert {"fountain", "step, stair"} <= things and not {"tent", "plant", "shower"} & things


def test_cityscapes_is_as_the_reader_has_it():
    assert list(class_names("cityscapes-panoptic").values()) == [label.name for label in CLASSES]
    assert thing_labels("cityscapes-panoptic") == [label.train_id for label in THINGS]
    assert list(class_names("cityscapes-instance").values()) == [label.name for label in THINGS]


def test_presets_by_number_and_unknown_ones():
    assert presets_with(19) == ["cityscapes-panoptic", "cityscapes-semantic"]
    assert presets_with(7) == []
    with pytest.raises(ValueError, match="no class names for 'lvis'"):
        class_names("lvis")
