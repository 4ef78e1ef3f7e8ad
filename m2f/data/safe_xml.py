"""XML files that may come from anybody: no document type, and so no entities, and no deep nesting."""

import os
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

_MOST_LEVELS = 100


def read_xml(path: Path) -> Element:
    """The root of an xml file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no xml, one with a document type (whose entities may grow without bounds, or name other files), or
            one that is nested too deeply.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no such file: {path}")
    parser, builder, level = expat.ParserCreate(), TreeBuilder(), 0

    def start(tag: str, attributes: dict[str, str]):
        nonlocal level
        level += 1
        if level > _MOST_LEVELS:
            raise ValueError(f"{path} is nested more than {_MOST_LEVELS} levels deep")
        builder.start(tag, attributes)

    def end(tag: str):
        nonlocal level
        level -= 1
        builder.end(tag)

    def refuse(*declaration: object):
        raise ValueError(f"{path} has a document type (DOCTYPE), which is not read; delete it")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = builder.data, refuse
    try:
        parser.Parse(path.read_bytes(), True)
        return builder.close()
    except (expat.ExpatError, OSError, LookupError) as error:  # LookupError: an unknown encoding
        raise ValueError(f"{path} is not an xml file: {error}") from error
