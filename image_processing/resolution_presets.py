"""The test-time settings of the paper's configurations.

Source: the configuration files of facebookresearch/Mask2Former (configs/<data set>/...: INPUT.MIN_SIZE_TEST and
MAX_SIZE_TEST, SEM_SEG_HEAD.IGNORE_VALUE, TEST.OBJECT_MASK_THRESHOLD). COCO uses detectron2's default of 800 / 1333.
"""

from typing import Any, NamedTuple

PANOPTIC_THRESHOLD = 0.8  # default class probability above which a query is a segment


class ResolutionPreset(NamedTuple):
    """One row of the table: test-time resize limits, task, void value of the label maps, panoptic score threshold.

    `ignore_index` is given for semantic maps only. The maps of panoptic and instance data hold segment ids, where 255
    is an id like any other and the void value is up to the data set's files.
    """

    task: str
    shortest_edge: int
    longest_edge: int
    ignore_index: int | None = None
    panoptic_threshold: float = PANOPTIC_THRESHOLD

    def processor_fields(self) -> dict[str, Any]:
        """The fields under the names that M2FImageProcessor gives them."""
        return {
            "task": self.task,
            "size": {"shortest_edge": self.shortest_edge, "longest_edge": self.longest_edge},
            "ignore_index": self.ignore_index,
            "panoptic_threshold": self.panoptic_threshold,
        }


RESOLUTION_PRESETS = {
    "coco-panoptic": ResolutionPreset("panoptic", 800, 1333),
    "coco-instance": ResolutionPreset("instance", 800, 1333),
    "cityscapes-panoptic": ResolutionPreset("panoptic", 1024, 2048),
    "cityscapes-instance": ResolutionPreset("instance", 1024, 2048),
    "cityscapes-semantic": ResolutionPreset("semantic", 1024, 2048, ignore_index=255),
    "ade20k-panoptic": ResolutionPreset("panoptic", 640, 2560),
    "ade20k-instance": ResolutionPreset("instance", 640, 2560),
    # 512 is the setting of the R50, R101, Swin-T and Swin-S checkpoints, 640 that of Swin-B and Swin-L.
    "ade20k-semantic": ResolutionPreset("semantic", 512, 2048, ignore_index=255),
    "ade20k-semantic-640": ResolutionPreset("semantic", 640, 2560, ignore_index=255),
    "mapillary-vistas-panoptic": ResolutionPreset("panoptic", 2048, 2048, panoptic_threshold=0.0),
    "mapillary-vistas-semantic": ResolutionPreset("semantic", 2048, 2048, ignore_index=65),
}


def get_preset(name: str) -> ResolutionPreset:
    """The preset called `name`.

    Raises:
        ValueError: there is none; the message lists them.
    """
    if name not in RESOLUTION_PRESETS:
        raise ValueError(f"unknown preset {name!r}; there are {', '.join(RESOLUTION_PRESETS)}")
    return RESOLUTION_PRESETS[name]
