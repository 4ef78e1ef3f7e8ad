"""Label Studio's run lengths of brush masks: the bit format of thi.ng's rle-pack
(https://github.com/thi-ng/umbrella/tree/develop/packages/rle-pack), over the RGBA values of the image."""

from collections.abc import Iterator

import numpy as np

_HEADER_BITS = 32 + 5 + 4 * 4
_LENGTH_BITS = (3, 4, 8, 16)  # those of Label Studio's own encoder
_VALUE_BITS = 8


def brush_mask(content: bytes, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool, True where the mask's alpha is above 0.

    The bits are: how many values there are (32), bits of a value less 1 (5), bits of a length less 1 for each of four
    classes of length (4 each). Then come runs: one bit, whether it repeats one value; the class of its length (2); the
    length less 1; and that one value, or as many values as the length says.

    Args:
        content: the bytes that "rle" lists.
        size: (H, W).

    Raises:
        ValueError: the values are not those of an image of this size, or the bits end before.
    """
    count = size[0] * size[1] * 4
    bits = np.unpackbits(np.frombuffer(content, np.uint8))
    text = bits.tobytes().translate(bytes.maketrans(b"\0\1", b"01"))
    if len(text) < _HEADER_BITS:
        raise ValueError(f"the brush mask has {len(content)} bytes; its head alone needs 7")
    if int(text[:32], 2) != count:
        raise ValueError(
            f"the brush mask has {int(text[:32], 2)} values; an image of {size[0]} x {size[1]} (height x width) has "
            f"{count} of four channels"
        )
    width = int(text[32:37], 2) + 1
    length_bits = [int(text[place : place + 4], 2) + 1 for place in range(37, _HEADER_BITS, 4)]
    values, done, place = np.zeros(count, bool), 0, _HEADER_BITS
    while done < count:
        after = place + 3 + length_bits[int(text[place + 1 : place + 3] or b"0", 2)]
        end = done + int(text[place + 3 : after] or b"0", 2) + 1
        repeats, place = text[place : place + 1] == b"1", after
        after += width if repeats else width * (end - done)
        if after > len(text) or end > count:
            raise ValueError(f"the brush mask ends or overflows at value {done} of {count}")
        values[done:end] = bits[place:after].reshape(-1, width).any(1)
        done, place = end, after
    return values.reshape(*size, 4)[..., 3]


def brush_bytes(mask: np.ndarray) -> bytes:
    """What `brush_mask` reads: 255 in all four channels of the mask's pixels, 0 elsewhere.

    Args:
        mask: (H, W) bool.

    Raises:
        ValueError: more pixels than the format can count.
    """
    count = mask.size * 4
    if count >= 1 << 32:
        raise ValueError(f"an image of {mask.size} pixels has no brush mask; {(1 << 30) - 1} are the most")
    bits = [f"{count:032b}{_VALUE_BITS - 1:05b}", *(f"{length - 1:04b}" for length in _LENGTH_BITS)]
    pixels = mask.ravel()
    borders = np.flatnonzero(np.diff(pixels)) + 1
    lengths = (np.diff(borders, prepend=0, append=pixels.size) * 4).tolist()
    value = bool(pixels[:1].any())
    for length in lengths:
        bits += _run_bits(length, "1" * _VALUE_BITS if value else "0" * _VALUE_BITS)
        value = not value
    text = "".join(bits)
    return np.packbits(np.frombuffer(text.encode(), np.uint8) - ord("0")).tobytes()


def _run_bits(length: int, value: str) -> Iterator[str]:
    """Of a run that repeats a value, in pieces where it is longer than a length may be."""
    longest = 1 << _LENGTH_BITS[-1]
    while length:
        piece = min(length, longest)
        kind = next(number for number, bits in enumerate(_LENGTH_BITS) if piece <= 1 << bits)
        yield f"1{kind:02b}{piece - 1:0{_LENGTH_BITS[kind]}b}{value}"
        length -= piece
