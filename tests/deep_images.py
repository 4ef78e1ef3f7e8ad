"""Files with 16 bits a channel, most of which Pillow does not write."""

import struct
import zlib

import numpy as np


def png(pixels: np.ndarray, exif: bytes = b"") -> bytes:
    """A PNG of 16 bits a channel, which Pillow does not write; (H,W,C) with C in 2, 3, 4."""
    height, width, channels = pixels.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    chunks = chunk(b"IHDR", header) + (chunk(b"eXIf", exif) if exif else b"") + chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunks + chunk(b"IEND", b"")


def tiff(data: bytes, size: tuple[int, int], bits: tuple[int, ...]) -> bytes:
    """An uncompressed TIFF of one strip, little endian. Layout: TIFF 6.0, section 2."""
    height, width = size
    where = 8 + len(data) + len(data) % 2
    entries = [(256, 3, 1, width), (257, 3, 1, height), (259, 3, 1, 1), (262, 3, 1, 2 if len(bits) == 3 else 1)]
    entries += [(273, 4, 1, 8), (277, 3, 1, len(bits)), (278, 3, 1, height), (279, 4, 1, len(data))]
    values = where + 2 + 12 * (len(entries) + 1) + 4
    entries.append((258, 3, len(bits), bits[0] if len(bits) == 1 else values))
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    return (
        struct.pack("<2sHI", b"II", 42, where)
        + data.ljust(where - 8, b"\0")
        + directory
        + struct.pack("<I", 0)
        + struct.pack(f"<{len(bits)}H", *bits)
    )
