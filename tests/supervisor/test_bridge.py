"""Facts about the bridge: a real HTTP server, and `flowcatd bridge` on a real ZeroMQ publisher."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import aiohttp
import msgspec
import pytest
import uvloop
import zmq
import zmq.auth
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from flowcatd.control import Fleet, WorkerLine, encode
from flowcatd.metrics import Metrics
from supervisor.bridge import CONNECTIONS_MAX, SCRAPES_MAX, Bridge
from supervisor.exposition import Format

ROOT = Path(__file__).parents[2]
OPENMETRICS = {"Accept": "application/openmetrics-text; version=1.0.0"}


def snapshot(calls: int = 3, *, uptime: float = 1.0, pid: int = 7) -> bytes:
    """What a worker in slot 0 publishes."""
    metrics = Metrics()
    metrics.add("calls_started", calls)
    metrics.set("calls_live", 2)
    shot = metrics.snapshot(seat=0, slot=0, pid=pid, at_utc=1e9, uptime_seconds=uptime, begun=1.0)
    return msgspec.json.encode(shot)


def fleet() -> bytes:
    """What the supervisor has published."""
    line = WorkerLine(seat=0, slot=0, pid=7, state="ready", generation=1, seconds=1)
    return encode(
        Fleet(
            version="1.2.3",
            pid=10,
            uptime_seconds=5.0,
            state="serving",
            slots=1,
            generation=1,
            restarts=0,
            config="",
            address="",
            workers=[line],
        )
    )


def samples(text: str) -> dict[tuple, float]:
    """Every sample of an OpenMetrics text."""
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in openmetrics.text_string_to_metric_families(text)
        for sample in family.samples
    }


def heard(found: dict[tuple, float], kind: str) -> float:
    """How many messages of a kind."""
    return found["flowcatd_bridge_messages_total", ("kind", kind)]


@pytest.fixture
async def served():
    """A bridge that serves on loopback, and its address."""
    bridge = Bridge(time.monotonic)
    door = socket.create_server(("127.0.0.1", 0))
    await bridge.serve(door)
    yield bridge, f"http://127.0.0.1:{door.getsockname()[1]}"
    await bridge.close()


async def fetch(url: str, method: str = "GET", **headers: str) -> tuple[int, dict, bytes]:
    """Status, headers and body as they came."""
    async with (
        aiohttp.ClientSession(auto_decompress=False, skip_auto_headers=["Accept-Encoding"]) as http,
        http.request(method, url, headers=headers) as answer,
    ):
        return answer.status, dict(answer.headers), await answer.read()


# --- HTTP -----------------------------------------------------------------------------------------


async def test_a_scrape_gets_the_figures_in_the_format_it_asked_for(served):
    """Both are read by an independent parser, and hold what was fed."""
    bridge, url = served
    bridge.feed(b"metrics.0", snapshot())
    bridge.feed(b"fleet", fleet())
    status, headers, body = await fetch(f"{url}/metrics", **OPENMETRICS)
    assert (status, headers["Content-Type"]) == (200, Format.OPENMETRICS.value)
    found = samples(body.decode())
    assert found[("flowcatd_calls_started_total",)] == 3
    assert found["flowcatd_calls_live", ("stage", "current"), ("worker", "0")] == 2
    assert found[("flowcatd_bridge_connected",)] == 1
    status, headers, body = await fetch(f"{url}/metrics")
    assert (status, headers["Content-Type"]) == (200, Format.TEXT.value)
    read = {f.name: f for f in text_string_to_metric_families(body.decode())}
    assert read["flowcatd_calls_started"].samples[0].value == 3
    assert read["flowcatd_bridge_scrapes"].samples[0].value == 1


async def test_head_has_the_headers_and_no_body(served):
    """As a probe wants it."""
    status, headers, body = await fetch(f"{served[1]}/metrics", "HEAD")
    assert (status, body) == (200, b"")
    assert headers["Content-Type"] == Format.TEXT.value
    assert int(headers["Content-Length"]) > 1000


@pytest.mark.parametrize(
    ("accept", "compressed"),
    [("gzip", True), ("deflate, gzip;q=0.5", True), ("gzip;q=0", False), ("br", False)],
)
async def test_gzip_is_used_when_it_was_asked_for(served, accept, compressed):
    """And only then."""
    _, headers, body = await fetch(f"{served[1]}/metrics", **{"Accept-Encoding": accept})
    assert (headers.get("Content-Encoding") == "gzip") is compressed
    assert b"flowcatd_calls_started_total 0" in (gzip.decompress(body) if compressed else body)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 404), ("GET", "/metrics/x", 404), ("POST", "/metrics", 405)],
)
async def test_other_paths_and_methods_are_refused(served, method, path, status):
    """Nothing else is served here, and a 404 tells where the figures are."""
    got, _, body = await fetch(f"{served[1]}{path}", method)
    assert got == status
    assert status != 404 or b"/metrics" in body


async def test_health_tells_whether_the_daemon_is_heard(served):
    """The bridge itself is healthy in any case."""
    bridge, url = served
    for connected in (False, True):
        status, _, body = await fetch(f"{url}/healthz")
        assert (status, json.loads(body)) == (200, {"status": "ok", "connected": connected})
        bridge.feed(b"fleet", fleet())


async def test_a_daemon_that_falls_silent_is_seen_and_so_is_its_return():
    """Gauges go away after ten seconds, counters stay, and all is back with the next message."""
    clock = [100.0]
    bridge = Bridge(lambda: clock[0])
    door = socket.create_server(("127.0.0.1", 0))
    await bridge.serve(door)
    url = f"http://127.0.0.1:{door.getsockname()[1]}/metrics"
    try:
        for uptime, later, connected in ((1.0, 10.0, True), (2.0, 10.1, False), (3.0, 0.0, True)):
            bridge.feed(b"metrics.0", snapshot(uptime=uptime))
            bridge.feed(b"fleet", fleet())
            clock[0] += later
            found = samples((await fetch(url, **OPENMETRICS))[2].decode())
            assert found[("flowcatd_bridge_connected",)] == connected
            assert (("flowcatd_workers_wanted",) in found) is connected
            live = ("flowcatd_calls_live", ("stage", "current"), ("worker", "0"))
            assert (live in found) is connected
            assert found[("flowcatd_calls_started_total",)] == 3
    finally:
        await bridge.close()


def test_it_serves_on_uvloop_too():
    """As in the switchboard."""

    async def once() -> int:
        bridge = Bridge(time.monotonic)
        door = socket.create_server(("127.0.0.1", 0))
        port = door.getsockname()[1]
        await bridge.serve(door)
        try:
            return (await fetch(f"http://127.0.0.1:{port}/metrics"))[0]
        finally:
            await bridge.close()

    assert uvloop.run(once()) == 200


async def until(condition: Callable[[], bool]) -> None:
    """Wait for it, for at most ten seconds."""
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came true")


async def test_scrapes_beyond_the_limit_are_told_to_come_again(served):
    """Readers that do not read hold up themselves only."""
    bridge, url = served
    port = int(url.rpartition(":")[2])
    many = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 400
    slow = []
    for _ in range(SCRAPES_MAX):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", port))
        sock.setblocking(False)
        with suppress(BlockingIOError):
            sock.send(many)
        slow.append(sock)
    try:
        await until(lambda: bridge._scrapes == SCRAPES_MAX)
        status, headers, _ = await fetch(f"{url}/metrics")
        assert (status, headers["Retry-After"]) == (503, "1")
        assert (await fetch(f"{url}/healthz"))[0] == 200
    finally:
        for sock in slow:
            sock.close()
    await until(lambda: bridge._scrapes == 0)
    found = samples((await fetch(f"{url}/metrics", **OPENMETRICS))[2].decode())
    assert found["flowcatd_bridge_scrapes_total", ("outcome", "busy")] == 1
    assert found["flowcatd_bridge_scrapes_total", ("outcome", "broken")] == SCRAPES_MAX


async def test_a_reader_that_takes_too_long_is_cut_off():
    """Its place is free again, and others never noticed."""
    bridge = Bridge(time.monotonic, answer_seconds=0.2)
    door = socket.create_server(("127.0.0.1", 0))
    address = door.getsockname()
    await bridge.serve(door)
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    try:
        slow.connect(address)
        slow.setblocking(False)
        with suppress(BlockingIOError):
            slow.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 400)
        broken = bridge._exposition.own.counters["bridge_scrapes"]
        await until(lambda: broken["broken"] == 1 and bridge._scrapes == 0)
        url = f"http://127.0.0.1:{address[1]}/metrics"
        assert (await fetch(url))[0] == 200
    finally:
        slow.close()
        await bridge.close()


async def test_connections_beyond_the_limit_are_closed(served):
    """Sockets that say nothing cannot use up the process's descriptors."""
    bridge, url = served
    port = int(url.rpartition(":")[2])
    idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(CONNECTIONS_MAX)]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(10):
            assert await reader.read() == b""
    finally:
        for _, one in [*idle, (reader, writer)]:
            one.close()
    await until(lambda: len(bridge._runner.server.connections) < CONNECTIONS_MAX)
    assert (await fetch(f"{url}/healthz"))[0] == 200


