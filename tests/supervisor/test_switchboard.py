"""The real switchboard in a process of its own, with real ZeroMQ peers: good, bad and gone."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import stat
import threading
import time
import urllib.request
from pathlib import Path

import msgspec
import pytest
import zmq

from flowcatd.control import (
    CONTROL_SOCKET,
    MESSAGE_MAX,
    METRICS_SOCKET,
    PUBLISH_SOCKET,
    Answer,
    Ask,
    AskCalls,
    AskDrain,
    AskStatus,
    Calls,
    Hello,
    Order,
    OrderCalls,
    Reader,
    Refused,
    ReportCalls,
    Status,
    encode,
    worker_identity,
)
from flowcatd.metrics import Metrics
from tests.supervisor.board import (
    LIMIT,
    Board,
    Peer,
    fleet,
    free_port,
    line,
    short_directory,
    sockets,
    until,
)


@pytest.fixture
def context():
    """Every socket of a test; none survives it."""
    with sockets() as it:
        yield it


@pytest.fixture
def runtime():
    """A runtime directory."""
    with short_directory() as path:
        yield path


@pytest.fixture
def board(runtime):
    """A switchboard that ends well, and that has complained of nothing."""
    it = Board(runtime)
    yield it
    assert it.process.poll() is None, it.said()
    assert it.end() == 0
    assert it.faults() == []


def operator(context: zmq.Context, runtime: Path, **options: object) -> Peer:
    """On this machine."""
    return Peer(context, zmq.DEALER, f"ipc://{runtime / CONTROL_SOCKET}", **options)


def worker(context: zmq.Context, runtime: Path, seat: int, **options: object) -> Peer:
    """One that has said Hello; its pid is 100 + seat."""
    identity = worker_identity(seat, 100 + seat)
    peer = operator(context, runtime, identity=identity, **options)
    peer.say(Hello(seat=seat, slot=seat, pid=100 + seat))
    return peer


def subscriber(context: zmq.Context, runtime: Path, topic: bytes, **options: object) -> Peer:
    """On this machine, to one beginning of topics."""
    peer = Peer(context, zmq.SUB, f"ipc://{runtime / METRICS_SOCKET}", **options)
    peer.socket.subscribe(topic)
    return peer


def publisher(context: zmq.Context, runtime: Path) -> Peer:
    """One that knows already that it is listened to."""
    peer = Peer(context, zmq.XPUB, f"ipc://{runtime / PUBLISH_SOCKET}")
    assert peer.hear() == b"\x01", "everything is subscribed to"
    return peer


# --- what it is for ------------------------------------------------------------------------------


def test_it_says_ready_and_its_sockets_are_ours_alone(board, runtime):
    """Mode 0600 from the start: the mask is set before they exist."""
    assert board.mark == b"R"
    for name in (CONTROL_SOCKET, PUBLISH_SOCKET, METRICS_SOCKET):
        assert stat.S_IMODE((runtime / name).lstat().st_mode) == 0o600


def test_status_is_what_the_supervisor_told(board, context, runtime):
    """As soon as it has told anything."""
    peer = operator(context, runtime)
    assert peer.ask(AskStatus(id="1")) == Status(id="1")
    board.tell(fleet(line(0)))
    until(
        lambda: peer.ask(AskStatus(id="2")) == Status(id="2", fleet=fleet(line(0))),
        "the fleet is known",
    )


def test_the_supervisor_is_asked_and_answers(board, context, runtime):
    """Progress first, the end last, under the operator's id."""
    peer = operator(context, runtime)
    peer.say(AskDrain(id="mine"))
    ask = Reader(Ask).decode(board.line.recv(MESSAGE_MAX))
    assert isinstance(ask, AskDrain)
    board.tell(Answer(id=ask.id, text="draining", done=False))
    board.tell(Answer(id=ask.id, text="drained"))
    assert peer.reply() == Answer(id="mine", text="draining", done=False)
    assert peer.reply() == Answer(id="mine", text="drained")


@pytest.mark.usefixtures("board")
def test_calls_are_asked_of_every_worker(context, runtime):
    """And the list is theirs together."""
    workers = [worker(context, runtime, seat) for seat in (0, 1)]
    peer = operator(context, runtime)
    # A Hello and an ask travel on connections of their own: whoever is not there yet is not asked.
    until(lambda: _calls(peer, workers) == {0, 1}, "both workers are asked")


def _calls(peer: Peer, workers: list[Peer]) -> set[int]:
    peer.say(AskCalls(id="c"))
    asked = set()
    for seat, one in enumerate(workers):
        data = one.hear(0.5)
        if data is not None:
            own = msgspec.json.decode(data)["id"]
            one.say(ReportCalls(id=own, seat=seat, calls=[]))
            asked.add(seat)
    reply = peer.reply()
    assert isinstance(reply, Calls)
    return asked if not reply.missing else set()


