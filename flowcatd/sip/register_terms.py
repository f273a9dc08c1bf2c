"""What a registration is made of: its terms, what it tells, and when the next request has its time.

Values and arithmetic of `register.py`. Refreshing begins at 5/6 of the granted time, earlier when that
would not leave two timeouts of a transaction for it, at half of it at the earliest, and up to a tenth
before, so that a thousand trunks do not come at once. Failures back off as RFC 5626 §4.5 has it: twice
as long each time up to a cap, from half of which to all is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

from flowcatd.sip.header import Address, Via, parse_number
from flowcatd.sip.message import Response
from flowcatd.sip.trouble import SipError
from flowcatd.sip.trunk import Trunk
from flowcatd.sip.uri import Uri

SHORTEST = 5.0
"""Seconds between two refreshes; a registrar that grants less has us unbound in between."""
TWO_TIMEOUTS = 64.0
"""Twice 64*T1: one refresh may time out and another one still be in time."""
RETRY_AFTER_MAX = 3600.0
MANY_FAILURES = 30
"""Where doubling stops to matter."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What is registered, where, and how patiently."""

    registrar: Uri
    """The Request-URI: the domain, without a user."""
    identity: Address
    """Our address of record: To and From, without a tag."""
    contact: Uri
    """Where we are."""
    via: Via
    """Transport and sent-by; the branch is added."""
    seconds: int = 3600
    """The lifetime that is asked for."""
    proxies: tuple[Uri, ...] = ()
    """Proxies on the way, one of them a Route with `lr` (§8.1.2); after a failure the next one."""
    instance: str = ""
    """`urn:uuid:…`: asks for RFC 5626 outbound, with one flow; empty does without."""
    back_off: float = 10.0
    """Seconds: the first pause is drawn from once to twice this."""
    back_off_cap: float = 300.0
    """Seconds. A healthy trunk that refreshes every five minutes asks as often; half an hour, as in
    RFC 5626, would leave a trunk dead for that long after its registrar is back."""
    refused_pause: float = 300.0
    """Seconds after a refused password: asking faster gets addresses banned."""
    leave_seconds: float = 4.0
    """How long leaving may take."""


# --- what the application is told -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Registered:
    """Bound for so many seconds; `is_refresh` when it was before."""

    seconds: int
    is_refresh: bool


@dataclass(frozen=True, slots=True)
class Failed:
    """An attempt failed; `status` is 0 without an answer."""

    status: int
    problem: str
    retry_in: float


@dataclass(frozen=True, slots=True)
class Lost:
    """The binding is gone: it ran out, or the registrar does not have it any more."""

    problem: str


@dataclass(frozen=True, slots=True)
class Left:
    """Over; `confirmed` when the registrar said so."""

    confirmed: bool


RegistrationEvent = Registered | Failed | Lost | Left


def terms_of(trunk: Trunk, contact: Uri, via: Via, instance: str = "") -> Terms:
    """The terms of a trunk's registration; `instance` counts only where the trunk wants RFC 5626."""
    registrar = trunk.registrar
    hops = trunk.next_hops
    return Terms(
        registrar=registrar,
        identity=Address(Uri(registrar.scheme, host=trunk.domain, user=trunk.account.user)),
        contact=contact,
        via=via,
        seconds=trunk.register.seconds,
        # A registrar that is the only proxy is reached by its own address.
        proxies=() if hops == (registrar,) else hops,
        instance=instance if trunk.register.outbound else "",
    )


def refresh_after(seconds: float, random: float) -> float:
    """Seconds until a binding that lasts `seconds` is refreshed; `random` from 0 up to 1."""
    latest = max(seconds / 2, min(seconds * 5 / 6, seconds - TWO_TIMEOUTS))
    return max(SHORTEST, latest * (1 - random / 10))


def back_off(terms: Terms, failures: int, random: float) -> float:
    """Seconds until the next attempt after so many failures in a row (RFC 5626 §4.5)."""
    most = min(terms.back_off_cap, terms.back_off * float(1 << min(failures, MANY_FAILURES)))
    return most * (0.5 + random / 2)


def retry_after(response: Response) -> float:
    """Retry-After in seconds (§20.33), capped; 0 where there is none that can be read."""
    text = (response.first("retry-after") or "").partition(";")[0].partition("(")[0].strip()
    try:
        return min(float(parse_number(text)), RETRY_AFTER_MAX) if text else 0.0
    except SipError:
        return 0.0