async def test_a_closed_bridge_refuses_connections():
    """And closing twice, or before serving, is no error."""
    bridge = Bridge(time.monotonic)
    await bridge.close()
    door = socket.create_server(("127.0.0.1", 0))
    port = door.getsockname()[1]
    await bridge.serve(door)
    await bridge.close()
    await bridge.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


# --- what it is fed -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("topic", "payload", "kind"),
    [
        (b"metrics.0", snapshot(), "snapshot"),
        (b"metrics.1", snapshot(), "garbage"),
        (b"metrics.0", b"", "garbage"),
        (b"metrics.0", b"[" * 100_000, "garbage"),
        (b"metrics.0", b" " * 2_000_000, "garbage"),
        (b"metrics.0", fleet(), "garbage"),
        (b"metrics.0", snapshot().replace(b'"v":1', b'"v":2'), "garbage"),
        (b"fleet", fleet(), "fleet"),
        (b"fleet", snapshot(), "garbage"),
        (b"call.ended", b"{}", "other"),
        (b"", b"", "other"),
    ],
)
async def test_what_it_is_fed_is_counted_by_kind(served, topic, payload, kind):
    """Garbage never raises."""
    bridge, url = served
    bridge.feed(topic, payload)
    found = samples((await fetch(f"{url}/metrics", **OPENMETRICS))[2].decode())
    kinds = {key[1][1]: v for key, v in found.items() if key[0].endswith("bridge_messages_total")}
    assert {name for name, count in kinds.items() if count} == {kind}