@pytest.mark.usefixtures("board")
def test_what_workers_publish_reaches_who_subscribed_to_it(context, runtime):
    """By topic; and what has no topic of ours reaches nobody."""
    publishes = publisher(context, runtime)
    hears = subscriber(context, runtime, b"call.")
    every = subscriber(context, runtime, b"")
    topics = (b"metrics.0", b"other", b"call.started")

    def arrived() -> bool:
        for topic in topics:
            publishes.socket.send_multipart([topic, b"{}"])
        return hears.socket.poll(50) > 0 and every.socket.poll(50) > 0

    until(arrived, "subscriptions are known")
    assert hears.socket.recv_multipart() == [b"call.started", b"{}"]
    heard = []
    while every.socket.poll(200):
        heard.append(every.socket.recv_multipart()[0])
    assert set(heard) == {b"metrics.0", b"call.started"}


def test_the_fleet_is_published(board, context, runtime):
    """On its own topic, as the supervisor told it."""
    hears = subscriber(context, runtime, b"fleet")

    def arrived() -> bool:
        board.tell(fleet(line(0)))
        return hears.socket.poll(50) > 0

    until(arrived, "the subscription is known")
    assert hears.socket.recv_multipart() == [b"fleet", encode(fleet(line(0)))]


def test_the_bridge_is_fed_and_scraped(runtime, context):
    """What a worker publishes stands in /metrics, on the socket that the supervisor made."""
    metrics = Metrics()
    metrics.set("calls_live", 7)
    snapshot = metrics.snapshot(seat=0, slot=0, pid=100, at_utc=1.0, uptime_seconds=1.0)
    with socket.create_server(("127.0.0.1", 0)) as door:
        it = Board(runtime, metrics=door.fileno())
        url = f"http://127.0.0.1:{door.getsockname()[1]}/metrics"
        publishes = publisher(context, runtime)

        def scraped() -> bool:
            publishes.socket.send_multipart([b"metrics.0", encode(snapshot)])
            with urllib.request.urlopen(url, timeout=LIMIT) as answer:
                text = answer.read().decode()
            return bool(re.search(r'^flowcatd_calls_live{worker="0"[^}]*} 7', text, re.MULTILINE))

        until(scraped, "the figure is there")
        assert it.end() == 0
    assert it.faults() == []


# --- its life ------------------------------------------------------------------------------------


def test_it_ends_when_the_supervisor_hangs_up(runtime):
    """With exit code 0: it was told so."""
    it = Board(runtime)
    assert it.end() == 0
    assert it.faults() == []


def test_it_ends_within_a_second_or_two_when_the_supervisor_is_gone(runtime):
    """Both lines end then; the last figures of the workers still have a second."""
    it = Board(runtime)
    os.close(it.alive)
    began = time.monotonic()
    assert it.process.wait(LIMIT) == 75
    assert 0.5 < time.monotonic() - began < 5
    it.alive = os.open(os.devnull, os.O_RDONLY)
    it.end()


def test_it_ends_when_told_by_signal(runtime):
    """SIGTERM and SIGINT are the same to it."""
    for number in (signal.SIGTERM, signal.SIGINT):
        it = Board(runtime)
        it.process.send_signal(number)
        assert it.process.wait(LIMIT) == 0
        it.end()


def test_after_a_kill_the_next_one_takes_its_place(context, runtime):
    """Over the sockets that lie about; operators and subscribers need not do anything."""
    first = Board(runtime)
    peer = operator(context, runtime)
    hears = subscriber(context, runtime, b"fleet")
    assert peer.ask(AskStatus(id="1")) == Status(id="1")
    first.process.kill()
    first.process.wait()
    first.end()
    assert (runtime / CONTROL_SOCKET).exists()
    second = Board(runtime)

    def arrived() -> bool:
        second.tell(fleet())
        return hears.socket.poll(50) > 0

    until(arrived, "the subscriber is back")
    assert peer.ask(AskStatus(id="2")).id == "2"
    assert second.end() == 0
    assert second.faults() == []


