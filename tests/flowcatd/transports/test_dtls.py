"""DTLS-SRTP: both ends get the same keys, strangers none, and nothing waits for ever."""

from __future__ import annotations

import contextlib
import random
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowcatd.rtp.packet import datagram
from flowcatd.sip import session
from flowcatd.sip.attribute import Fingerprint
from flowcatd.sip.session import SUITES
from flowcatd.transports.dtls import (
    LINGER_SECONDS,
    MOST_OUTGOING,
    MTU_BYTES,
    PATIENCE_SECONDS,
    Certificate,
    Dtls,
    Failed,
    Secured,
    _datagrams,
    available,
    is_dtls,
    make_certificate,
)
from flowcatd.transports.srtp import Srtp

pytestmark = pytest.mark.skipif(not available(), reason="pyOpenSSL is not installed")

OPENSSL = shutil.which("openssl")
Drop = Callable[[str, int], bool]
"""Whether the n-th datagram of one side is lost, n from 0."""


@pytest.fixture(scope="module")
def ours() -> Certificate:
    """One worker's certificate."""
    return make_certificate()


@pytest.fixture(scope="module")
def theirs() -> Certificate:
    """Another one's."""
    return make_certificate()


def end(own: Certificate, *expected: Fingerprint, is_client: bool, now: float = 0.0) -> Dtls:
    """One end, expecting these."""
    return Dtls(own, session.Dtls(is_client, expected), now)


def pair(ours: Certificate, theirs: Certificate, now: float = 0.0) -> dict[str, Dtls]:
    """Both ends, who know each other's fingerprints; the server is there first."""
    return {
        "server": end(theirs, ours.fingerprint, is_client=False, now=now),
        "client": end(ours, theirs.fingerprint, is_client=True, now=now),
    }


def records_of(data: bytes) -> list[bytes]:
    """A datagram's records, each of which may travel by itself (RFC 6347 §4.1.1)."""
    if not data:
        return []
    end = 13 + int.from_bytes(data[11:13], "big")
    return [data[:end], *records_of(data[end:])]