@settings(deadline=None)
@given(st.binary(), st.sampled_from([b"metrics.0", b"fleet", b"x"]), st.integers(0, 400))
def test_no_bytes_raise(data, topic, cut):
    """Random ones, and a true message with random ones in its middle."""
    bridge = Bridge(lambda: 1.0)
    bridge.feed(topic, data)
    whole = snapshot() if topic == b"metrics.0" else fleet()
    bridge.feed(topic, whole[:cut] + data + whole[cut:])


# --- flowcatd bridge ------------------------------------------------------------------------------


class Command:
    """`flowcatd bridge`, running."""

    def __init__(self, *words: str) -> None:
        code = (
            "import sys; from argparse import ArgumentParser as P; from supervisor import bridge\n"
        )
        code += "p = P(); bridge.add_arguments(p); sys.exit(bridge.run(p.parse_args()))"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *words, "--listen", "127.0.0.1:0"],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.said = self.process.stdout.readline()
        self.url = self.said.split(" ")[0]

    def scrape(self) -> dict[tuple, float]:
        """Its samples now."""
        request = urllib.request.Request(self.url, headers=OPENMETRICS)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return samples(answer.read().decode())

    def end(self, number: int = signal.SIGINT) -> tuple[int, str]:
        """Interrupted: its exit code and what it wrote to standard error."""
        self.process.send_signal(number)
        _, err = self.process.communicate(timeout=20)
        return self.process.returncode, err


@pytest.fixture
def command():
    """Starts bridges, and ends by pid what a failed test left."""
    made: list[Command] = []

    def start(*words: str) -> Command:
        made.append(Command(*words))
        return made[-1]

    yield start
    for one in made:
        if one.process.poll() is None:
            one.process.kill()
        one.process.communicate()


@pytest.fixture
def short():
    """A directory whose name is short enough for a socket."""
    path = tempfile.mkdtemp(prefix="fc-", dir="/tmp")
    yield Path(path)
    shutil.rmtree(path)


@pytest.fixture
def context():
    """libzmq, ended afterwards."""
    with zmq.Context() as made:
        yield made


def publish_until(
    publisher: zmq.Socket, bridge: Command, reached: Callable[[dict[tuple, float]], bool]
) -> dict[tuple, float]:
    """Publish, as the daemon does every second, until the bridge shows it."""
    deadline = time.monotonic() + 20
    uptime = 0.0
    while time.monotonic() < deadline:
        uptime += 1
        publisher.send_multipart([b"metrics.0", snapshot(uptime=uptime)])
        publisher.send_multipart([b"fleet", fleet()])
        found = bridge.scrape()
        if reached(found):
            return found
        time.sleep(0.05)
    raise AssertionError(f"never: {found}")


def test_the_command_shows_what_is_published_and_comes_back_by_itself(command, short, context):
    """Over ipc: a daemon that starts later, and another one at the same address."""
    endpoint = f"ipc://{short}/metrics.sock"
    bridge = command("--connect", endpoint)
    assert bridge.said == f"{bridge.url} shows {endpoint}\n"
    assert bridge.scrape()[("flowcatd_bridge_connected",)] == 0
    for _ in range(2):
        before = heard(bridge.scrape(), "fleet")
        with closing(context.socket(zmq.XPUB)) as publisher:
            publisher.linger = 0
            publisher.bind(endpoint)
            found = publish_until(
                publisher, bridge, lambda now, before=before: heard(now, "fleet") > before
            )
        assert found[("flowcatd_bridge_connected",)] == 1
        assert found[("flowcatd_calls_started_total",)] == 3
    code, err = bridge.end()
    assert (code, "Traceback" in err) == (0, False), err


