"""baresip calls the daemon and is called by it: audio, keys, hold, transfer, codecs, secrecy, IPv6.

What baresip hears it writes into a file, and the echo agent says back what it is told: so the file must
hold baresip's own tone. Its codecs are of other people's making, as are its SRTP and its jitter buffer.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.interop.baresip import Baresip, baresip, has
from tests.interop.place import NUMBER, OUTBOUND, Answerer, answerer
from tests.interop.programs import has_ipv6, needs
from tests.interop.sound import listen, seconds_of
from tests.scenarios.daemon import until

pytestmark = [
    pytest.mark.interop,
    pytest.mark.scenario,
    pytest.mark.asyncio(loop_scope="module"),
    needs("baresip"),
]

SECONDS = 1.2
PURE = 0.8
"""The share of what was heard that must be the tone: the rest is the beginning, when there is nothing yet."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def far(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Answerer]:
    """One daemon with the echo agent for most of them."""
    async with answerer(tmp_path_factory.mktemp("baresip") / "daemon") as one:
        yield one


def hears_itself(phone: Baresip, seconds: float = SECONDS) -> None:
    """The recording is the phone's own tone, without gaps."""
    heard = listen(phone.heard())
    assert heard.pure >= PURE * seconds, heard
    assert heard.gaps == 0, heard


def rate(log: str) -> int:
    """The bits a second that came in, as baresip said last."""
    said = re.findall(r"audio=\d+/(\d+) \(bit/s\)", log)
    return int(said[-1]) if said else 0


@pytest.mark.parametrize(
    ("codec", "named"),
    [
        ("pcmu", "PCMU"),
        pytest.param("pcma", "PCMA", marks=pytest.mark.long),
        pytest.param("g722/16000/1", "G722", marks=pytest.mark.long),
        ("opus/48000/2", "opus"),
    ],
)
async def test_a_phone_hears_its_own_tone(
    far: Answerer, tmp_path: Path, codec: str, named: str
) -> None:
    """In every codec that we have; the record names it, and counts what was played."""
    if not has(codec.split("/", 1)[0]) and codec not in {"pcmu", "pcma"}:
        pytest.skip(f"this baresip has no {codec}")
    account = f";regint=0;audio_codecs={codec}"
    async with baresip(tmp_path / "phone", account=account) as phone:
        before = 0 if far.daemon is None else len(far.records())
        await phone.call(far.uri())
        await phone.hears(SECONDS)
        await phone.hang_up()
        hears_itself(phone)
    if far.daemon is None:
        return
    record = await far.new_record(before)
    assert (record["ended_by"], record["sip"]["codec"].lower()) == ("caller", named.lower())
    assert record["sip"]["media"]["packets_in"] >= 50 * SECONDS * PURE
    assert record["sip"]["media"]["mos"] > 3.5


async def test_keys_hold_and_resume(far: Answerer, tmp_path: Path) -> None:
    """Three keys are pressed, the call is held and taken up again, and its tone is heard again."""
    async with baresip(tmp_path / "phone") as phone:
        before = 0 if far.daemon is None else len(far.records())
        await phone.call(far.uri())
        await phone.hears(0.5)
        for key in "5#0":
            await phone.tell("sndcode", key)
        await phone.tell("hold")
        await phone.program.says("got SDP answer")
        await phone.tell("resume")
        await phone.program.says("got SDP answer", 2)
        resumed = len(phone.program.log)
        # Its recording ends with the hold; from then on only its figures tell what comes.
        await phone.program.until(lambda: rate(phone.program.log[resumed:]) > 50_000, "sound again")
        await phone.hang_up()
    if far.daemon is not None:
        record = await far.new_record(before)
        assert far.keys(record) == "5#0"
        assert record["ended_by"] == "caller"


async def test_a_call_over_tcp(far: Answerer, tmp_path: Path) -> None:
    """The dialog goes over the connection that baresip opened."""
    async with baresip(tmp_path / "phone") as phone:
        before = 0 if far.daemon is None else len(far.records())
        await phone.call(far.uri("transport=tcp"))
        await phone.hears(1.0)
        await phone.hang_up()
        hears_itself(phone, 1.0)
    if far.daemon is not None:
        assert (await far.new_record(before))["sip"]["transport"] == "TCP"


async def test_a_transfer_by_the_caller_is_answered(far: Answerer, tmp_path: Path) -> None:
    """A REFER names a third phone: baresip is refused at once, and its BYE ends the call."""
    async with (
        baresip(tmp_path / "caller") as caller,
        baresip(tmp_path / "third", user="third") as third,
    ):
        before = 0 if far.daemon is None else len(far.records())
        await caller.call(far.uri())
        await caller.hears(0.5)
        await caller.tell("transfer", f"sip:{third.address}")
        # It takes a refusal for the end of the call, and says BYE.
        await caller.program.says("transfer failed: 603")
        if far.daemon is not None:
            record = await far.new_record(before)
            assert record["ended_by"] == "caller"
            assert any(" REFER" in line for line in record["sip"]["ladder"]), record["sip"]


