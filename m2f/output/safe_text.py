r"""Text from files made safe for where it is written: a terminal, a cell of csv, Markdown, HTML.

Names of files and classes, values of json and errors of libraries may hold anything. A control character moves a
terminal's cursor or renames its window, a cell that begins with "=" is a formula, a "<script>" runs.
"""

import html
import re
from typing import TypeVar

# C0, DEL and C1; marks that turn the direction of the text or are not seen; separators of lines; halves of pairs, as
# which Python has the bytes of a file name that are no UTF-8. The joiners of Persian and of emoji stay.
_CONTROL = (
    r"\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    r"\ud800-\udfff\U000e0000-\U000e007f"
)
_IN_A_LINE = re.compile(f"[{_CONTROL}]")
_IN_LINES = re.compile(rf"(?![\n\t])[{_CONTROL}]")
# What spreadsheets take for a formula, the full-width signs of Asian keyboards included; some skip spaces and quotes.
_FORMULA = re.compile(r"[\s\"']*[=+\-@\t\r\uff1d\uff0b\uff0d\uff20]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_LIKE_A_SURROGATE = re.compile(r"\\(?=u(?:005c|d[89a-f][0-9a-f]{2}))")
_WRITTEN_SURROGATE = re.compile(r"\\u(005c|d[89a-f][0-9a-f]{2})")
# What Markdown may read as more than text, wherever it stands, and at the beginning.
_MARKDOWN = re.compile(r"[\\`*{}\[\]<>#|~&$!]|(?<![^\W_])_|_(?![^\W_])|(?<=www)\.|:(?=//)")
_MARKDOWN_START = re.compile(r"^(\s*)([-+=])|^(\s*\d+)([.)])")

# Of what xml cannot hold, all that `_CONTROL` leaves.
_NO_XML = re.compile("[\ufffe\uffff]")

Value = TypeVar("Value")


def terminal_text(text: object, lines: bool = False) -> str:
    r"""With Python's escapes, such as \x1b, in place of control characters: one line, as wide as it looks.

    Args:
        text: or an object, whose `str` is taken.
        lines: leave the ends of lines and tabs, of a text that has several lines.
    """
    pattern = _IN_LINES if lines else _IN_A_LINE
    return pattern.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), str(text))


def csv_cell(value: Value) -> Value | str:
    r"""A value for a table that may be opened in a spreadsheet; `csv_text` gives it back.

    A text that would be a formula gets an apostrophe before it, by which spreadsheets know a text. Bytes of a file
    name that are no UTF-8 are written as \udcff and the like. Numbers stay as they are.
    """
    if not isinstance(value, str):
        return value
    text = _LIKE_A_SURROGATE.sub(r"\\u005c", value)
    text = _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    return f"'{text}" if _FORMULA.match(text) else text


def csv_text(cell: str) -> str:
    """What `csv_cell` made a cell of."""
    text = cell[1:] if cell.startswith("'") and _FORMULA.match(cell[1:]) else cell
    return _WRITTEN_SURROGATE.sub(lambda found: chr(int(found[1], 16)), text)


def markdown_text(text: object) -> str:
    """Text in a line, a heading or a table of Markdown that is nothing but text there: neither markup nor HTML, no
    link, and no end of the line."""
    plain = _MARKDOWN.sub(r"\\\g<0>", terminal_text(text))
    return _MARKDOWN_START.sub(r"\1\3\\\2\4", plain)


def markdown_code(text: object) -> str:
    """A span of code in Markdown."""
    plain = terminal_text(text)
    fence = "`" * (_longest_run(plain) + 1)
    space = " " if not plain.strip("` ") or plain[0] in "` " or plain[-1] in "` " else ""
    return f"{fence}{space}{plain}{space}{fence}"


def markdown_block(text: object, language: str = "") -> str:
    """Lines of code in Markdown."""
    fence = "`" * max(3, _longest_run(str(text)) + 1)
    return f"{fence}{language}\n{terminal_text(text, lines=True)}\n{fence}"


def xml_text(text: object) -> str:
    """Text for an xml or yaml file, before its own escapes; what these cannot hold is written as on a terminal."""
    return _NO_XML.sub(lambda found: f"\\u{ord(found[0]):04x}", terminal_text(text))


def html_text(text: object) -> str:
    """Text in HTML, between tags as well as in quoted attributes."""
    return html.escape(terminal_text(text, lines=True))


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)
