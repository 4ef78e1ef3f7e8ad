"""What Label Studio makes of the names of files that are uploaded to it: 1c719314-a_b.png of "a (b).png"."""

import re

from m2f.data.dataset_paths import name_key

_UPLOAD = re.compile(r"[0-9a-f]{8}-(.+)")
_LEFT_OUT = re.compile(r"[^-\w.]")  # by Django's get_valid_filename


def key_of_upload(name: str) -> str | None:
    """The `key_of_original` of the file that an upload was, from the upload's name; None where this is none."""
    match = _UPLOAD.fullmatch(name)
    return match and key_of_original(match[1])


def key_of_original(name: str) -> str:
    """What the names have in common under which a file and its upload are known."""
    return name_key(_LEFT_OUT.sub("", name.strip().replace(" ", "_")))
