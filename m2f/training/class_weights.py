"""Weights of single classes in the classification loss, as people write them: by order, by name, or in a file."""

import difflib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from m2f.image_processing.flat_yaml import read_flat_yaml

FILE_SUFFIXES = (".json", ".yaml", ".yml")


def weight_entries(value: Any) -> tuple[str, ...]:
    """What a flag or a file says, as words: numbers, NAME=NUMBER, or the name of one file.

    Args:
        value: a word or number, a list of them, or a mapping of names to numbers.

    Raises:
        ValueError: something else.
    """
    if isinstance(value, Mapping):
        value = [f"{name}={weight}" for name, weight in value.items()]
    if isinstance(value, str):
        value = [value]
    is_list = isinstance(value, Sequence)
    if not is_list or not all(isinstance(word, str | int | float) and not isinstance(word, bool) for word in value):
        raise ValueError(
            f"class_weights is {value!r}; a list such as [1, 0.5], a mapping such as {{car: 2}}, or the name of a "
            "json or yaml file of one of these is needed"
        )
    return tuple(str(word) for word in value)


def class_weights_of(entries: Sequence[str], names: Mapping[int, str]) -> list[float] | None:
    """A weight for each class, or None where nothing is said.

    Args:
        entries: see `weight_entries`; by name, classes that are not named have weight 1. A class may be named by its
            id, if no class has that name.
        names: id -> name of all classes.

    Raises:
        ValueError: a weight is no number >= 0, their number is not that of the classes, or a name is unknown, names
            two classes, or is given twice.
        OSError: a file cannot be read.
    """
    if len(entries) == 1 and Path(entries[0]).suffix.lower() in FILE_SUFFIXES and "=" not in entries[0]:
        entries = _of_file(Path(entries[0]))
    if not entries:
        return None
    named = [entry for entry in entries if "=" in entry]
    if named and len(named) < len(entries):
        unnamed = next(entry for entry in entries if "=" not in entry)
        raise ValueError(f"class_weights gives {unnamed} beside {named[0]}; give all by order, or all as NAME=NUMBER")
    if named:
        return _by_name(named, names)
    if len(entries) != len(names):
        raise ValueError(
            f"class_weights has {len(entries)} numbers, and the dataset {len(names)} classes; give one for each, in "
            "the order of their ids, or NAME=NUMBER for some"
        )
    return _checked([_number(entry, entry) for entry in entries])


def _of_file(path: Path) -> tuple[str, ...]:
    try:
        return weight_entries(read_flat_yaml(path))  # json is yaml
    except ValueError as error:
        raise ValueError(f"{path} holds no class weights: {error}") from error


def _by_name(entries: Sequence[str], names: Mapping[int, str]) -> list[float]:
    order = sorted(names)
    given: dict[int, float] = {}
    for entry in entries:
        name, weight = (part.strip() for part in entry.rsplit("=", 1))
        place = order.index(_id_of(name, names))
        if place in given:
            raise ValueError(f"class_weights gives {name} twice")
        given[place] = _number(weight, entry)
    return _checked([given.get(place, 1.0) for place in range(len(order))])


def _id_of(name: str, names: Mapping[int, str]) -> int:
    found = [label for label, known in names.items() if known == name]
    if not found and name.isdecimal() and int(name) in names:
        return int(name)
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"class_weights names {name}, which classes {found} are called; name them by their ids")
    near = difflib.get_close_matches(name, map(str, names.values()), n=3, cutoff=0.5)
    remedy = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(map(str, names.values()))[:200]}"
    raise ValueError(f"class_weights names the class {name!r}, which the dataset does not have; {remedy}")


def _number(text: str, entry: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not 0 <= weight < math.inf:
        raise ValueError(f"class_weights has {entry!r}; a weight is a finite number >= 0")
    return weight


def _checked(weights: list[float]) -> list[float]:
    if not any(weights):
        raise ValueError("class_weights are all 0: no class would be learned")
    return weights