async def test_a_phone_books_an_appointment_by_its_keys(tmp_path: Path) -> None:
    """The agent of conf/flowcatd.toml speaks, is answered by keys, and the record has what it collected."""
    async with (
        answerer(tmp_path / "daemon", agent="appointment", config="conf/flowcatd.toml") as far,
        baresip(tmp_path / "phone", tone_hz=0.0) as phone,
    ):
        await phone.call(far.uri())
        for key in "23":
            await phone.hears(seconds_of(phone.heard()) + 1.5)
            await phone.tell("sndcode", key)
        await phone.hears(seconds_of(phone.heard()) + 1.0)
        await phone.hang_up()
        heard = listen(phone.heard())
        record = await far.new_record(0)
        assert far.keys(record) == "23"
    assert heard.sounding > 2.0
    assert record["agent"] == "appointment"
    assert (record["variables"]["day"], record["variables"]["time"]) == ("Tuesday", "ten")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    place = tmp_path_factory.mktemp("certificate")
    paths = place / "cert.pem", place / "key.pem"
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    words += ["-nodes", "-days", "2", "-subj", "/CN=127.0.0.1", "-keyout", str(paths[1])]
    words += ["-addext", "subjectAltName=IP:127.0.0.1", "-out", str(paths[0])]
    subprocess.run(words, check=True, capture_output=True, timeout=30)
    return paths


@pytest.mark.skipif(shutil.which("openssl") is None, reason="Debian's openssl is missing")
async def test_tls_with_keys_in_sdp(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    """SIP over TLS, whose certificate baresip checks, and SRTP with keys from SDP (RFC 4568)."""
    from tests.interop.programs import free_ports

    cert, key = certificate
    port = free_ports()
    settings = (
        f"sip.tls_port={port}",
        f"sip.certificate={cert}",
        f"sip.certificate_key={key}",
    )
    async with (
        answerer(tmp_path / "daemon", *settings) as far,
        baresip(
            tmp_path / "phone",
            account=";regint=0;mediaenc=srtp-mand",
            more=f"sip_cafile {cert}\nsip_certificate {_both(tmp_path, cert, key)}",
        ) as phone,
    ):
        await phone.call(f"sip:echo@127.0.0.1:{port};transport=tls")
        await phone.hears(SECONDS)
        await phone.hang_up()
        hears_itself(phone)
        record = await far.new_record(0)
    assert record["sip"]["transport"] == "TLS"
    assert record["sip"]["srtp"]


def _both(place: Path, cert: Path, key: Path) -> Path:
    both = place / "both.pem"
    both.write_bytes(key.read_bytes() + cert.read_bytes())
    return both


@pytest.mark.long
@pytest.mark.skipif(not has("dtls_srtp"), reason="this baresip has no module dtls_srtp")
async def test_keys_by_dtls(tmp_path: Path) -> None:
    """SRTP with keys from a handshake between the media ports (RFC 5763)."""
    async with (
        answerer(tmp_path / "daemon", more="") as far,
        baresip(tmp_path / "phone", account=";regint=0;mediaenc=dtls_srtp") as phone,
    ):
        await phone.call(far.uri())
        await phone.hears(SECONDS)
        await phone.hang_up()
        hears_itself(phone)
        if far.daemon is not None:
            assert (await far.new_record(0))["sip"]["srtp"]


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")
async def test_a_call_over_ipv6(tmp_path: Path) -> None:
    """SIP and RTP over ::1."""
    async with (
        answerer(tmp_path / "daemon", "sip.host=", host6="::1") as far,
        baresip(tmp_path / "phone", host="[::1]") as phone,
    ):
        await phone.call(far.uri())
        await phone.hears(1.0)
        await phone.hang_up()
        hears_itself(phone, 1.0)


async def test_we_call_a_phone_and_it_hangs_up(tmp_path: Path) -> None:
    """POST /v1/calls: baresip rings, answers, hears itself through the echo agent, and hangs up."""
    async with baresip(tmp_path / "phone", user=NUMBER) as phone:
        trunk = OUTBOUND.format(proxy=f"127.0.0.1:{phone.port}", transport="udp")
        async with answerer(tmp_path / "daemon", trunks={"outbound": trunk}) as far:
            call_id = await far.place(NUMBER)
            await phone.sees("CALL_ESTABLISHED")
            await phone.hears(SECONDS)
            await phone.hang_up()
            hears_itself(phone)
            record = await far.new_record(0)
    assert record["call_id"] == call_id
    assert (record["sip"]["direction"], record["ended_by"]) == ("outbound", "caller")


async def test_a_phone_that_is_not_there_is_told_in_the_record(tmp_path: Path) -> None:
    """We call a port where nobody is: the call fails, and its record says so."""
    async with baresip(tmp_path / "phone", user="somebody-else") as phone:
        trunk = OUTBOUND.format(proxy=f"127.0.0.1:{phone.port}", transport="udp")
        async with answerer(tmp_path / "daemon", trunks={"outbound": trunk}) as far:
            await far.place(NUMBER)
            await until(lambda: bool(far.records()), "the record")
            [record] = far.records()
    assert record["sip"]["status"] == 404
