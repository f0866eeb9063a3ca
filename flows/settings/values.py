"""What a single value of the configuration may be. Pure: nothing is resolved or opened."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Annotated, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from connectors.format import limits
from flows.settings.errors import toml_repr

__all__ = [
    "Between",
    "CrossTableError",
    "HttpBase",
    "HttpUrl",
    "Patterns",
    "SocketUrl",
    "Table",
    "Text",
    "UrlRule",
    "api_key",
    "channels",
    "conversation_path",
    "environment_variable",
    "feed_name",
    "header_name",
    "host_and_port",
    "is_loopback",
    "is_private",
    "language_tag",
    "non_empty",
    "path_text",
    "platform_topic",
    "queue_or_user",
    "refuse_cross_table_error",
    "sip_address",
    "split_host",
    "stall_limit",
    "topic_id",
    "url_path",
]

N = TypeVar("N", int, float)


@dataclass(frozen=True, slots=True)
class Between:
    """The limits of a number, both allowed."""

    low: float
    high: float

    def __call__(self, value: N) -> N:
        """Return the value. Raises ValueError if it is outside."""
        if self.low <= value <= self.high:
            return value
        side = f"below {toml_repr(self.low)}" if value < self.low else f"above {toml_repr(self.high)}"
        raise ValueError(f"{toml_repr(value)} is {side} (allowed: {toml_repr(self.low)} to {toml_repr(self.high)})")


def stall_limit(seconds: float) -> float:
    """Return a limit of STREAM_STALLED, 0 for none. Raises ValueError for one outside its bounds."""
    return seconds if seconds == 0 else Between(*limits.STALLED_AFTER_S)(seconds)


def non_empty(value: str) -> str:
    """Return the text. Raises ValueError if there is nothing in it."""
    if not value.strip():
        raise ValueError("must not be empty")
    return value


def sip_address(value: str) -> str:
    """Return the address. Raises ValueError if it does not begin with sip: or sips:."""
    if not re.fullmatch(r"sips?:[^\s]+", value):
        raise ValueError(f"must be a SIP address like sip:qa@example.com, not {toml_repr(value)}")
    return value


def language_tag(value: str) -> str:
    """Return the tag. Raises ValueError if it is not formed like one of BCP 47."""
    if not re.fullmatch(r"([a-z]{2,8}|[xi](?=-))(-[a-z0-9]{1,8})*", value, re.IGNORECASE):
        raise ValueError(f"must be a BCP 47 language tag like en-US, not {toml_repr(value)}")
    return value


def url_path(value: str) -> str:
    """Return the path. Raises ValueError if it is not one."""
    if not re.fullmatch(r"/[!-~]*", value) or "?" in value or "#" in value:
        raise ValueError("must be a path that begins with /, without spaces, ? and #")
    return value


def conversation_path(value: str) -> str:
    """Return the path. Raises ValueError if it is not one, or does not contain the conversation id once."""
    if value.count("{conversationId}") != 1:
        raise ValueError("must hold {conversationId} once: the id is put there")
    return url_path(value)


def patterns(value: tuple[str, ...]) -> tuple[str, ...]:
    """Return the regular expressions. Raise ValueError for one that is not valid."""
    for pattern in value:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{toml_repr(pattern)} is not a regular expression: {error}") from None
    return value


def channels(value: tuple[str, ...]) -> tuple[str, ...]:
    """Return the channels. Raises ValueError if there are none, or one is there twice."""
    if not value:
        raise ValueError('must name a channel: "mono", "stereo" or both')
    if len(set(value)) < len(value):
        raise ValueError("must not name a channel twice")
    return value


def feed_name(value: str) -> str:
    """Return the name. Raises ValueError if it does not fit into logs, metrics and file names as it is."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}", value):
        raise ValueError(f"must be a name of letters, digits, dots, - and _ (64 at most), not {toml_repr(value)}")
    return value


def environment_variable(value: str) -> str:
    """Return the name. Raise ValueError if it cannot be the name of an environment variable."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,127}", value):
        raise ValueError(f"must be the name of an environment variable, not {toml_repr(value)}")
    if value.upper().startswith("VOICEWATCH_"):
        raise ValueError("must not begin with VOICEWATCH_, which is the prefix of settings")
    return value


def header_name(value: str) -> str:
    """Return the name. Raise ValueError if it cannot be the name of an HTTP header."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}", value):
        raise ValueError(f"must be the name of an HTTP header like X-Api-Key, not {toml_repr(value)}")
    return value


def topic_id(value: str) -> str:
    """Return the id. Raises ValueError if it cannot be a part of a topic's name."""
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,100}", value):
        raise ValueError(f"must be an id like 1a2b3c4d-5e6f-4a8b-9c0d-1e2f3a4b5c6d, not {toml_repr(value)}")
    return value


