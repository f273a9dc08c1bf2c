"""Kamailio in front: telephones and the daemon register there, and call each other through it.

Registrations live in Kamailio's memory, so killing it is a registrar that has forgotten everybody. The
softphone of pyVoIP, too, needs somebody to register with, so its calls are here.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.interop.baresip import baresip
from tests.interop.kamailio import PASSWORD, REALM, kamailio
from tests.interop.place import NUMBER, answerer
from tests.interop.programs import Program, free_ports, needs, program
from tests.interop.sound import listen
from tests.scenarios.daemon import until

pytestmark = [pytest.mark.interop, pytest.mark.scenario, needs("kamailio")]

TRUNK = """\
[trunk]
name = "kamailio"
proxies = ["sip:127.0.0.1:{port}"]
transport = "udp"
domain = "{realm}"
options_seconds = 2
[account]
user = "flowcatd"
password = "file:{password}"
[register]
enabled = true
registrar = "sip:{realm}"
seconds = 30
[inbound]
peer_is_source = true
calls_per_second = 100
[identity]
caller_id = "+4930123456"
from_user = "account"
[outbound]
enabled = true
prefixes = ["+49"]
calls_per_second = 100
[[route]]
agent = "echo"
"""
PYVOIP = Path(__file__).with_name("pyvoip_phone.py")
has_pyvoip = pytest.mark.skipif(
    importlib.util.find_spec("pyVoIP") is None,
    reason="pyVoIP is missing: uv sync --inexact --group bench",
)


@asynccontextmanager
async def registered(tmp_path: Path, port: int) -> AsyncIterator:
    """A daemon that is registered at the Kamailio of this port as `flowcatd`."""
    secret = tmp_path / "password"
    secret.write_text(PASSWORD)
    secret.chmod(0o600)
    trunk = TRUNK.format(port=port, realm=REALM, password=secret)
    async with answerer(tmp_path / "daemon", trunks={"kamailio": trunk}) as far:
        yield far


def at(port: int, user: str) -> str:
    """Parameters of a baresip account at this Kamailio."""
    return f';regint=60;outbound="sip:127.0.0.1:{port}";auth_user={user};auth_pass={PASSWORD}'


async def test_calls_go_both_ways_through_a_proxy_that_stays_in_the_route(tmp_path: Path) -> None:
    """Both register with digest; the phone calls us, we call the phone, and it hangs up each."""
    port = free_ports()
    async with (
        kamailio(tmp_path / "kamailio", port) as proxy,
        registered(tmp_path, port) as far,
        baresip(tmp_path / "phone", user=NUMBER, domain=REALM, account=at(port, NUMBER)) as phone,
    ):
        await proxy.says("REGISTERED flowcatd")
        await proxy.says(f"REGISTERED {NUMBER}")
        await phone.call(f"sip:flowcatd@{REALM}")
        await phone.hears(1.0)
        await phone.hang_up()
        inbound = await far.new_record(0)
        await proxy.says("SEEN BYE")
        await far.place(NUMBER, trunk="kamailio")
        await phone.sees("CALL_ESTABLISHED", 2)
        await phone.hears(1.0)
        await phone.hang_up()
        outbound = await far.new_record(1)
        assert listen(phone.heard()).pure > 0.5
    assert inbound["sip"]["trunk"] == outbound["sip"]["trunk"] == "kamailio"
    assert (inbound["ended_by"], outbound["ended_by"]) == ("caller", "caller")
    assert outbound["sip"]["direction"] == "outbound"


@pytest.mark.long
async def test_a_registrar_that_was_killed_knows_us_again(tmp_path: Path) -> None:
    """Kamailio is killed, and another started in its place: we are registered there, unasked."""
    port = free_ports()
    async with kamailio(tmp_path / "kamailio", port) as first, registered(tmp_path, port):
        await first.says("REGISTERED flowcatd")
        first.kill()
        await first.ended()
        async with kamailio(tmp_path / "kamailio", port, log="second") as second:
            await second.says("REGISTERED flowcatd", within=60)


@asynccontextmanager
async def pyvoip(place: Path, server_port: int) -> AsyncIterator[Program]:
    """A pyVoIP telephone in a process of its own, registered at this Kamailio."""
    ports = (free_ports(), free_ports(100))
    words = [NUMBER, str(server_port), str(ports[0]), str(ports[1]), str(ports[1] + 98)]
    async with program(sys.executable, str(PYVOIP), *words, place=place) as phone:
        await phone.says("REGISTERED")
        yield phone
        phone.write("quit")
        await phone.ended()


@has_pyvoip
async def test_pyvoip_calls_us_hears_itself_and_hangs_up(tmp_path: Path) -> None:
    """A softphone that shares no code with anybody else here."""
    port = free_ports()
    async with (
        kamailio(tmp_path / "kamailio", port) as proxy,
        registered(tmp_path, port) as far,
        pyvoip(tmp_path / "phone", port) as phone,
    ):
        await proxy.says("REGISTERED flowcatd")
        phone.write("call flowcatd")
        await phone.says("ANSWERED")
        phone.write("hear 2")
        await phone.says("HEARD ")
        phone.write("hangup")
        await phone.says("ENDED")
        record = await far.new_record(0)
    frames = int(phone.log.split("HEARD ", 1)[1].split()[0])
    assert frames > 50, phone.log
    assert (record["ended_by"], record["sip"]["trunk"]) == ("caller", "kamailio")


@has_pyvoip
@pytest.mark.long
async def test_we_call_pyvoip_and_hang_up(tmp_path: Path) -> None:
    """It answers, hears itself, and sees our BYE when the daemon is told to end its calls."""
    port = free_ports()
    async with (
        kamailio(tmp_path / "kamailio", port) as proxy,
        registered(tmp_path, port) as far,
        pyvoip(tmp_path / "phone", port) as phone,
    ):
        await proxy.says("REGISTERED flowcatd")
        await far.place(NUMBER, trunk="kamailio")
        await phone.says("ANSWERED")
        phone.write("hear 1")
        await phone.says("HEARD ")
        assert far.daemon is not None
        await far.daemon.end()
        await phone.says("ENDED")
        await until(lambda: bool(far.records()), "the record")
