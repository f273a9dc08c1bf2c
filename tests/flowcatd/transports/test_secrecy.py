"""What protects a stream's media, through what signalling says about it: which handshakes begin, which end."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from flowcatd.rtp.packet import datagram
from flowcatd.rtp.trouble import RtpError
from flowcatd.sip.attribute import Fingerprint
from flowcatd.sip.session import SUITES, Dtls, Key, Sdes
from flowcatd.transports.dtls import Failed, Secured
from flowcatd.transports.secrecy import Secrecy

PEER = Dtls(True, (Fingerprint("sha-256", "AA"),), "one")
SUITE = SUITES["AES_CM_128_HMAC_SHA1_80"]
PACKET = datagram(0, 1, 160, 7, bytes(160))


def keys(fill: int) -> Sdes:
    """What a handshake could give."""
    return Sdes(Key(SUITE, bytes([fill]) * 30), Key(SUITE, bytes([fill + 1]) * 30))


@dataclass
class Shaking:
    """A handshake that ends as it is told."""

    peer: Dtls
    told: list[Secured | Failed] = field(default_factory=list)
    heard: list[bytes] = field(default_factory=list)

    def receive_datagram(self, data: bytes, _now: float) -> None:
        """Note it."""
        self.heard.append(data)

    def wake(self, _now: float) -> None:
        """Nothing is ever due."""

    def wake_at(self) -> float | None:
        """As above."""
        return None

    def outgoing(self) -> list[bytes]:
        """Nothing to say."""
        return []

    def events(self) -> list[Secured | Failed]:
        """What it was told to tell."""
        told, self.told = self.told, []
        return told


@dataclass
class Protected:
    """One stream's protection, and the handshakes that it began."""

    begun: list[Shaking] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.secrecy = Secrecy(self._shake)

    def _shake(self, peer: Dtls, _now: float) -> Shaking:
        self.begun.append(Shaking(peer))
        return self.begun[-1]

    def end(self, event: Secured | Failed) -> None:
        """The handshake under way ends so."""
        self.begun[-1].told.append(event)
        self.secrecy.tick(1.0)

    def secured(self, fill: int = 1) -> Protected:
        """As it is after the first handshake."""
        self.secrecy.agreed(PEER, 0.0)
        self.end(Secured(keys(fill)))
        return self


def test_nothing_passes_before_the_keys_are_there() -> None:
    """RFC 5764 §5.1.2: neither in the clear nor under other keys."""
    made = Protected()
    made.secrecy.agreed(PEER, 0.0)
    assert not made.secrecy.is_open
    assert made.secrecy.guard is not None
    with pytest.raises(RtpError, match="no keys"):
        made.secrecy.guard.protect(PACKET)
    made.end(Secured(keys(1)))
    assert made.secrecy.is_open
    assert made.secrecy.guard.protect(PACKET) != PACKET


@pytest.mark.parametrize("again", [PEER, replace(PEER, association="")])
def test_the_same_association_again_begins_no_handshake(again: Dtls) -> None:
    """RFC 8842 §5.4: a refresh; and a hold that puts the media nowhere, and what ends it."""
    made = Protected().secured()
    for each in (again, PEER, again):
        made.secrecy.agreed(each, 1.0)
    assert len(made.begun) == 1


@pytest.mark.parametrize(
    "other",
    [
        replace(PEER, association="two"),
        replace(PEER, is_client=False),
        replace(PEER, fingerprints=(Fingerprint("sha-256", "BB"),)),
    ],
)
def test_another_association_begins_another_handshake(other: Dtls) -> None:
    """RFC 8842 §3.1, §4: its name or address, the roles, the certificate."""
    made = Protected().secured()
    made.secrecy.agreed(other, 1.0)
    assert [each.peer for each in made.begun] == [PEER, other]


def test_the_old_keys_serve_until_the_same_peer_has_new_ones() -> None:
    """RFC 8842 §5.5: both associations live for a while; and where no new one comes, the old one stays."""
    made = Protected().secured()
    guard = made.secrecy.guard
    made.secrecy.agreed(replace(PEER, association="two"), 1.0)
    assert (made.secrecy.is_open, made.secrecy.guard) == (True, guard)
    assert made.secrecy.snapshot().keys == keys(1)
    made.end(Failed("nobody is there"))
    assert (made.secrecy.problem, made.secrecy.is_shaking) == ("", False)
    made.secrecy.agreed(replace(PEER, association="three"), 2.0)
    made.end(Secured(keys(5)))
    assert made.secrecy.shaken == made.secrecy.snapshot().keys == keys(5)
    assert made.secrecy.guard is guard


def test_the_keys_of_one_certificate_serve_no_other() -> None:
    """RFC 5763 §5: another fingerprint is somebody else until the handshake has proved it."""
    made = Protected().secured()
    made.secrecy.agreed(replace(PEER, fingerprints=(Fingerprint("sha-256", "BB"),)), 1.0)
    assert not made.secrecy.is_open
    assert made.secrecy.snapshot().keys is None
    made.end(Failed("a stranger"))
    assert made.secrecy.problem == "a stranger"
