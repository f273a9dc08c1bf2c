"""SRTP through the real daemon: keys in the description (SDES), keys from a handshake (DTLS), and neither.

Every telephone has an address of its own, and so a trunk of its own: one where SRTP is taken, one where
it is demanded, one where it is off.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from flowcatd.sip.agent_event import Connected, Media
from flowcatd.sip.session import SUITES, Sdes, Secrecy
from flowcatd.transports import dtls as dtls_room
from flowcatd.transports.dtls import make_certificate
from tests.scenarios.daemon import until
from tests.scenarios.secure_phone import (
    Extras,
    SecurePhone,
    Tape,
    able,
    dtls,
    secure_phone,
)
from tests.scenarios.sip_phone import Manner
from tests.scenarios.test_12_sip import until_heard
from tests.scenarios.test_13_sip_fleet import Fleet, changed, killed, parted
from tests.scenarios.test_15_sip_transports import listening, until_clean
from tests.scenarios.test_16_sip_outbound import ask, out, record_of

pytestmark = [
    pytest.mark.scenario,
    pytest.mark.skipif(not dtls_room.available(), reason="needs the `webrtc` extra"),
]

TRUNK = """
[trunk]
name = "{srtp}"
[inbound]
sources = ["{host}"]
calls_per_second = 1000
[media]
srtp = "{srtp}"
[[route]]
agent = "echo"
"""
HOSTS = {"optional": "127.0.0.1", "required": "127.0.0.2", "off": "127.0.0.3"}


@asynccontextmanager
async def guarded(tmp_path: Path, *settings: str, **trunks: str) -> AsyncIterator[Fleet]:
    """One worker, and a trunk for each way to see it."""
    files = {srtp: TRUNK.format(srtp=srtp, host=host) for srtp, host in HOSTS.items()}
    every = {"loopback": files.pop("optional"), **files, **trunks}
    async with listening(tmp_path, "workers.count=1", *settings, **every) as place:
        yield place
        assert place.daemon.log("call.failed") == []


def guarding(secrecy: Secrecy, *suites: str, srtp: str = "optional") -> Manner:
    """A telephone that offers this, from the address of a trunk."""
    media = replace(able("pcmu"), secrecy=secrecy)
    if suites:
        media = replace(media, suites=suites)
    return Manner(host=HOSTS[srtp], capabilities=media)


async def refused(place: Fleet, manner: Manner, extras: Extras | None = None) -> int:
    """What a call is refused with."""
    async with secure_phone(manner, extras) as phone:
        talk = await phone.ring_up(place.uri())
        assert talk.ended is not None
        return talk.ended.status


# --- keys in the description ----------------------------------------------------------------------


async def test_every_suite_of_sdes_carries_a_call(tmp_path: Path) -> None:
    """Both of RFC 4568 and both of GCM (RFC 7714): a tone there and back, and the record names it."""

    async def one(phone: SecurePhone, suite: str) -> None:
        talk = await phone.ring_up(place.uri())
        assert talk.has(Connected), (suite, talk.ended)
        await until_clean(talk)
        await changed(phone, talk, held=True)
        await changed(phone, talk, held=False)
        await until_clean(talk)
        assert talk.guarding.suite == suite
        names = await parted(phone, talk)
        assert (await place.record(phone, names[0]))["sip"]["srtp"] == suite

    async with guarded(tmp_path) as place, AsyncExitStack() as stack:
        work = []
        for suite in SUITES:
            manner = guarding(Secrecy.SDES, suite)
            work.append(one(await stack.enter_async_context(secure_phone(manner)), suite))
        await asyncio.gather(*work)


async def test_srtp_is_taken_demanded_or_refused_as_the_trunk_says(tmp_path: Path) -> None:
    """Required: plain RTP gets 488, SDES and DTLS are taken. Off: both get 488, plain is taken."""
    async with guarded(tmp_path) as place:
        assert await refused(place, guarding(Secrecy.OFF, srtp="required")) == 488
        assert await refused(place, guarding(Secrecy.SDES, srtp="off")) == 488
        assert await refused(place, guarding(Secrecy.DTLS, srtp="off"), dtls()) == 488
        taken = (
            (guarding(Secrecy.OFF, srtp="off"), None),
            (guarding(Secrecy.SDES, srtp="required"), None),
            (guarding(Secrecy.DTLS, srtp="required"), dtls()),
        )
        for manner, extras in taken:
            async with secure_phone(manner, extras) as phone:
                talk = await phone.ring_up(place.uri())
                assert talk.has(Connected), talk.ended
                await until_clean(talk)
                await parted(phone, talk)


def other_keys(text: str) -> str:
    """The description with new keys of the same suites."""

    def fresh(found: re.Match[str]) -> str:
        key = secrets.token_bytes(SUITES[found[2]].key_bytes)
        return f"{found[1]}{found[2]} inline:{b64encode(key).decode()}"

    return re.sub(r"(a=crypto:\d+ )(\S+) inline:[^\s|]+", fresh, text)


async def test_another_key_in_mid_call_is_used_from_then_on(tmp_path: Path) -> None:
    """A re-INVITE with new keys of theirs: what they send is understood, and nothing is lost for good."""
    async with guarded(tmp_path) as place, secure_phone(guarding(Secrecy.SDES)) as phone:
        talk = await phone.ring_up(place.uri())
        await until_clean(talk)
        for _ in range(2):
            assert talk.session is not None
            before, count = talk.session.secrecy, talk.count(Media)
            phone.bend(talk, other_keys)
            await until(lambda c=count: talk.count(Media) > c, "an answer")  # type: ignore[misc]
            assert talk.session is not None
            assert isinstance(before, Sdes)
            assert isinstance(talk.session.secrecy, Sdes)
            assert talk.session.secrecy.send != before.send
            await until_clean(talk)
        names = await parted(phone, talk)
        media = (await place.record(phone, names[0]))["sip"]["media"]
    assert media["sources"] == 1
    assert media["bad"] < 25


async def test_what_is_forged_or_plain_is_not_heard_and_counted(tmp_path: Path) -> None:
    """From the telephone's own address and port: plain RTP, SRTP of a wrong key, noise: all dropped."""
    async with guarded(tmp_path) as place, secure_phone(guarding(Secrecy.SDES)) as phone:
        talk = await phone.ring_up(place.uri())
        await until_clean(talk)
        assert talk.session is not None
        assert talk.session.rtp is not None
        ports = phone.rtp(talk)
        for number in range(100):
            head = bytes((0x80, 0)) + number.to_bytes(2, "big") + secrets.token_bytes(8)
            for length in (160, 170):
                ports.rtp.sendto(head + secrets.token_bytes(length), talk.session.rtp)
            await asyncio.sleep(0)
        await until_clean(talk)
        names = await parted(phone, talk)
        media = (await place.record(phone, names[0]))["sip"]["media"]
    assert media["bad"] == 200
    assert media["sources"] == 1
    assert media["lost"] == 0


