"""The test-time settings of the paper's configurations."""

import pytest

from m2f.image_processing.image_processing_m2f import M2FImageProcessor
from m2f.image_processing.resolution_presets import RESOLUTION_PRESETS


@pytest.mark.parametrize("name", list(RESOLUTION_PRESETS))
def test_reference_row_04_presets_keep_the_aspect_ratio(name):
    # transformers' released checkpoints squash every image to 384 x 384.
    processor = M2FImageProcessor.from_preset(name)
    preset = RESOLUTION_PRESETS[name]
    assert dict(processor.size) == {"shortest_edge": preset.shortest_edge, "longest_edge": preset.longest_edge}
    assert processor.task == name.split("-")[-1 if not name.endswith("-640") else -2]


def test_presets_of_the_paper():
    # configs/coco/panoptic, configs/mapillary-vistas/panoptic and /semantic of the original
    assert dict(M2FImageProcessor.from_preset("coco-panoptic").size) == {"shortest_edge": 800, "longest_edge": 1333}
    assert M2FImageProcessor.from_preset("coco-panoptic").panoptic_threshold == 0.8
    assert M2FImageProcessor.from_preset("mapillary-vistas-panoptic").panoptic_threshold == 0.0
    assert M2FImageProcessor.from_preset("mapillary-vistas-semantic").ignore_index == 65
    assert M2FImageProcessor.from_preset("ade20k-semantic", ignore_index=0).ignore_index == 0


def test_unknown_preset_lists_the_known():
    with pytest.raises(ValueError, match="coco-panoptics.*cityscapes-semantic"):
        M2FImageProcessor.from_preset("coco-panoptics")
