"""Addresses of images: what is one, and what of it may be shown."""

import base64
import urllib.parse

_HIDDEN = "***"


def is_url(text: str) -> bool:
    return text.lower().startswith(("http://", "https://"))


def shown_url(url: str) -> str:
    """An address without the secrets that may be in it, "https://***@host/path?***": name and password, and the query,
    which is where signed addresses have their tokens. For all that is printed or written."""
    scheme, separator, rest = url.partition("://")
    rest, _, _ = rest.partition("#")
    rest, question, _ = rest.partition("?")
    place, slash, path = rest.replace("\\", "/").partition("/")
    user, at, host = place.rpartition("@")
    return (
        f"{scheme}{separator}{_HIDDEN + at if at else ''}{host}{slash}{path}{question + _HIDDEN if question else ''}"
    )


def without_secrets(text: str, url: str) -> str:
    """A message about an address, which may quote parts of it."""
    _, _, rest = url.partition("://")
    rest, _, fragment = rest.partition("#")
    rest, _, query = rest.partition("?")
    user = rest.replace("\\", "/").partition("/")[0].rpartition("@")[0]
    text = text.replace(url, shown_url(url))
    parts = [user, *user.split(":", 1), query, *(part.partition("=")[2] for part in query.split("&")), fragment]
    for part in sorted({*parts, *map(urllib.parse.unquote, parts)}, key=len, reverse=True):
        if len(part) > 2:  # else letters of words would go
            text = text.replace(part, _HIDDEN)
    return text


def split_credentials(url: str) -> tuple[str, str | None]:
    """The address without name and password, and these as HTTP's header has them."""
    scheme, separator, rest = url.partition("://")
    end = min((rest.index(sign) for sign in "/?#" if sign in rest), default=len(rest))
    user, at, host = rest[:end].rpartition("@")
    if not at:
        return url, None
    encoded = base64.b64encode(urllib.parse.unquote(user).encode()).decode()
    return f"{scheme}{separator}{host}{rest[end:]}", f"Basic {encoded}"
