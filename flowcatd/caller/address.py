"""Where to call: an address as a person writes it, made into the one a carrier would connect to. Pure.

`ws://host:port` is completed with the path that the daemon gives its carriers,
`/telephony/ws/{carrier}/{run_id}`; an address that has a path is taken as it stands. `events=1` asks
the daemon for its own account of the conversation, which it gives to callers on its own machine.
On a plain socket (`raw`) the address also says how audio travels.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from flowcatd.carriers.catalogue import carrier_names, find_row
from flowcatd.carriers.events import Encoding
from flowcatd.carriers.raw import RAW, from_query
from flowcatd.carriers.table import Row
from flowcatd.errors import CarrierError, ConfigError, nearest

DEFAULT = "ws://127.0.0.1:6210"
"""Where `make run` listens."""
DEFAULT_CARRIER = "twilio"

_PATH = "/telephony/ws/"
_SCHEMES = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}


@dataclass(frozen=True, slots=True)
class Address:
    """What to connect to, and how to speak there."""

    url: str
    shown: str
    """Without the query, which may hold a token."""
    row: Row
    encoding: Encoding
    rate_hz: int


def resolve(url: str, *, carrier: str, agent: str, run_id: str) -> Address:
    """The address to call; empty `carrier` and `agent` leave the choice to `url` and the daemon.

    ConfigError says what is wrong with it.
    """
    parts = urlsplit(url if "//" in url else f"ws://{url}")
    scheme = _SCHEMES.get(parts.scheme)
    if scheme is None or not parts.netloc:
        raise ConfigError("--url", "must look like ws://host:port or wss://host/path")
    name = carrier or _named(parts.path) or DEFAULT_CARRIER
    if name not in carrier_names():
        known = ", ".join(carrier_names())
        raise ConfigError("--carrier", f"must be one of {known}{nearest(name, carrier_names())}")
    path = parts.path
    if path in {"", "/"}:
        path = f"{_PATH}{name}/{quote(run_id, safe='')}"
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    query.setdefault("events", "1")
    if agent:
        query["agent"] = agent
    row = find_row(name)
    encoding, rate_hz = _format(row, query)
    return Address(
        urlunsplit((scheme, parts.netloc, path, urlencode(query), "")),
        urlunsplit((scheme, parts.netloc, path, "", "")),
        row,
        encoding,
        rate_hz,
    )


def _named(path: str) -> str:
    """The carrier in a path of the daemon's, or nothing."""
    if not path.startswith(_PATH):
        return ""
    return path.removeprefix(_PATH).partition("/")[0]


def _format(row: Row, query: dict[str, str]) -> tuple[Encoding, int]:
    if row is not RAW:
        return row.formats[0].encoding, row.formats[0].rate_hz
    try:
        started = from_query(query.get("encoding"), query.get("rate")).started
    except CarrierError as error:
        raise ConfigError("--url", error.problem) from error
    assert started is not None, "a plain socket is up from construction"
    return started.encoding, started.rate_hz