# --- keys from a handshake ------------------------------------------------------------------------


async def test_dtls_is_answered_and_carries_a_call(tmp_path: Path) -> None:
    """Their offer says actpass: we open, keys come, a tone goes there and back, through hold and resume."""
    manner = guarding(Secrecy.DTLS)
    async with guarded(tmp_path) as place, secure_phone(manner, dtls()) as phone:
        talk = await phone.ring_up(place.uri())
        assert talk.has(Connected), talk.ended
        await until_clean(talk)
        await changed(phone, talk, held=True)
        await changed(phone, talk, held=False)
        await until_clean(talk)
        suite = talk.guarding.suite
        assert suite == "AEAD_AES_128_GCM"
        names = await parted(phone, talk)
        assert (await place.record(phone, names[0]))["sip"]["srtp"] == suite


async def test_dtls_is_offered_where_srtp_is_demanded(tmp_path: Path) -> None:
    """A call of ours over UDP: the offer has a fingerprint and no key; the callee opens; a tone is heard."""
    async with secure_phone(guarding(Secrecy.DTLS), dtls()) as phone:
        more = 'calls_per_second = 100\n[media]\nsrtp = "required"'
        async with guarded(tmp_path, out=out(phone.port, more=more)) as place:
            status, body = await ask(place)
            assert status == 202, body
            talk = await phone.rung()
            assert isinstance(talk, Tape)
            await until_clean(talk, 880.0)
            invite = next(each for each in phone.received if each.startswith(b"INVITE"))
            assert b"a=fingerprint:sha-256 " in invite
            assert b"a=crypto" not in invite
            await changed(phone, talk, held=True)
            await changed(phone, talk, held=False)
            await until_clean(talk, 880.0)
            await parted(phone, talk)
            record = await record_of(place, body["call_id"])
    assert record["sip"]["srtp"] == "AEAD_AES_128_GCM"


async def test_a_certificate_that_was_not_announced_ends_the_call(tmp_path: Path) -> None:
    """The fingerprint is another's: no sound, a BYE, and a record that says why."""
    manner, extras = guarding(Secrecy.DTLS), dtls(shown=make_certificate().fingerprint)
    async with guarded(tmp_path) as place, secure_phone(manner, extras) as phone:
        talk = await phone.ring_up(place.uri())
        name = phone.agent.call_id(talk.number)
        await until(lambda: talk.ended is not None, "the end")
        assert talk.ended is not None
        assert talk.ended.by_peer
        assert talk.heard_at == []
        record = await place.record(phone, name)
    assert record["reason"] == "protocol_error"
    assert "DTLS" in str(record["problems"]) + str(record.get("error", ""))


# --- a worker dies --------------------------------------------------------------------------------


@pytest.mark.parametrize("secrecy", [Secrecy.SDES, Secrecy.DTLS])
async def test_an_encrypted_call_survives_its_worker(tmp_path: Path, secrecy: Secrecy) -> None:
    """Kill -9: the next process has the keys, and counts on; re-INVITE and BYE work as before."""
    extras = dtls() if secrecy is Secrecy.DTLS else None
    async with guarded(tmp_path) as place, secure_phone(guarding(secrecy), extras) as phone:
        talk = await phone.ring_up(place.uri())
        await until_clean(talk)
        await killed(place, 0)
        await until_heard(talk, 25)
        assert talk.worst_gap() < 1.0
        await until_clean(talk)
        await changed(phone, talk, held=True)
        await changed(phone, talk, held=False)
        await until_clean(talk)
        assert talk.stream is not None
        assert talk.stream.figures().sources == 1
        names = await parted(phone, talk)
        record = await place.record(phone, names[0])
    assert (record["resumed"], record["ended_by"]) == (1, "caller")
    assert record["sip"]["srtp"]