def platform_topic(value: str) -> str:
    """Return the name of a topic. Raises ValueError unless the topic is one that `PLATFORM_EVENT` is raised by."""
    id_ = "[A-Za-z0-9_-]{1,100}"
    of_edges = rf"telephony\.providers\.edges\.(trunks\.{id_}\.metrics|(?!trunks$){id_})"
    if not re.fullmatch(rf"v2\.(operations\.events\.{id_}|{of_edges})", value):
        raise ValueError(
            "must be v2.operations.events.{id}, v2.telephony.providers.edges.{id} or "
            f"v2.telephony.providers.edges.trunks.{{id}}.metrics with an id, not {toml_repr(value)}"
        )
    return value


def queue_or_user(value: str) -> str:
    """Return an id or a name of at most 100 characters. Raises ValueError for any other text."""
    if not re.fullmatch(r"[^\W_*](?:[^*\x00-\x1f]{0,99})", value):
        raise ValueError(f"must be an id or a name of 1 to 100 characters, without *, not {toml_repr(value)}")
    return value


def api_key(value: str) -> str:
    """Return the key. Raises ValueError, which does not repeat it, if Genesys would not accept it."""
    if not re.fullmatch(r"[a-zA-Z0-9+/_-]+={0,2}", value):
        raise ValueError("must be an API key: letters, digits and + / _ -, with at most two = at its end")
    return value


def host_and_port(value: str) -> str:
    """Return the text. Raises ValueError if it is not a host, a colon and a port."""
    try:
        split_host(value)
    except ValueError:
        raise ValueError(f"must be a host and a port like 127.0.0.1:8443, not {toml_repr(value)}") from None
    return value


def split_host(value: str) -> tuple[str, int]:
    """Return host and port of a text like `127.0.0.1:8443` or `[::1]:8443`. Raises ValueError if it is neither."""
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+)):([0-9]{1,5})", value)
    if found is None or int(found[3]) > 65_535:
        raise ValueError(value)
    host = found[1] or found[2]
    _check_host(host)
    return host, int(found[3])


def path_text(value: object) -> object:
    """Return the value. Raises ValueError for a text that Python accepts as a path although it is not one."""
    if isinstance(value, str) and "\0" in value:
        raise ValueError("must hold no NUL character")
    return non_empty(value) if isinstance(value, str) else value


@dataclass(frozen=True, slots=True)
class UrlRule:
    """The URLs of these schemes; a `base`, to which paths are appended, has neither a query nor a trailing slash."""

    schemes: tuple[str, ...]
    base: bool = False

    def __call__(self, url: str) -> str:
        """Return the URL, without the trailing slashes of a base.

        Raises ValueError, which says what is wrong and shows nothing of the URL: it may hold a password.
        """
        if not (url.isascii() and url.isprintable()) or " " in url:
            raise ValueError("must be an ASCII URL without spaces: percent-encode what is not")
        beginnings = tuple(f"{scheme}://" for scheme in self.schemes)
        if not url.startswith(beginnings):
            raise ValueError(f"must begin with {' or '.join(beginnings)}")
        try:
            parts = urlsplit(url)
            parts.port  # noqa: B018 - raises ValueError unless it is a port
            _check_host(parts.hostname or "")
        except ValueError:
            raise ValueError("is no URL: look at its host and its port") from None
        if not parts.hostname:
            raise ValueError("must name a host")
        if "@" in parts.netloc:
            raise ValueError("must hold no user name or password: the URL is written to logs")
        if not self.base:
            return url
        if parts.query or parts.fragment:
            raise ValueError("must have neither a query nor a fragment")
        return url.rstrip("/")


def _check_host(host: str) -> None:
    """Raise ValueError if a host looks like an address or an internationalised name and is not valid as one."""
    if ":" in host or host.replace(".", "").isdecimal():
        ipaddress.ip_address(host)
    if "xn--" in host.lower():
        import idna  # 20 ms that few configurations need

        idna.decode(host)


def is_loopback(url: str) -> bool:
    """Return whether a URL's host is this machine, as far as its text shows."""
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    address = _address(host)
    return address is not None and address.is_loopback


def is_private(url: str) -> bool:
    """Return whether a URL's host is this machine or an address that is not public, as far as its text shows."""
    address = _address(urlsplit(url).hostname or "")
    if is_loopback(url) or address is None:
        return is_loopback(url)
    from connectors.callbacks.addresses import is_public  # asyncio, which checking a file does without

    return not is_public(str(address))


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


Text = Annotated[str, AfterValidator(non_empty)]
Patterns = Annotated[tuple[Text, ...], Field(strict=False), AfterValidator(patterns)]
HttpUrl = Annotated[str, AfterValidator(UrlRule(("http", "https")))]
HttpBase = Annotated[str, AfterValidator(UrlRule(("http", "https"), base=True))]
SocketUrl = Annotated[str, AfterValidator(UrlRule(("ws", "wss")))]


class Table(BaseModel):
    """A table of the configuration, immutable.

    Values are strict: "50" is not a number. A misspelt key is an error. Variables are converted before.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True, slots=True)
class CrossTableError:
    """Stands for a value that is wrong because of what another table says, or that is missing because of it."""

    text: str


def refuse_cross_table_error(value: object) -> object:
    """Return the value. Raises ValueError if a mistake stands in its place."""
    if isinstance(value, CrossTableError):
        raise ValueError(value.text)
    return value
