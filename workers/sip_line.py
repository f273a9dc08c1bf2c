"""What a leg may ask of the user agent: hang up, press a key, transfer (`transports/sip_leg.Line`).

Everything returns at once; what comes of it arrives at the leg as an event, or not at all when the
other side was quicker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from flowcatd.errors import LocalError
from flowcatd.sip.agent_event import Cause
from flowcatd.sip.body import Digit
from flowcatd.sip.trouble import SipError
from flowcatd.sip.uri import Uri, parse_uri

if TYPE_CHECKING:
    from workers.held import Held
    from workers.telephony import Telephony

KEY_MS: Final = 160
"""How long a key is pressed that goes by INFO."""


class HeldLine:
    """One call's line."""

    def __init__(self, telephony: Telephony, held: Held) -> None:
        self._telephony = telephony
        self._held = held

    def hang_up(self, cause: Cause | None) -> None:
        """End the call, wherever it stands."""
        telephony = self._telephony
        telephony.agent.hang_up(self._held.number, telephony.premises.clock.now(), cause)
        telephony.settle()

    def press(self, digit: str) -> None:
        """Send a key by INFO; LocalError while the call is not up."""
        telephony = self._telephony
        now = telephony.premises.clock.now()
        telephony.agent.send_digit(self._held.number, Digit(digit, KEY_MS), now)
        telephony.settle()

    def refer(self, target: str) -> None:
        """Ask the other side to call `target`, a number or a SIP URI; LocalError where that may not be."""
        telephony, held = self._telephony, self._held
        uri = self._uri(target)
        telephony.agent.refer(held.number, uri, telephony.premises.clock.now())
        telephony.settle()

    def changed(self) -> None:
        """Something that a journal keeps is not as it was."""
        if self._held.parts is not None:
            self._held.parts.changed()

    def _uri(self, target: str) -> Uri:
        """A number is dialled as the trunk wants it, and only when it may be."""
        if target.startswith(("sip:", "sips:", "tel:")):
            try:
                return parse_uri(target)
            except SipError as error:
                raise LocalError(f"a transfer to no SIP URI: {error.problem}") from error
        return self._telephony.dialling.target(self._held.counted.trunk, target)