@pytest.mark.parametrize(
    ("where", "tcp", "code", "why"),
    [
        ("nowhere", "", 71, "cannot listen on ipc://"),
        ("n" * 90, "", 71, "cannot listen on ipc://"),
        ("", "tcp://127.0.0.1:1", 78, "control.curve_secret"),
    ],
    ids=["no directory", "too long a name", "tcp without a secret key"],
)
def test_what_cannot_serve_says_why_and_ends_with_the_code_for_it(runtime, where, tcp, code, why):
    """One line each; tcp without keys would be open to everybody, or to nobody."""
    it = Board(runtime / where, tcp=tcp)
    assert it.mark == b""
    assert it.end() == code
    assert [line["event"] for line in it.faults()] == ["switchboard.given_up"]
    assert why in it.faults()[0]["why"]


# --- garbage -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([os.urandom(300)], "garbage"),
        ([b""], "garbage"),
        ([b"", encode(AskStatus(id="1"))], "garbage"),
        ([encode(AskStatus(id="1"))] * 3, "garbage"),
        ([b"x"] * 1000, "garbage"),
        ([b'{"type":"status","id":"1","v":99}'], "version"),
        ([b'{"type":"hello","seat":0,"slot":0,"pid":1}'], "garbage"),
        ([b'{"type":"status","id":"1"}' + b" " * 100_000], "size"),
        ([b"[" * 15_000], "garbage"),
    ],
)
@pytest.mark.usefixtures("board")
def test_garbage_is_refused_while_others_are_answered(context, runtime, frames, code):
    """Its sender stays connected, and may even say something sensible next."""
    bad, good = operator(context, runtime), operator(context, runtime)
    bad.socket.send_multipart(frames)
    refused = bad.reply()
    assert isinstance(refused, Refused)
    assert refused.code == code
    assert good.ask(AskStatus(id="g")) == Status(id="g")
    assert bad.ask(AskStatus(id="b")) == Status(id="b")


@pytest.mark.usefixtures("board")
def test_a_huge_message_ends_its_own_connection_only(context, runtime):
    """The library reads no further than its limit; the sender reconnects by itself."""
    bad, good = operator(context, runtime), operator(context, runtime)
    assert bad.ask(AskStatus(id="b")) == Status(id="b")
    bad.say(b"x" * (MESSAGE_MAX + 1))
    assert good.ask(AskStatus(id="g")) == Status(id="g")
    assert bad.hear(0.3) is None
    assert bad.ask(AskStatus(id="b")) == Status(id="b")


@pytest.mark.usefixtures("board")
def test_bytes_that_are_not_zeromq_at_all_harm_nobody(context, runtime):
    """On every socket of the runtime directory."""
    for name in (CONTROL_SOCKET, PUBLISH_SOCKET, METRICS_SOCKET):
        with socket.socket(socket.AF_UNIX) as raw:
            raw.connect(str(runtime / name))
            raw.sendall(os.urandom(5000))
            assert operator(context, runtime).ask(AskStatus(id="g")) == Status(id="g")


@pytest.mark.usefixtures("board")
def test_a_flood_of_garbage_leaves_an_operator_its_answers(context, runtime):
    """Peers are served in turn, so the one that shouts delays the other by a message."""
    stop = threading.Event()
    bad = operator(context, runtime)

    def shout() -> None:
        while not stop.is_set():
            if bad.socket.poll(50, zmq.POLLOUT):
                bad.socket.send(b"rubbish")
            while bad.socket.poll(0):
                bad.socket.recv()

    thread = threading.Thread(target=shout)
    thread.start()
    try:
        good = operator(context, runtime)
        began = time.monotonic()
        for number in range(100):
            assert good.ask(AskStatus(id=str(number))) == Status(id=str(number))
        assert time.monotonic() - began < 5
    finally:
        stop.set()
        thread.join()


@pytest.mark.usefixtures("board")
def test_subscribers_that_talk_are_not_listened_to(context, runtime):
    """Whatever an XSUB may send up, the others go on."""
    bad = Peer(context, zmq.XSUB, f"ipc://{runtime / METRICS_SOCKET}")
    for _ in range(2000):
        bad.socket.send(os.urandom(50))
    assert operator(context, runtime).ask(AskStatus(id="g")) == Status(id="g")


def test_an_operator_that_went_away_costs_nothing(board, context, runtime):
    """What the supervisor answers it has nowhere to go, and the next one is served."""
    gone, stays = operator(context, runtime), operator(context, runtime)
    gone.say(AskDrain(id="d"))
    own = Reader(Ask).decode(board.line.recv(MESSAGE_MAX)).id
    gone.socket.close(0)
    for _ in range(20):
        board.tell(Answer(id=own, text="draining", done=False))
    assert stays.ask(AskStatus(id="s")) == Status(id="s")
    assert all(said["level"] == "info" for said in board.said())


# --- who does not read ---------------------------------------------------------------------------


