"""Where a run may go, and the keys it shows there: loopback unless asked for, and secrets from the environment only."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from loadgen.errors import BadInput
from loadgen.keys import SecretValue

if TYPE_CHECKING:
    from collections.abc import Mapping

_ENV_NAME = re.compile(r"[A-Z_][A-Z0-9_]{0,127}")


def base_url(text: str) -> str:
    """A server's address, without a path."""
    found = url(text)
    parts = urlsplit(found)
    if parts.path not in ("", "/") or parts.query:
        raise ValueError("expected http://HOST:PORT without a path: /v1/... is added")
    return f"{parts.scheme}://{parts.netloc}"


def url(text: str) -> str:
    """Any http or https address without a name and password in it."""
    parts = urlsplit(text)
    if "@" in parts.netloc:
        raise SecretValue("keys come from the environment, not from an address")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("expected http://HOST:PORT")
    if parts.fragment or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("expected an address of printable ASCII, without # and spaces")
    if parts.port == 0:
        raise ValueError("port 0 is no address of a server")
    return text


def is_loopback(host: str) -> bool:
    """This machine itself. A name other than `localhost` may lead anywhere, and counts as remote."""
    bare = host.removeprefix("[").removesuffix("]").partition("%")[0]
    if bare.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def check_loopback(text: str, where: str, allow_remote: bool) -> None:
    """Refuse another machine unless it was asked for.

    Raises:
        BadInput: `text` leads away from this machine.
    """
    if not allow_remote and not is_loopback(urlsplit(text).hostname or ""):
        raise BadInput(where, "", text, "is another machine: load there needs --allow-remote")


def env_name(text: str) -> str:
    """Name of a variable, in capitals. Whatever else is given may be the key itself."""
    if _ENV_NAME.fullmatch(text) is None:
        raise SecretValue("expected the NAME of an environment variable, such as API_KEY, and not the key")
    return text


def secret(name: str | None, where: str, environ: Mapping[str, str]) -> str | None:
    """The key in variable `name`; None where none was named. Never write it, nor show it.

    Raises:
        BadInput: the variable is not set, or could not stand in a header.
    """
    if name is None:
        return None
    value = environ.get(name, "").strip()
    if not value:
        raise BadInput(where, "", name, "is not set in the environment")
    if not value.isascii() or not value.isprintable():
        raise BadInput(where, "", name, "holds letters that cannot stand in a header")
    return value
