"""Facts about the SIP ports: which there are, all or none of them taken, and what an upgrade hands on."""

from __future__ import annotations

import socket
from contextlib import closing

import pytest

from flowcatd.errors import LinkRefused
from flowcatd.options import Sip
from supervisor.sip_ports import KeptPort, SipDoors, lacking, sip_ports


def free_port() -> int:
    """A port that nobody has, over UDP and TCP, IPv4 and IPv6."""
    with socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize(
    ("sip", "names"),
    [
        (Sip(), ["udp", "tcp"]),
        (Sip(port=0), []),
        (Sip(tls_port=5061), ["udp", "tcp", "tls"]),
        (Sip(port=0, tls_port=5061), ["tls"]),
        (Sip(host="", host6="::1"), ["udp6", "tcp6"]),
        (Sip(host6="::1", tls_port=1), ["udp", "tcp", "tls", "udp6", "tcp6", "tls6"]),
    ],
)
def test_the_settings_say_which_ports_there_are(sip, names):
    """By name, in one order."""
    assert [port.name for port in sip_ports(sip)] == names


def test_every_door_takes_what_is_sent_to_it():
    """All six, of the first slot; a TCP connection and a datagram each."""
    sip = Sip(host6="::1", port=free_port(), tls_port=free_port())
    with closing(SipDoors.take(sip)) as doors:
        for name, descriptor in doors.open(0).items():
            with socket.socket(fileno=descriptor) as door:
                kind = socket.SOCK_DGRAM if name.startswith("udp") else socket.SOCK_STREAM
                with socket.socket(door.family, kind) as peer:
                    peer.connect(door.getsockname())
                    if kind == socket.SOCK_DGRAM:
                        peer.send(b"x")
                        assert door.recv(10) == b"x"
                    else:
                        door.accept()[0].close()
                door.detach()


@pytest.mark.parametrize(
    ("host", "kind", "key"),
    [
        ("127.0.0.1", socket.SOCK_DGRAM, "port"),
        ("127.0.0.1", socket.SOCK_STREAM, "port"),
        ("::1", socket.SOCK_DGRAM, "port"),
        ("::1", socket.SOCK_STREAM, "tls_port"),
    ],
)
def test_a_taken_port_is_told_by_its_setting(host, kind, key):
    """With the two ways out, and whatever of the others was taken before is free again."""
    ports = {"port": free_port(), "tls_port": free_port()}
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, kind) as other:
        other.bind((host, ports[key]))
        if kind == socket.SOCK_STREAM:
            other.listen()
        with pytest.raises(LinkRefused) as caught:
            SipDoors.take(Sip(host6="::1", **ports))
    said = str(caught.value)
    assert "is taken by another program" in said
    assert f"choose another with --set sip.{key}=…, or none with --set sip.{key}=0" in said
    with closing(SipDoors.take(Sip(host6="::1", **ports))):
        pass


def test_another_daemon_s_reserved_port_is_noticed_before_its_workers_have_it():
    """Two daemons started in the same moment do not share a port."""
    sip = Sip(port=free_port())
    with closing(SipDoors.take(sip)), pytest.raises(LinkRefused, match=r"sip\.port"):
        SipDoors.take(sip)


@pytest.mark.parametrize(
    ("sip", "said"),
    [
        (Sip(host="192.0.2.1"), "192.0.2.1:5060 is no address of this machine"),
        (Sip(host="no-such-host.invalid"), "sip.host 'no-such-host.invalid' is not known"),
    ],
)
def test_an_address_that_is_not_ours_is_told(sip, said):
    """With the setting to change."""
    with pytest.raises(LinkRefused) as caught:
        SipDoors.take(sip)
    assert str(caught.value).startswith(said)
    assert "sip.host" in str(caught.value)


def test_a_port_that_is_not_handed_on_is_named():
    """So that an upgrade is refused before the exec, which cannot be undone."""
    held = KeptPort(reservation=-1, doors={})
    both = {"udp": held, "tcp": held}
    assert lacking(Sip(), both) == []
    assert lacking(Sip(port=0), {}) == []
    assert lacking(Sip(), {}) == ["sip.port"]
    assert lacking(Sip(tls_port=5061, host6="::1"), both) == ["sip.tls_port", "sip.port"]