def test_an_operator_that_never_reads_loses_its_own_answers(board, context, runtime):
    """They are dropped and counted once its queues are full; another's come at once."""
    lazy = operator(context, runtime, rcvhwm=1, rcvbuf=4096)
    big = [line(seat) for seat in range(400)]
    board.tell(fleet(*big))
    good = operator(context, runtime)
    until(lambda: good.ask(AskStatus(id="g")).fleet is not None, "the fleet is known")

    def overflown() -> bool:
        for _ in range(50):
            lazy.say(AskStatus(id="l"))
        assert good.ask(AskStatus(id="g")).id == "g"
        return any(said.get("what") == "control" for said in board.said())

    until(overflown, "an answer was dropped")


def test_a_worker_that_does_not_answer_is_missing(board, context, runtime):
    """After two seconds; those who did are in the list, and status is answered meanwhile."""
    good, deaf = worker(context, runtime, 0), worker(context, runtime, 1)
    board.tell(fleet(line(0), line(1)))
    peer, other = operator(context, runtime), operator(context, runtime)
    until(lambda: other.ask(AskStatus(id="s")).fleet is not None, "the fleet is known")
    began = time.monotonic()
    peer.say(AskCalls(id="c"))
    order = Reader(Order).decode(good.hear())
    assert isinstance(order, OrderCalls)
    good.say(ReportCalls(id=order.id, seat=0, calls=[]))
    assert other.ask(AskStatus(id="s")).id == "s"
    assert peer.reply() == Calls(id="c", calls=[], missing=[1])
    assert 1.5 < time.monotonic() - began < 5
    assert deaf.hear() is not None, "it had been asked"


@pytest.mark.usefixtures("board")
def test_a_subscriber_that_never_reads_delays_nobody(context, runtime):
    """It loses what it does not read; another one gets every message."""
    publishes = publisher(context, runtime)
    lazy = subscriber(context, runtime, b"", rcvhwm=1, rcvbuf=4096)
    hears = subscriber(context, runtime, b"call.")
    payload = b"x" * 10_000

    def arrived() -> bool:
        publishes.socket.send_multipart([b"call.probe", b""])
        return hears.socket.poll(50) > 0 and lazy.socket.poll(50) > 0

    until(arrived, "subscriptions are known")
    while hears.socket.poll(200):
        hears.socket.recv_multipart()
    count = 3000  # three times what is kept for a subscriber
    got = 0
    for number in range(count):
        publishes.socket.send_multipart([b"call.ended", payload])
        while hears.socket.poll(LIMIT * 1000 if got < number - 50 else 0):
            hears.socket.recv_multipart()
            got += 1
    while got < count and hears.socket.poll(LIMIT * 1000):
        hears.socket.recv_multipart()
        got += 1
    assert got == count
    assert operator(context, runtime).ask(AskStatus(id="g")).id == "g"


def test_a_supervisor_that_does_not_read_is_reported_to_who_asked(runtime, context):
    """Its line fills; the operator hears it at once instead of at a deadline."""
    it = Board(runtime, buffer=4608)
    peer = operator(context, runtime)
    for number in range(15):
        peer.say(AskDrain(id=str(number)))
    answer = peer.reply(seconds=3)
    assert isinstance(answer, Answer)
    assert (answer.ok, answer.text) == (False, "the supervisor does not read")
    assert it.end() == 0
    assert it.faults() == []


# --- other machines ------------------------------------------------------------------------------


@pytest.fixture
def keys():
    """Two pairs, the server's and a client's; public key first."""
    return zmq.curve_keypair(), zmq.curve_keypair()


@pytest.fixture
def remote(runtime, keys):
    """A switchboard with tcp, that lets in one key."""
    (_, secret), (client, _) = keys
    clients = runtime / "clients"
    clients.mkdir()
    write_public(clients / "operator.pub", client)
    it = Board(
        runtime,
        tcp=f"tcp://127.0.0.1:{free_port()}",
        metrics_tcp=f"tcp://127.0.0.1:{free_port()}",
        secret=write_secret(runtime, secret),
    )
    yield it
    assert it.process.poll() is None, it.said()
    assert it.end() == 0
    assert it.faults() == []


def write_public(path: Path, key: bytes) -> None:
    """A file as `flowcatd keys` makes it."""
    path.write_text(f'metadata\ncurve\n    public-key = "{key.decode()}"\n')


def write_secret(runtime: Path, key: bytes) -> str:
    """The reference to it."""
    (runtime / "server.key").write_text(f'curve\n    secret-key = "{key.decode()}"\n')
    return f"file:{runtime}/server.key"


def curve(server: bytes, pair: tuple[bytes, bytes]) -> dict[str, object]:
    """The options of a client's socket."""
    return {"curve_serverkey": server, "curve_publickey": pair[0], "curve_secretkey": pair[1]}


