"""What is printed once all workers serve: where to reach flowcatd, how to try it, how to end it.

Text for a person, with colours on a terminal; one JSON object on one line for a program. This goes
to standard output, while log lines go to standard error.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass

import msgspec

from flowcatd.control import CONTROL_SOCKET
from flowcatd.options import Sip
from workers.plan import MEDIA_PATH

DEFAULT_PORT = 6210
DEFAULT_URL = f"ws://127.0.0.1:{DEFAULT_PORT}"
"""Where `flowcatd call` calls when it is not told."""

# Runtime directories that are found without a word (flowcatd.environment.runtime_directories).
_FOUND = re.compile(rf"/flowcatd(-(\d+-)?{DEFAULT_PORT})?/{CONTROL_SOCKET}$")

# A wildcard address is no address to connect to; from this machine loopback is.
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 translated away from, not bound


@dataclass(frozen=True, slots=True)
class Reached:
    """What there is to say."""

    version: str
    host: str
    port: int
    public_url: str
    carriers: tuple[str, ...]
    workers: int
    agent: str
    records: str
    """A directory, or empty when nothing is kept."""
    command: str
    """How this program was called."""
    seconds: float
    """From the start to the last worker's readiness."""
    pid: int
    metrics: str = ""
    """host:port of /metrics, or empty."""
    control: str = ""
    """The endpoint of `flowcatd status` and its like."""
    sip: str = ""
    """Where SIP is taken, as a URI without a user, or empty."""
    has_softphones: bool = False
    """Whether a softphone on this machine may call, as anybody."""


def url_of(reached: Reached) -> str:
    """`ws://host:port`, or the public address where one is set."""
    if reached.public_url:
        return reached.public_url.rstrip("/")
    host = _WILDCARDS.get(reached.host, reached.host)
    return f"ws://[{host}]:{reached.port}" if ":" in host else f"ws://{host}:{reached.port}"


def sip_uri(sip: Sip) -> str:
    """`sip:host:port` of the first port there is, or an empty string."""
    if not (sip.port or sip.tls_port):
        return ""
    host = sip.public_host or sip.host or sip.public_host6 or sip.host6
    host = _WILDCARDS.get(host, host)
    host = f"[{host}]" if ":" in host else host
    return f"sip:{host}:{sip.port}" if sip.port else f"sip:{host}:{sip.tls_port};transport=tls"


def media_urls(reached: Reached) -> dict[str, str]:
    """Carrier to the address of its media socket."""
    url = url_of(reached)
    return {
        name: url + MEDIA_PATH.format(provider=name, run_id="RUN_ID") for name in reached.carriers
    }


def render_text(reached: Reached, *, coloured: bool) -> str:
    """Several lines, ending with a line end."""
    bold, dim, plain = ("\x1b[1m", "\x1b[2m", "\x1b[0m") if coloured else ("", "", "")
    workers = "1 worker" if reached.workers == 1 else f"{reached.workers} workers"
    head = f"{bold}flowcatd {reached.version} is ready{plain}: {workers}, {reached.seconds:.2f} s"
    names = dict.fromkeys(media_urls(reached).values())
    rows = [("media", url) for url in names]
    rows += [
        ("call it", _how_to_call(reached)),
        *(
            [("call it", f"a softphone   {_anyone(reached)}")]
            if reached.sip and reached.has_softphones
            else []
        ),
        ("agent", reached.agent),
        ("records", reached.records or "none are kept"),
        *([("metrics", f"http://{reached.metrics}/metrics")] if reached.metrics else []),
        ("operate", f"{reached.command} status{_how_to_find(reached)}"),
        ("operate", "also: top   calls   reload   scale N   drain"),
        ("stop", f"Ctrl-C   (let calls finish: kill -TERM {reached.pid})"),
    ]
    lines = []
    last = ""
    for name, value in rows:
        shown = "" if name == last else name
        lines.append(f"  {dim}{shown:<9}{plain}{value}")
        last = name
    return "\n".join([head, *lines]) + "\n"


def _anyone(reached: Reached) -> str:
    return reached.sip.replace("sip:", "sip:anyone@", 1)


def _how_to_call(reached: Reached) -> str:
    """The caller's default address need not be said."""
    if url_of(reached) == DEFAULT_URL:
        return f"make call   or   {reached.command} call"
    return f"{reached.command} call {url_of(reached)}"


def _how_to_find(reached: Reached) -> str:
    """Nothing when the daemon is where operators look who are not told."""
    found = not reached.control or _FOUND.search(reached.control)
    return "" if found else f" --connect {reached.control}"


def render_json(reached: Reached) -> str:
    """One line."""
    facts = asdict(reached) | {
        "event": "ready",
        "url": url_of(reached),
        "media": media_urls(reached),
        "seconds": round(reached.seconds, 3),
    }
    return msgspec.json.encode(facts).decode() + "\n"