def test_a_daemon_that_is_never_heard_is_told_in_the_log(command, short):
    """After ten seconds, with the setting that its endpoint should be; not again and again."""
    bridge = command("--connect", f"ipc://{short}/nobody.sock")
    line = json.loads(bridge.process.stderr.readline())
    assert (line["event"], line["wanted"]) == ("bridge.silenced", "control.metrics_tcp")
    assert line["endpoint"] == f"ipc://{short}/nobody.sock"
    assert bridge.end() == (0, "")


def test_garbage_on_the_wire_is_counted(command, short, context):
    """One frame, three frames, no JSON."""
    endpoint = f"ipc://{short}/metrics.sock"
    bridge = command("--connect", endpoint)
    with closing(context.socket(zmq.XPUB)) as publisher:
        publisher.linger = 0
        publisher.bind(endpoint)
        publish_until(publisher, bridge, lambda now: heard(now, "fleet") > 0)
        for frames in ([b"fleet"], [b"fleet", b"{}", b""], [b"metrics.0", b"\xff"]):
            publisher.send_multipart(frames)
        found = publish_until(publisher, bridge, lambda now: heard(now, "garbage") >= 3)
    assert heard(found, "garbage") == 3
    assert bridge.end(signal.SIGTERM)[0] == 0


def test_it_subscribes_to_figures_and_to_no_call(command, short, context):
    """Call events are nobody's business here."""
    endpoint = f"ipc://{short}/metrics.sock"
    with closing(context.socket(zmq.XPUB)) as publisher:
        publisher.linger = 0
        publisher.rcvtimeo = 20_000
        publisher.bind(endpoint)
        bridge = command("--connect", endpoint)
        assert {publisher.recv(), publisher.recv()} == {b"\x01metrics.", b"\x01fleet"}
    assert bridge.end()[0] == 0


@pytest.mark.skipif(not zmq.has("curve"), reason="this libzmq was built without CURVE")
def test_over_tcp_it_proves_who_it_is(command, short, context):
    """With the daemon's public key and our own secret, in zmq.auth's files; others get nothing."""
    public, _ = zmq.auth.create_certificates(str(short), "server")
    _, secret = zmq.auth.create_certificates(str(short), "client")
    zmq.auth.create_certificates(str(short), "wrong")
    with closing(context.socket(zmq.XPUB)) as publisher:
        publisher.linger = 0
        publisher.curve_publickey, publisher.curve_secretkey = zmq.auth.load_certificate(
            public.replace(".key", ".key_secret")
        )
        publisher.curve_server = True
        port = publisher.bind_to_random_port("tcp://127.0.0.1")
        words = ("--connect", f"tcp://127.0.0.1:{port}", "--client-key", secret)
        wrong = command(*words, "--server-key", f"{short}/wrong.key")
        right = command(*words, "--server-key", public)
        found = publish_until(publisher, right, lambda now: heard(now, "fleet") > 3)
        assert found[("flowcatd_bridge_connected",)] == 1
        assert wrong.scrape()[("flowcatd_bridge_connected",)] == 0
    assert (right.end()[0], wrong.end()[0]) == (0, 0)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (
            ("--connect", "tcp://127.0.0.1:6212"),
            78,
            "--connect: tcp only with CURVE: give --server",
        ),
        (("--connect", "udp://x"), 78, "udp://x is neither ipc://PATH nor tcp://HOST:PORT"),
        (("--connect", "ipc:///tmp/x", "--client-key", "x"), 78, "keys are for tcp"),
        (
            ("--connect", "tcp://h:1", "--server-key", "/no", "--client-key", "/no"),
            78,
            "/no: cannot be read",
        ),
        (("--connect", "ipc:///tmp/x", "--listen", "9464"), 78, "9464 is not HOST:PORT"),
        (("--connect", f"ipc:///{'x' * 200}"), 78, "cannot be connected to"),
        (("--connect", "ipc:///tmp/x", "--listen", "192.0.2.1:80"), 71, "cannot be listened on"),
    ],
)
def test_a_command_line_that_cannot_work_is_told_in_one_line(words, code, said):
    """Before anything is served."""
    script = (
        "import sys; from argparse import ArgumentParser as P; from supervisor import bridge\n"
        "from flowcatd.errors import ConfigError\n"
        "p = P(); bridge.add_arguments(p)\n"
        "try: sys.exit(bridge.run(p.parse_args()))\n"
        "except ConfigError as error: print('flowcatd:', error, file=sys.stderr); sys.exit(78)\n"
    )
    given = words if "--listen" in words else (*words, "--listen", "127.0.0.1:0")
    done = subprocess.run(
        [sys.executable, "-c", script, *given],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr.count("\n")) == (code, 1), done.stderr
    assert said in done.stderr
