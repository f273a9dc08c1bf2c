"""Session timers (RFC 4028): how long a call holds without being refreshed, and who refreshes it.

Each 2xx to an INVITE or UPDATE sets the timer anew, or, without a Session-Expires, ends it (§7.2). The
refresher asks again at half the interval; the other side, and a refresher whom nobody answers, hangs up
a third of it, 32 s at most, before it runs out (§10).

`uac` and `uas` in a Session-Expires mean the two ends of *that* request (§7.4), not of the call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from flowcatd.sip.agent_event import CallTerms
from flowcatd.sip.header import Valued, parse_number
from flowcatd.sip.message import Message, Request, Response
from flowcatd.sip.trouble import SipError

LEAST: Final = 90
"""§5: no Min-SE is below that."""
SHORTEST: Final = 20
"""A callee that imposes less than the RFC allows is obeyed so far: it would hang up otherwise."""
MOST: Final = 86_400
"""A refresh a day is as good as none; more is cut."""


@dataclass(frozen=True, slots=True)
class Refresh:
    """What was agreed; the default is no timer."""

    seconds: int = 0
    """The interval; 0 is none."""
    is_ours: bool = False
    """Whether we refresh."""

    def refresh_at(self, now: float) -> float | None:
        """When to ask again, or None when that is not ours."""
        return now + self.seconds / 2 if self.seconds and self.is_ours else None

    def ends_at(self, now: float) -> float | None:
        """When to hang up if nothing comes."""
        return now + self.seconds - min(32.0, self.seconds / 3) if self.seconds else None


def ask(request: Request, terms: CallTerms, least: int, refresh: Refresh | None = None) -> None:
    """Writes what we ask for into a request of ours; with `refresh` the roles that hold stay (§7.4)."""
    held = refresh.seconds if refresh is not None else 0
    seconds = 0 if terms.timer == "off" else held or terms.asked_seconds
    if not seconds:
        return
    roles: dict[str, str | None] = {}
    if refresh is not None and held:
        roles["refresher"] = "uac" if refresh.is_ours else "uas"
    elif terms.refresher != "auto":
        roles["refresher"] = "uac" if terms.refresher == "us" else "uas"
    request.put("session-expires", Valued(str(max(seconds, least)), roles))
    if least > LEAST:
        request.put("min-se", least)


def asked(message: Message) -> tuple[int, str]:
    """The interval of a Session-Expires and who is to refresh; 0 and empty without one."""
    told = message.valued("session-expires")
    if told is None:
        return 0, ""
    return min(parse_number(told.value), MOST), (told.parameters.get("refresher") or "").lower()


def least_of(message: Message) -> int:
    """The Min-SE that a message names, or the RFC's."""
    told = message.valued("min-se")
    return LEAST if told is None else max(parse_number(told.value), LEAST)


def grant(request: Request, response: Response, terms: CallTerms, least: int) -> Refresh:
    """Writes what we grant into a 2xx of ours (§9), which is what we want where they want nothing.

    `least` is the Min-SE learnt so far. SipError 422 when they want less than our own terms allow, and
    can be told so; who cannot be told is refreshed by us, less often (§8.1 has proxies raise it so; for
    us §9 says not to, which erratum 1687, held for an update, calls an oversight).
    """
    if terms.timer == "off":
        return Refresh()
    seconds = terms.asked_seconds
    wanted, who = asked(request)
    can = "timer" in {*request.words("supported"), *request.words("require")}
    if wanted and wanted < terms.session_least and can:
        raise SipError("a session interval that is too small", 422)
    granted = wanted or (max(seconds, least_of(request), least) if seconds else 0)
    granted = max(granted, terms.session_least) if granted else 0
    if not granted:
        return Refresh()
    # Who cannot refresh is not asked to, and who has said who shall is obeyed (Table 2).
    is_ours = not can or (who == "uas" if who else terms.refresher == "us")
    response.put(
        "session-expires", Valued(str(granted), {"refresher": "uas" if is_ours else "uac"})
    )
    if can:
        # §9: it refreshes, or hangs up where we do not; either way it has to look at the field.
        response.put("require", "timer")
    return Refresh(granted, is_ours)


def learn(response: Response, terms: CallTerms) -> Refresh:
    """What a 2xx to a request of ours says; a callee may impose a timer that nobody asked for."""
    seconds, who = (0, "") if terms.timer == "off" else asked(response)
    return Refresh(max(seconds, SHORTEST), who != "uas") if seconds else Refresh()
