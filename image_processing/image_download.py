"""An image at an address."""

import urllib.request
from http.client import HTTPException

_SECONDS = 60
_MOST_BYTES = 512 * 2**20


def is_url(text: str) -> bool:
    return text.lower().startswith(("http://", "https://"))


def download(url: str) -> bytes:
    """What is at an http or https address.

    Raises:
        OSError: it cannot be had.
        ValueError: it is larger than 512 MiB.
    """
    try:
        with urllib.request.urlopen(url, timeout=_SECONDS) as answer:
            content = answer.read(_MOST_BYTES + 1)
    # HTTPException (of a broken answer) is no OSError.
    except (OSError, HTTPException, ValueError) as error:
        raise OSError(f"cannot download {url}: {error}") from error
    if len(content) > _MOST_BYTES:
        raise ValueError(f"{url} has more than {_MOST_BYTES >> 20} MiB; download it yourself")
    return content
