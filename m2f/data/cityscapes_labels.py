"""The labels of Cityscapes (https://www.cityscapes-dataset.com), as in helpers/labels.py of its cityscapesScripts."""

from typing import NamedTuple


class CityscapesLabel(NamedTuple):
    """A label as it stands in the files."""

    name: str
    id: int
    train_id: int | None  # position among the 19 classes that are trained and evaluated; None: not one of them
    has_instances: bool  # its objects are told apart

    @property
    def ignored(self) -> bool:
        """Whether the evaluation ignores its pixels: just those of the labels without a train id."""
        return self.train_id is None


LABELS = tuple(
    CityscapesLabel(*values)
    for values in (
        ("unlabeled", 0, None, False),
        ("ego vehicle", 1, None, False),
        ("rectification border", 2, None, False),
        ("out of roi", 3, None, False),
        ("static", 4, None, False),
        ("dynamic", 5, None, False),
        ("ground", 6, None, False),
        ("road", 7, 0, False),
        ("sidewalk", 8, 1, False),
        ("parking", 9, None, False),
        ("rail track", 10, None, False),
        ("building", 11, 2, False),
        ("wall", 12, 3, False),
        ("fence", 13, 4, False),
        ("guard rail", 14, None, False),
        ("bridge", 15, None, False),
        ("tunnel", 16, None, False),
        ("pole", 17, 5, False),
        ("polegroup", 18, None, False),
        ("traffic light", 19, 6, False),
        ("traffic sign", 20, 7, False),
        ("vegetation", 21, 8, False),
        ("terrain", 22, 9, False),
        ("sky", 23, 10, False),
        ("person", 24, 11, True),
        ("rider", 25, 12, True),
        ("car", 26, 13, True),
        ("truck", 27, 14, True),
        ("bus", 28, 15, True),
        ("caravan", 29, None, True),
        ("trailer", 30, None, True),
        ("train", 31, 16, True),
        ("motorcycle", 32, 17, True),
        ("bicycle", 33, 18, True),
        # Has no pixel in the files: what is drawn there is the vehicle.
        ("license plate", -1, None, False),
    )
)
CLASSES = tuple(sorted((label for label in LABELS if not label.ignored), key=lambda label: label.train_id or 0))
THINGS = tuple(label for label in CLASSES if label.has_instances)