def test_the_right_key_is_let_in(remote, context, keys):
    """To commands and to what is published."""
    (server, _), client = keys
    peer = Peer(context, zmq.DEALER, remote.tcp, **curve(server, client))
    assert peer.ask(AskStatus(id="1")) == Status(id="1")
    hears = Peer(context, zmq.SUB, remote.metrics_tcp, **curve(server, client))
    hears.socket.subscribe(b"fleet")

    def arrived() -> bool:
        remote.tell(fleet())
        return hears.socket.poll(50) > 0

    until(arrived, "the subscription is known")


@pytest.mark.parametrize("with_keys", [True, False], ids=["another key", "no CURVE at all"])
def test_the_wrong_key_and_none_get_nothing(remote, context, keys, with_keys):
    """Neither an answer nor a message, while the right one goes on being served."""
    (server, _), client = keys
    options = curve(server, zmq.curve_keypair()) if with_keys else {}
    bad = Peer(context, zmq.DEALER, remote.tcp, **options)
    bad.say(AskStatus(id="bad"))
    hears = Peer(context, zmq.SUB, remote.metrics_tcp, **options)
    hears.socket.subscribe(b"")
    good = Peer(context, zmq.DEALER, remote.tcp, **curve(server, client))
    end = time.monotonic() + 1.0
    while time.monotonic() < end:
        remote.tell(fleet())
        assert good.ask(AskStatus(id="g")).id == "g"
        time.sleep(0.02)
    assert bad.hear(0) is None
    assert hears.hear(0) is None


def test_a_remote_operator_cannot_be_a_worker(remote, context, keys, runtime):
    """Whatever identity it takes: its Hello is refused, and orders still go to the real one."""
    (server, _), client = keys
    real = worker(context, runtime, 0)
    false = Peer(
        context, zmq.DEALER, remote.tcp, identity=worker_identity(0, 100), **curve(server, client)
    )
    refused = false.ask(Hello(seat=0, slot=0, pid=100))
    assert isinstance(refused, Refused)
    peer = operator(context, runtime)
    peer.say(AskCalls(id="c"))
    assert real.hear() is not None
    assert false.hear(0.2) is None


def test_after_a_reload_the_keys_are_those_in_the_directory(remote, context, keys, runtime):
    """A new one is let in, and one that was taken away is cut off though it is connected."""
    (server, _), old = keys
    new = zmq.curve_keypair()
    before = Peer(context, zmq.DEALER, remote.tcp, **curve(server, old))
    assert before.ask(AskStatus(id="1")).id == "1"
    (runtime / "clients" / "operator.pub").unlink()
    write_public(runtime / "clients" / "new.pub", new[0])
    remote.tell(fleet(generation=1))
    remote.tell(fleet(generation=2))
    # Who is refused once does not come again by itself: libzmq takes a 400 as final.
    until(lambda: any(said["event"] == "keys.read" for said in remote.said()), "keys are read")
    after = Peer(context, zmq.DEALER, remote.tcp, **curve(server, new))
    assert after.ask(AskStatus(id="2")).id == "2"
    with contextlib.suppress(zmq.Again):  # it may know already that nobody talks to it
        before.socket.send(encode(AskStatus(id="3")), zmq.DONTWAIT)
    assert before.hear(1.0) is None


def test_keys_that_cannot_be_read_at_a_reload_change_nothing(remote, context, keys, runtime):
    """The operator is told which file it is, and who could connect still can."""
    (server, _), client = keys
    (runtime / "clients" / "bad.pub").write_text("rubbish")
    remote.tell(fleet(generation=1))
    remote.tell(fleet(generation=2))
    until(lambda: any("bad.pub" in said.get("why", "") for said in remote.said()), "it is told")
    peer = Peer(context, zmq.DEALER, remote.tcp, **curve(server, client))
    assert peer.ask(AskStatus(id="1")).id == "1"


def test_an_address_that_is_taken_is_tried_again(runtime, context, keys):
    """Commands over ipc work meanwhile; and then those over tcp do."""
    (server, secret), client = keys
    (runtime / "clients").mkdir()
    write_public(runtime / "clients" / "a.pub", client[0])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        it = Board(runtime, tcp=address, secret=write_secret(runtime, secret))
        assert operator(context, runtime).ask(AskStatus(id="1")) == Status(id="1")
    peer = Peer(context, zmq.DEALER, address, **curve(server, client))
    assert peer.ask(AskStatus(id="2")) == Status(id="2")
    assert it.end() == 0
    assert it.faults() == []
