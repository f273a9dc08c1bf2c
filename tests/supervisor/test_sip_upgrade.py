"""Facts about SIP ports and upgrades: the real daemon hands its sockets on, or refuses before the exec."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from supervisor.holdings import Kept
from supervisor.upgrade import Handed
from tests.scenarios.daemon import FLOWCATD, running, until

OPTIONS = (
    "OPTIONS sip:anyone@127.0.0.1 SIP/2.0\r\n"
    "Via: SIP/2.0/UDP 127.0.0.1:{port};branch=z9hG4bKu{port};rport\r\n"
    "From: <sip:test@127.0.0.1>;tag=t\r\nTo: <sip:anyone@127.0.0.1>\r\n"
    "Call-ID: upgrade-{port}@127.0.0.1\r\nCSeq: 1 OPTIONS\r\nMax-Forwards: 70\r\n"
    "Content-Length: 0\r\n\r\n"
)


def free_port() -> int:
    """A port that nobody has, over IPv4 and IPv6."""
    with socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::", 0))
        return int(probe.getsockname()[1])


def sockets_on(pid: int, port: int) -> set[str]:
    """The process's sockets on this port: protocol and inode (proc_net(5))."""
    mine = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        try:
            mine.add(str(fd.readlink()))
        except FileNotFoundError:
            continue
    found = set()
    for protocol in ("udp", "udp6", "tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{protocol}").read_text().splitlines()[1:]:
            words = line.split()
            if int(words[1].rpartition(":")[2], 16) == port and f"socket:[{words[9]}]" in mine:
                found.add(f"{protocol} {words[9]}")
    return found


def ask(port: int) -> bytes:
    """What the daemon says to OPTIONS."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as phone:
        phone.settimeout(10)
        phone.connect(("127.0.0.1", port))
        phone.send(OPTIONS.format(port=phone.getsockname()[1]).encode())
        return phone.recv(65_535)


@pytest.mark.scenario
@pytest.mark.timeout(120)
async def test_an_upgrade_keeps_every_sip_socket(tmp_path: Path) -> None:
    """The same sockets before and after, of both families, and they are answered."""
    port = free_port()
    settings = ("workers.count=1", f"sip.port={port}", "sip.host6=::1")
    async with running(tmp_path, *settings) as daemon:
        assert daemon.ready["sip"] == f"sip:127.0.0.1:{port}"
        pid = daemon.process.pid
        before = sockets_on(pid, port)
        # Reservations do not listen, and are not listed.
        assert sorted(each.split()[0] for each in before) == ["tcp", "tcp6", "udp", "udp6"]
        assert (await asyncio.to_thread(ask, port)).startswith(b"SIP/2.0 ")
        daemon.tell(signal.SIGUSR2)
        await until(lambda: bool(daemon.log("fleet.reloaded")), "the upgrade", within=60)
        assert daemon.log("fleet.upgraded")
        assert sockets_on(pid, port) == before
        assert (await asyncio.to_thread(ask, port)).startswith(b"SIP/2.0 ")


@pytest.mark.parametrize(
    ("version", "sip_port", "code", "said"),
    [
        (1, 5060, 78, "sip.port: cannot be opened while the daemon runs; restart it"),
        (1, 0, 0, "flowcatd "),
        (99, 0, 78, "cannot take over from the one that runs"),
    ],
)
def test_a_former_version_s_ports_are_not_enough_for_sip(
    tmp_path: Path, version: int, sip_port: int, code: int, said: str
) -> None:
    """It had one UDP port: the running daemon is told, and goes on as it is."""
    (tmp_path / "my.toml").write_text("[agents]\ndefault = 'echo'\n")
    nothing = {"reservation": -1, "doors": {}, "sip_doors": {"0": 9}, "seats": -1, "metrics": -1}
    kept = {"host": "", "port": 1, "alive": [-1, -1], "ready": {}, "runtime": "", "lock": -1}
    handed = {"version": version, "kept": nothing | kept, "lives": [], "generation": 1}
    handed |= {
        "restarts": 0,
        "begun": 0.0,
        "ask": "",
        "switchboard": [0, -1],
        "fixed": {},
        "count": 1,
    }
    (tmp_path / "state").write_text(json.dumps(handed))
    assert set(Handed.__struct_fields__) == set(handed)
    assert set(Kept.__struct_fields__) - set(nothing | kept) == {"sip", "trunk_counts"}
    command = [str(FLOWCATD), "serve", "--can-take-over", str(version), "--config", "my.toml"]
    with (tmp_path / "state").open("rb") as state:
        done = subprocess.run(
            [*command, "--set", f"sip.port={sip_port}"],
            cwd=tmp_path,
            env=dict(os.environ),
            stdin=state,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == code, done.stderr
    assert said in done.stdout
