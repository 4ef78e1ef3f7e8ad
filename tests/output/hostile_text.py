"""Names as an attacker chooses them, the same at each call, and what no terminal may get."""

import random
import re

# A control character, an end of line, a mark of direction or half a pair; the end of a line of output is none.
RAW = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

CHOSEN = [
    "\x1b]0;renamed\x07", "\x1b[2J\x1b[31m", "\x1b[A", "\r", "\rm2f: error: no", "line\nm2f: error: forged", "\x9b31m",
    "a\u202egnp.exe", "\u2066x\u2069", "two\u2028lines\u2029", "\x85next", "bytes\udcff\udc80", "\x00", "\x7f",
    "tab\tin",
    "=HYPERLINK(\"http://x\",\"y\")", "+1", "-1", "-1.5", "@SUM(A1)", "\t=1", "\r=1", "  =1", "\"=1", "'=1", "''=1",
    "\uff1d1", "'quoted'", "\\udcff", "\\u005c", "a,b;c\"d\"\r\ne",
    "<script>alert(1)</script>", "</script><script>", "</title><img src=x onerror=y>", "\" onload=\"x", "' style='x",
    "<!-- open", "--> closed", "&lt;b&gt;", "]]>", "{{ 7*7 }}", "{% raw %}",
    "a|b|c", "`code`", "```", "``` \nend", "~~~", "# heading", "x\n# heading", "\n\n---\n\n", "---", "===", "- item",
    "* item",
    "+ item", "1. item", "1) item", "> quote", "[text](http://x)", "](x)", "![i](x)", "[ref]: http://x", "<http://x>",
    "http://x.example", "www.x.example", "**bold**", "_em_", "\\", "\\|", "$$x$$", "| - |", "</details>", "a: b",
    "k: [v",
    "license: mit\n---\n# x", "&#60;b&#62;", "    indented", "\tindented", "x  \ny", "![](javascript:x)", "\\`",
]  # fmt: skip
_PIECES = [
    *"\x1b\x07\x00\x85\u202e\u2028\udcfe\n\r\t=+-@'\"`|<>[](){}#*_!&;:\\/ .~$%,1a",
    "--",
    "```",
    "<!--",
    "\n#",
    "](",
    "ß",
]


def hostile_texts(count: int = 60) -> list[str]:
    """Those above and as many as are wanted of pieces put together."""
    choose = random.Random(17)
    return [*CHOSEN, *("".join(choose.choices(_PIECES, k=choose.randint(1, 12))) for _ in range(count))]
