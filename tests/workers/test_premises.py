"""What all calls of a worker have around them: addresses, stamps, ports of the right family, agents."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from flowcatd.errors import CapacityError, LocalError
from flowcatd.sip.event import Hop
from tests.scenarios.sip_phone import bound
from tests.workers.sip_worker import Setting, sip_worker
from workers.steer import read_stamp

FOUR, SIX = Hop("UDP", "127.0.0.1", 5060), Hop("UDP", "::1", 5060)


async def test_a_call_over_ipv6_has_media_over_ipv6_from_the_first_one_on(tmp_path: Path) -> None:
    """A share of which nothing is taken is not nothing."""
    try:
        bound("::1").close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    async with sip_worker(tmp_path, Setting(host6="::1")) as worker:
        premises = worker.sip.premises
        six, four = premises.take_ports(SIX), premises.take_ports(FOUR)
        assert six.pair.rtp.family == socket.AF_INET6
        assert four.pair.rtp.family == socket.AF_INET
        assert premises.local(SIX, six).port == six.pair.port
        for media in (six, four):
            media.give_back()
        again = premises.take_ports_again(SIX, six.pair.port)
        assert again.pair.rtp.family == socket.AF_INET6
        again.give_back()
        assert not worker.left()


async def test_a_family_without_ports_takes_the_other_ones(tmp_path: Path) -> None:
    """A WebSocket may come over IPv6 where only IPv4 has media."""
    async with sip_worker(tmp_path) as worker:
        media = worker.sip.premises.take_ports(SIX)
        assert media.pair.rtp.family == socket.AF_INET
        media.give_back()


@pytest.mark.parametrize("port", [-2, 0, 65_535, 65_536, 70_000])
async def test_what_is_no_port_cannot_be_taken_again(tmp_path: Path, port: int) -> None:
    """A CapacityError, and no socket is left."""
    async with sip_worker(tmp_path) as worker:
        with pytest.raises(CapacityError):
            worker.sip.premises.take_ports_again(FOUR, port)
        assert not worker.left()


async def test_a_token_leads_back_to_this_process(tmp_path: Path) -> None:
    """And is never the same twice."""
    async with sip_worker(tmp_path) as worker:
        tokens = {worker.sip.premises.token() for _ in range(1000)}
        assert len(tokens) == 1000
        stamps = {read_stamp(each) for each in tokens}
        (stamp,) = stamps
        assert stamp is not None
        assert (stamp.slot, stamp.seat) == (0, 0)


async def test_a_contact_names_its_transport_and_its_worker(tmp_path: Path) -> None:
    """UDP is what is meant where nothing is said."""
    async with sip_worker(tmp_path) as worker:
        premises = worker.sip.premises
        here = premises.here(FOUR)
        assert (here.host, here.port) == ("127.0.0.1", worker.port)
        assert str(here.contact) == f"sip:{premises.stamp}@127.0.0.1:{worker.port}"
        over_tcp = premises.here(Hop("TCP", "127.0.0.1", 5060)).contact
        assert over_tcp.parameters == {"transport": "tcp"}


async def test_an_empty_name_is_the_default_agent(tmp_path: Path) -> None:
    """One that is not here is our own mistake."""
    async with sip_worker(tmp_path) as worker:
        assert worker.sip.premises.agent("").name == "echo"
        assert worker.sip.premises.agent("digits").name == "digits"
        with pytest.raises(LocalError):
            worker.sip.premises.agent("gone")
