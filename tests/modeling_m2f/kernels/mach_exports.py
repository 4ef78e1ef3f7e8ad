"""The names that a library for macOS exports, as its loader finds them (mach-o/loader.h, and the trie)."""

import struct

_MAGIC, _DYLD_INFO_ONLY, _EXPORTS_TRIE = 0xFEEDFACF, 0x80000022, 0x80000033


def mach_exports(content: bytes) -> list[str]:
    """In ascending order, without the underscore that C's names have there.

    Raises:
        ValueError: no 64-bit library, or one without a list of exports.
    """
    magic, _, _, _, commands = struct.unpack_from("<5I", content)
    if magic != _MAGIC:
        raise ValueError(f"{magic:#x} is not the start of a 64-bit library for macOS ({_MAGIC:#x})")
    at = 32
    for _ in range(commands):
        command, size = struct.unpack_from("<2I", content, at)
        if command in (_DYLD_INFO_ONLY, _EXPORTS_TRIE):
            # The first has five pairs of place and length, exports the last; the other has that pair alone.
            start, length = struct.unpack_from("<2I", content, at + (40 if command == _DYLD_INFO_ONLY else 8))
            return sorted(name.removeprefix("_") for name in _names(content[start : start + length], 0, ""))
        at += size
    raise ValueError("the library has no list of exports")


def _names(trie: bytes, at: int, prefix: str) -> list[str]:
    """Of a node: the name that ends there, if it has something to say of one, and those of the nodes below."""
    length, at = _number(trie, at)
    names = [prefix] if length else []
    at += length
    children, at = trie[at], at + 1
    for _ in range(children):
        end = trie.index(0, at)
        place, after = _number(trie, end + 1)
        names += _names(trie, place, prefix + trie[at:end].decode())
        at = after
    return names


def _number(trie: bytes, at: int) -> tuple[int, int]:
    """A ULEB128 and where the next thing begins."""
    value = shift = 0
    while True:
        value |= (trie[at] & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if trie[at - 1] < 0x80:
            return value, at