class Link:
    """Carries datagrams between two ends, and loses or shuffles some."""

    def __init__(self, ends: dict[str, Dtls], drop: Drop | None = None, seed: int = 0) -> None:
        self.ends = ends
        self.drop = drop or (lambda _name, _number: False)
        self.random = random.Random(seed) if seed else None
        self.sent = dict.fromkeys(ends, 0)
        self.told: dict[str, list[Secured | Failed]] = {name: [] for name in ends}
        self.sizes: list[int] = []

    def carry(self, now: float) -> bool:
        """What both have to send; whether there was anything."""
        moved = False
        for name, here in self.ends.items():
            there = next(each for other, each in self.ends.items() if other != name)
            flight = here.outgoing()
            if self.random:
                flight = [record for each in flight for record in records_of(each)]
                flight += self.random.sample(flight, len(flight) // 2)
                self.random.shuffle(flight)
            for data in flight:
                moved = True
                assert is_dtls(data)
                self.sizes.append(len(data))
                lost = self.drop(name, self.sent[name])
                self.sent[name] += 1
                if not lost:
                    there.receive_datagram(data, now)
        for name, each in self.ends.items():
            self.told[name] += each.events()
        return moved

    def settle(self, now: float = 0.0) -> None:
        """Until nobody says any more."""
        for _ in range(50):
            if not self.carry(now):
                return
        raise AssertionError("they never stop talking")

    def live(self, seconds: float) -> None:
        """By the real clock, which is OpenSSL's, until both are told or the time is up."""
        limit = time.monotonic() + seconds
        while time.monotonic() < limit:
            now = time.monotonic()
            for each in self.ends.values():
                due = each.wake_at()
                if due is not None and now >= due:
                    each.wake(now)
            self.settle(now)
            if all(self.told.values()):
                return
            dues = [due for each in self.ends.values() if (due := each.wake_at()) is not None]
            time.sleep(max(0.0, min([limit, *dues]) - time.monotonic()))

    def keys(self) -> tuple[session.Sdes, session.Sdes]:
        """Both ends' keys; each was told once."""
        server, client = self.told["server"], self.told["client"]
        assert [type(each) for each in (*server, *client)] == [Secured, Secured]
        return server[0].keys, client[0].keys


def test_both_ends_get_the_same_keys_the_other_way_round(ours, theirs):
    """And SRTP made of them carries a packet both ways."""
    link = Link(pair(ours, theirs))
    link.settle()
    server, client = link.keys()
    assert (server.send, server.receive) == (client.receive, client.send)
    assert server.send.material != server.receive.material
    assert len(server.send.material) == server.send.suite.key_bytes
    assert max(link.sizes) <= MTU_BYTES
    packet = datagram(0, 7, 0, 1, b"\x55" * 160)
    one, two = Srtp(server), Srtp(client)
    assert two.unprotect(one.protect(packet)) == packet
    assert one.unprotect(two.protect(packet)) == packet


def test_every_association_has_its_own_keys(ours, theirs):
    """The same certificates again make others."""
    links = [Link(pair(ours, theirs)) for _ in range(2)]
    for link in links:
        link.settle()
    assert links[0].keys()[0].send.material != links[1].keys()[0].send.material


def test_a_certificate_says_nothing_about_us(ours, theirs):
    """Each is another one, its fingerprint is SHA-256 of it, its key stands in no text."""
    assert ours.fingerprint != theirs.fingerprint
    assert ours.fingerprint.hash == "sha-256"
    assert re.fullmatch(r"[0-9A-F]{2}(:[0-9A-F]{2}){31}", ours.fingerprint.value)
    assert "context" not in repr(ours)


def test_keys_stand_in_no_text(ours, theirs):
    """Not in what is told either."""
    link = Link(pair(ours, theirs))
    link.settle()
    shown = repr((link.told, link.ends))
    assert link.keys()[0].send.material.hex() not in shown
    assert repr(link.keys()[0].send.material) not in shown


# --- who is there


@pytest.mark.parametrize("stranger", ["server", "client"])
def test_a_certificate_that_was_not_announced_gets_no_keys(ours, theirs, stranger):
    """On either side; both are told, and the one who lied gets an alert."""
    other = make_certificate()
    ends = pair(ours, theirs)
    if stranger == "server":
        ends["server"] = end(other, ours.fingerprint, is_client=False)
    else:
        ends["client"] = end(other, theirs.fingerprint, is_client=True)
    link = Link(ends)
    link.settle()
    assert {type(each) for told in link.told.values() for each in told} == {Failed}
    honest = "client" if stranger == "server" else "server"
    assert "certificate verify failed" in link.told[honest][0].problem
    assert "alert" in link.told[stranger][0].problem


def fingerprints_of(certificate: Certificate, other: Certificate) -> dict[str, Fingerprint]:
    """Of a certificate by every hash, as its peer in a handshake sees it."""
    ends = pair(other, certificate)
    client = ends["client"]
    Link(ends).settle()
    shown = client._connection.get_peer_certificate()
    return {
        name: Fingerprint(name, shown.digest(name.replace("-", "")).decode())
        for name in ("sha-1", "sha-256", "sha-384", "sha-512")
    }


def test_the_strongest_hash_decides_and_one_of_its_values_must_fit(ours, theirs):
    """RFC 8122 §5.1: right by SHA-256 and wrong by SHA-512 is wrong; several certificates are allowed."""
    right = fingerprints_of(theirs, ours)
    wrong = fingerprints_of(make_certificate(), ours)
    assert right["sha-256"] == theirs.fingerprint
    lower = Fingerprint("SHA-384", right["sha-384"].value.lower())
    for expected, is_good in (
        ((right["sha-512"],), True),
        ((lower,), True),
        ((wrong["sha-256"], right["sha-256"]), True),
        ((wrong["sha-1"], right["sha-256"]), True),
        ((wrong["sha-256"], right["sha-512"]), True),
        ((right["sha-256"], wrong["sha-512"]), False),
        ((wrong["sha-256"], wrong["sha-384"]), False),
    ):
        ends = pair(ours, theirs)
        ends["client"] = end(ours, *expected, is_client=True)
        link = Link(ends)
        link.settle()
        assert isinstance(link.told["client"][0], Secured) is is_good


def test_without_a_fingerprint_that_can_be_checked_nothing_begins(ours):
    """None, or of a hash that is not believed: told at once, and nothing is sent."""
    for expected in ((), (Fingerprint("sha-1", "AA" + ":AA" * 19),)):
        dtls = end(ours, *expected, is_client=True)
        assert [type(each) for each in dtls.events()] == [Failed]
        assert (dtls.outgoing(), dtls.wake_at()) == ([], None)
        dtls.receive_datagram(b"\x16" * 40, 0.0)
        dtls.wake(1.0)
        assert (dtls.events(), dtls.ignored) == ([], 1)


# --- networks


@pytest.mark.parametrize(
    ("name", "lost"), [("client", {0}), ("server", {0}), ("client", {1}), ("server", {1})]
)
def test_a_lost_flight_is_sent_again(ours, theirs, name, lost):
    """Whichever of the four it is, after OpenSSL's first second; also the last one, which has no timer."""
    now = time.monotonic()
    link = Link(pair(ours, theirs, now), lambda who, number: who == name and number in lost)
    link.live(4.0)
    assert link.keys()[0].send == link.keys()[1].receive


@pytest.mark.parametrize("seed", range(1, 9))
def test_reordered_and_repeated_records_change_nothing(ours, theirs, seed):
    """Every record by itself, in any order, half of them twice."""
    link = Link(pair(ours, theirs, time.monotonic()), seed=seed)
    link.live(4.0)
    assert link.keys()[0].send == link.keys()[1].receive


def test_a_peer_that_repeats_its_last_flight_gets_ours_again(ours, theirs):
    """After the keys are there, too, and it is told nothing twice."""
    link = Link(pair(ours, theirs))
    kept: list[bytes] = []
    server, client = link.ends["server"], link.ends["client"]
    for _ in range(3):
        for data in client.outgoing():
            kept.append(data)
            server.receive_datagram(data, 0.0)
        for data in server.outgoing():
            client.receive_datagram(data, 0.0)
    assert [type(each) for each in server.events()] == [Secured]
    server.receive_datagram(kept[-1], 1.0)
    assert server.events() == []
    assert len(server.outgoing()) <= 1


def test_rubbish_in_between_does_not_end_a_handshake(ours, theirs):
    """Datagrams that are no records, cut ones, and ones of another version."""
    ends = pair(ours, theirs)
    link = Link(ends)
    rubbish = (b"\x16", b"\x16\xfe\xfd" + b"\0" * 5, b"\x17" + b"\xff" * 40, b"\x14\x03\x03\0\1\1")
    for _ in range(20):
        for each in ends.values():
            for data in (*rubbish, b"\x80\0rtp", b""):
                each.receive_datagram(data, 0.0)
        if not link.carry(0.0):
            break
    assert link.keys()[0].send == link.keys()[1].receive
    assert ends["client"].ignored > 0


@given(st.lists(st.binary(min_size=1, max_size=80), max_size=8), st.booleans())
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_comes_ends_in_keys_or_a_word(datagrams, is_client):
    """Never in another exception, and never in more to send than is bounded."""
    certificate = _shared()
    dtls = end(certificate, certificate.fingerprint, is_client=is_client)
    for data in datagrams:
        dtls.receive_datagram(bytes([20 + data[0] % 6]) + data[1:], 0.0)
    told = dtls.events()
    assert len(told) <= 1
    assert all(isinstance(each, Failed) for each in told)
    assert len(dtls.outgoing()) <= MOST_OUTGOING
    assert (dtls.events(), dtls.outgoing()) == ([], [])


_kept: list[Certificate] = []


def _shared() -> Certificate:
    if not _kept:
        _kept.append(make_certificate())
    return _kept[0]


@given(st.lists(st.integers(0, 1300), min_size=1, max_size=12))
def test_flights_are_cut_between_records(lengths):
    """No record is torn, none is lost, and no datagram is too long that has more than one."""
    records = [b"\x16\xfe\xfd" + bytes(8) + n.to_bytes(2, "big") + bytes(n) for n in lengths]
    made = _datagrams(b"".join(records))
    assert b"".join(made) == b"".join(records)
    ends = {sum(map(len, records[: n + 1])) for n in range(len(records))}
    at = 0
    for each in made:
        at += len(each)
        assert at in ends
        assert len(each) <= MTU_BYTES or each in records


@pytest.mark.parametrize(
    ("first", "is_it"), [(19, False), (20, True), (63, True), (64, False), (128, False), (0, False)]
)
def test_dtls_is_told_from_rtp_and_stun_by_its_first_byte(first, is_it):
    """RFC 5764 §5.1.2: 20 to 63."""
    assert is_dtls(bytes([first, 1, 2])) is is_it
    assert not is_dtls(b"")


# --- time


def test_a_handshake_that_nobody_answers_ends(ours, theirs):
    """The client repeats itself, the server waits, both give up after the same time; once."""
    for is_client in (True, False):
        dtls = end(ours, theirs.fingerprint, is_client=is_client, now=100.0)
        due = dtls.wake_at()
        assert due is not None
        assert (due < 101.1) is is_client
        dtls.wake(100.0 + PATIENCE_SECONDS - 0.01)
        assert dtls.events() == []
        dtls.wake(100.0 + PATIENCE_SECONDS)
        assert [each.problem for each in dtls.events()] == ["the handshake did not end in time"]
        dtls.wake(200.0)
        assert (dtls.events(), dtls.wake_at()) == ([], None)


def test_an_early_wake_repeats_nothing_and_is_no_loop(ours, theirs):
    """OpenSSL's clock has not come so far: it wants to be woken again, later than now."""
    dtls = end(ours, theirs.fingerprint, is_client=True)
    assert len(dtls.outgoing()) == 1
    dtls.wake(1.5)
    assert dtls.outgoing() == []
    due = dtls.wake_at()
    assert due is not None
    assert due > 1.5


def test_after_a_while_nothing_is_kept_of_an_association(ours, theirs):
    """Its state goes, its keys stay with who has them; what comes then is ignored."""
    link = Link(pair(ours, theirs))
    link.settle()
    for each in link.ends.values():
        assert each.wake_at() == LINGER_SECONDS
        each.wake(LINGER_SECONDS)
        assert (each.wake_at(), each.events(), each._connection) == (None, [], None)
        each.receive_datagram(b"\x16" * 40, LINGER_SECONDS)
        assert each.ignored == 1


# --- against OpenSSL's own programs


@contextlib.contextmanager
def _program(*words: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [OPENSSL, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)
        for stream in (process.stdin, process.stdout):
            stream.close()


def _talk(dtls: Dtls, wire: socket.socket, to: tuple[str, int] | None, seconds: float) -> object:
    """Until something is told: by real sockets and clock."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        for data in dtls.outgoing():
            with contextlib.suppress(ConnectionError):
                wire.sendto(data, to)  # our last flight is among them when something is told
        told = dtls.events()
        if told:
            return told[0]
        now = time.monotonic()
        wire.settimeout(max(0.01, min(dtls.wake_at() or limit, limit) - now))
        try:
            data, to = wire.recvfrom(2048)
        except (TimeoutError, ConnectionError):
            dtls.wake(time.monotonic())
        else:
            dtls.receive_datagram(data, time.monotonic())
    raise AssertionError("nothing was told in time")


def _exported(process: subprocess.Popen[bytes]) -> bytes:
    """The keying material that a program prints; it does so when the handshake is over."""
    for line in process.stdout:
        found = re.search(rb"Keying material: ([0-9A-F]+)", line)
        if found:
            return bytes.fromhex(found[1].decode())
    raise AssertionError("no keys were printed")


_PROFILES = {
    "AES_CM_128_HMAC_SHA1_80": "SRTP_AES128_CM_SHA1_80",
    "AES_CM_128_HMAC_SHA1_32": "SRTP_AES128_CM_SHA1_32",
    "AEAD_AES_128_GCM": "SRTP_AEAD_AES_128_GCM",
    "AEAD_AES_256_GCM": "SRTP_AEAD_AES_256_GCM",
}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[str, str, Fingerprint]:
    """A certificate of OpenSSL's own making: RSA, larger than a datagram together with its chain."""
    folder = tmp_path_factory.mktemp("dtls")
    key, certificate = str(folder / "key.pem"), str(folder / "certificate.pem")
    words = ["req", "-x509", "-newkey", "rsa:4096", "-nodes", "-days", "2", "-subj", "/CN=peer"]
    words += ["-keyout", key, "-out", certificate]
    subprocess.run([OPENSSL, *words], check=True, capture_output=True, timeout=60)
    shown = subprocess.run(
        [OPENSSL, "x509", "-noout", "-fingerprint", "-sha256", "-in", certificate],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout
    return key, certificate, Fingerprint("sha-256", shown.strip().partition("=")[2])


def _srtp_words(suite: str) -> list[str]:
    size = str(2 * SUITES[suite].key_bytes)
    label = ["-keymatexport", "EXTRACTOR-dtls_srtp", "-keymatexportlen", size]
    return ["-use_srtp", _PROFILES[suite], *label]


def _wire() -> socket.socket:
    wire = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    wire.bind(("127.0.0.1", 0))
    return wire


@pytest.mark.skipif(OPENSSL is None, reason="openssl is not installed")
@pytest.mark.parametrize("suite", SUITES)
def test_openssls_server_and_we_have_the_same_keys(ours, files, suite):
    """We are the client; what it prints is what we have, client's keys first (RFC 5764 §4.2)."""
    key, certificate, fingerprint = files
    with _wire() as probe:
        port = probe.getsockname()[1]
    words = ["s_server", "-dtls1_2", "-accept", f"127.0.0.1:{port}", "-key", key]
    words += ["-cert", certificate, "-Verify", "1", *_srtp_words(suite)]
    with _program(*words) as process, _wire() as wire:
        assert any(b"ACCEPT" in line for line in process.stdout)
        dtls = end(ours, fingerprint, is_client=True, now=time.monotonic())
        told = _talk(dtls, wire, ("127.0.0.1", port), PATIENCE_SECONDS)
        assert isinstance(told, Secured), told
        _compare(told.keys, suite, _exported(process), is_client=True)


@pytest.mark.skipif(OPENSSL is None, reason="openssl is not installed")
@pytest.mark.parametrize("suite", SUITES)
def test_openssls_client_and_we_have_the_same_keys(ours, files, suite):
    """We are the server; its hello and its certificate come in many pieces, as browsers' do."""
    key, certificate, fingerprint = files
    with _wire() as wire:
        to = f"127.0.0.1:{wire.getsockname()[1]}"
        words = ["s_client", "-dtls1_2", "-connect", to, "-key", key, "-cert", certificate]
        words += ["-mtu", "300", "-alpn", ",".join(f"{'x' * 60}{n}" for n in range(20))]
        with _program(*words, *_srtp_words(suite)) as process:
            dtls = end(ours, fingerprint, is_client=False, now=time.monotonic())
            told = _talk(dtls, wire, None, PATIENCE_SECONDS)
            assert isinstance(told, Secured), told
            _compare(told.keys, suite, _exported(process), is_client=False)


@pytest.mark.skipif(OPENSSL is None, reason="openssl is not installed")
def test_a_peer_that_does_no_srtp_gets_no_keys(ours, files):
    """DTLS without use_srtp is no media (RFC 5764 §4.1.1); neither is a client without a certificate."""
    key, certificate, fingerprint = files
    shown = ["-key", key, "-cert", certificate]
    for words, problem in (
        (shown, "no SRTP profile"),
        (["-use_srtp", _PROFILES["AEAD_AES_128_GCM"]], "DTLS: "),
    ):
        with _wire() as wire:
            to = f"127.0.0.1:{wire.getsockname()[1]}"
            with _program("s_client", "-dtls1_2", "-connect", to, *words):
                dtls = end(ours, fingerprint, is_client=False, now=time.monotonic())
                told = _talk(dtls, wire, None, PATIENCE_SECONDS)
                assert isinstance(told, Failed)
                assert problem in told.problem


def _compare(keys: session.Sdes, suite: str, material: bytes, *, is_client: bool) -> None:
    assert keys.send.suite.name == suite
    client, server = (keys.send, keys.receive) if is_client else (keys.receive, keys.send)
    salt = {30: 14, 28: 12, 44: 12}[len(client.material)]
    parts = client.material[:-salt], server.material[:-salt]
    salts = client.material[-salt:], server.material[-salt:]
    assert b"".join((*parts, *salts)) == material
