"""Which class of a dataset each class of a checkpoint is, by their names."""

from collections.abc import Collection, Mapping, Sequence

from m2f.validation.label_check import named

_REMEDY = (
    "evaluate on data of the classes that the checkpoint was trained for. Where only names are spelled differently, "
    "make them equal in the dataset"
)


def match_classes(
    trained: Mapping[int, str],
    wanted: Mapping[int, str],
    counted: Collection[int] | None = None,
    predicted: Collection[int] | None = None,
) -> list[int]:
    """The dataset's label of each label of the checkpoint, -1 for one that is not predicted.

    Names decide, not numbers, so that a dataset may have another order, and a panoptic checkpoint can be measured on
    a dataset of its things. A checkpoint whose classes have no names (LABEL_0, ...) fits a dataset with as many.

    Args:
        trained: id -> name, of the checkpoint.
        wanted: of the dataset.
        counted: labels of the dataset that are measured, such as its things; by default all.
        predicted: labels of the checkpoint that it predicts, such as its things; by default all.

    Raises:
        ValueError: the measured classes are not those that are predicted; the message names the difference. Or a name
            stands for several classes, in another order.
    """
    own = {label: trained[label] for label in sorted(trained) if predicted is None or label in predicted}
    theirs = {label: wanted[label] for label in sorted(wanted) if counted is None or label in counted}
    same_place = own == theirs
    unnamed = all(trained[label] == f"LABEL_{label}" for label in trained) and len(trained) == len(wanted)
    if same_place or unnamed:
        return [label if label in own else -1 for label in sorted(trained)]
    _check(list(own.values()), list(theirs.values()))
    label_of = {name: label for label, name in theirs.items()}
    return [label_of[own[label]] if label in own else -1 for label in sorted(trained)]


def _check(trained: Sequence[str], wanted: Sequence[str]):
    differences = [
        *named("only in the dataset", [name for name in wanted if name not in trained]),
        *named("only in the checkpoint", [name for name in trained if name not in wanted]),
    ]
    if differences:
        counts = f"the {len(wanted)} classes of the dataset are not the {len(trained)} of the checkpoint"
        raise ValueError(f"{counts}; {'; '.join(differences)}; {_REMEDY}")
    repeated = [name for name in wanted if list(wanted).count(name) > 1 or list(trained).count(name) > 1]
    if repeated:
        raise ValueError(
            f"the classes of dataset and checkpoint differ in order and have the name {repeated[0]!r} more than once, "
            "so that it cannot be told which is which; give each class a name of its own"
        )
