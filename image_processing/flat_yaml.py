"""Yaml files of options. Options are flat, so nothing is read that could grow: 300 bytes of aliases stand for any
amount of memory, and brackets in brackets for any depth of calls."""

import os
from typing import Any

MOST_BYTES = 1 << 20
MOST_LEVELS = 4  # a mapping of options, lists and mappings in it, and lists in these


def read_flat_yaml(path: str | os.PathLike) -> Any:
    """The content of a file of options.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is longer than `MOST_BYTES`, no UTF-8, or not what `flat_yaml` takes.
    """
    with open(path, "rb") as file:  # of a device, as much as is allowed
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"{path} is no file of options: it has more than {MOST_BYTES >> 20} MiB")
    try:
        return flat_yaml(content.decode("utf-8-sig"), str(path))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no yaml file: {error}") from error


def flat_yaml(text: str, name: str) -> Any:
    """The content of a yaml text of at most `MOST_LEVELS`, without aliases and repeated keys.

    Args:
        name: of the file, for messages.

    Raises:
        ValueError: it is no yaml, or not such a one.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        level = 0

        def compose_node(self, parent, index):
            if self.check_event(yaml.AliasEvent):
                raise ValueError("it has an alias (*), which options need not; write the value again")
            self.level += 1
            if self.level > MOST_LEVELS + 1:  # the values in the last one are a level too
                raise ValueError(f"it has more than {MOST_LEVELS} levels; options are flat")
            node = super().compose_node(parent, index)
            self.level -= 1
            return node

        def construct_mapping(self, node, deep=False):
            seen = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode):
                    if key.value in seen:
                        raise ValueError(f"it has the key {key.value[:50]!r} twice")
                    seen.add(key.value)
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(text, Loader)  # a safe loader
    except (yaml.YAMLError, ValueError, LookupError, AttributeError) as error:
        # The last three also come from values that do not fit their tags, such as !!int "" or a date of month 13.
        raise ValueError(f"{name} is no yaml file: {error}") from error
