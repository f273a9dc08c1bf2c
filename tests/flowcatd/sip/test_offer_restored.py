"""A negotiation that another process takes up: what it may have anew, and what must stay as it was."""

from __future__ import annotations

from dataclasses import replace
from secrets import token_bytes

import pytest

from flowcatd.sip.attribute import Fingerprint
from flowcatd.sip.offer import Negotiation
from flowcatd.sip.session import SUITES, Capabilities, Dtls, Local, Secrecy
from flowcatd.sip.trouble import SipError

OLD = Fingerprint("sha-256", ":".join(["0A"] * 32))
NEW = Fingerprint("sha-256", ":".join(["0B"] * 32))
THEIRS = Fingerprint("sha-256", ":".join(["0C"] * 32))


def made(host: str, secrecy: Secrecy, shown: Fingerprint | None = None) -> Negotiation:
    """One side."""
    local = Local(host, 4000, fingerprint=shown)
    return Negotiation(Capabilities(secrecy=secrecy), local, "1", token_bytes)


def test_a_certificate_goes_on_being_shown_as_long_as_its_association() -> None:
    """The next process has another one; shown in an answer it would ask for another handshake."""
    far, ours = made("192.0.2.1", Secrecy.DTLS, THEIRS), made("192.0.2.2", Secrecy.DTLS, OLD)
    far.receive_answer(ours.receive_offer(far.offer()))
    local = Local("192.0.2.2", 4000, fingerprint=NEW)
    again = Negotiation.restore(ours.snapshot(), Capabilities(secrecy=Secrecy.DTLS), local)
    before = far.session
    session = far.receive_answer(again.receive_offer(far.offer()))
    assert before is not None
    assert isinstance(session.secrecy, Dtls)
    assert session.secrecy.fingerprints == (OLD,)
    assert session.secrecy == before.secrecy
    assert str(OLD) in again.offer()


def test_a_suite_that_had_no_key_is_not_used_after_a_restart() -> None:
    """A version that knows more suites takes a call up: it has no key for them, least of all zeros."""
    far, ours = made("192.0.2.1", Secrecy.SDES), made("192.0.2.2", Secrecy.SDES)
    far.receive_answer(ours.receive_offer(far.offer()))
    every = Capabilities(secrecy=Secrecy.SDES, suites=tuple(SUITES))
    again = Negotiation.restore(ours.snapshot(), every, Local("192.0.2.2", 4000))
    other = Negotiation(
        replace(every, suites=("AEAD_AES_128_GCM",)),
        Local("192.0.2.1", 4000),
        "1",
        token_bytes,
    )
    with pytest.raises(SipError) as refused:
        again.receive_offer(other.offer())
    assert refused.value.status == 488
