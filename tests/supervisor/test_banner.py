"""Facts about what is said when all workers serve."""

from __future__ import annotations

import dataclasses
import json

import pytest

from flowcatd.caller.address import DEFAULT
from flowcatd.environment import runtime_directories
from flowcatd.options import Sip
from supervisor.banner import (
    DEFAULT_URL,
    Reached,
    media_urls,
    render_json,
    render_text,
    sip_uri,
    url_of,
)

REACHED = Reached(
    version="1.2.3",
    host="127.0.0.1",
    port=6210,
    public_url="",
    carriers=("plivo", "raw", "twilio"),
    workers=2,
    agent="appointment",
    records="/kept",
    command="flowcatd",
    seconds=0.8449,
    pid=42,
)


@pytest.mark.parametrize(
    ("host", "public_url", "url"),
    [
        ("127.0.0.1", "", "ws://127.0.0.1:6210"),
        ("0.0.0.0", "", "ws://127.0.0.1:6210"),
        ("::", "", "ws://[::1]:6210"),
        ("::1", "", "ws://[::1]:6210"),
        ("localhost", "", "ws://localhost:6210"),
        ("0.0.0.0", "wss://voice.example.com/", "wss://voice.example.com"),
    ],
)
def test_the_address_is_one_that_can_be_connected_to(host, public_url, url):
    """A wildcard is shown as loopback, a public address wins."""
    assert url_of(dataclasses.replace(REACHED, host=host, public_url=public_url)) == url


def test_every_carrier_has_its_address():
    """The path is the one that workers serve."""
    assert media_urls(REACHED)["plivo"] == "ws://127.0.0.1:6210/telephony/ws/plivo/RUN_ID"
    assert list(media_urls(REACHED)) == ["plivo", "raw", "twilio"]


def test_the_text_says_everything_once():
    """Ready, how long it took, where, how to try it, what is kept, how to end it."""
    text = render_text(REACHED, coloured=False)
    assert text.startswith("flowcatd 1.2.3 is ready: 2 workers, 0.84 s\n")
    for part in ("/twilio/", "make call", "flowcatd call", "appointment", "/kept", "kill -TERM 42"):
        assert text.count(part) == 1
    assert "\x1b" not in text


def test_colours_change_nothing_but_colour():
    """Without its escapes the coloured text is the plain one."""
    coloured = render_text(REACHED, coloured=True)
    assert "\x1b[1m" in coloured
    for escape in ("\x1b[1m", "\x1b[2m", "\x1b[0m"):
        coloured = coloured.replace(escape, "")
    assert coloured == render_text(REACHED, coloured=False)


@pytest.mark.parametrize(
    ("control", "said"),
    [
        (f"ipc://{runtime_directories('', 6210)[0]}/control.sock", "flowcatd status\n"),
        ("ipc:///run/flowcatd/control.sock", "flowcatd status\n"),
        ("ipc:///elsewhere/control.sock", "status --connect ipc:///elsewhere/control.sock\n"),
    ],
)
def test_the_operators_command_is_one_that_finds_this_daemon(control, said):
    """Where nobody would look, it says where."""
    text = render_text(dataclasses.replace(REACHED, control=control), coloured=False)
    assert said in text


def test_one_worker_is_singular_and_no_records_are_said():
    """Small words matter to people."""
    text = render_text(dataclasses.replace(REACHED, workers=1, records=""), coloured=False)
    assert "1 worker," in text
    assert "none are kept" in text


def test_json_is_one_line_with_every_fact():
    """For programs."""
    line = render_json(REACHED)
    facts = json.loads(line)
    assert line.count("\n") == 1
    assert facts.keys() >= {field.name for field in dataclasses.fields(Reached)} | {"url", "media"}
    assert (facts["event"], facts["seconds"]) == ("ready", 0.845)


def test_another_address_is_part_of_the_command():
    """What stands there can be copied and works."""
    text = render_text(dataclasses.replace(REACHED, port=7000), coloured=False)
    assert "  call it  flowcatd call ws://127.0.0.1:7000\n" in text


def test_the_default_address_is_the_caller_s():
    """Both rooms mean the same; neither may import the other."""
    assert DEFAULT_URL == DEFAULT


@pytest.mark.parametrize(
    ("sip", "uri"),
    [
        (Sip(), "sip:127.0.0.1:5060"),
        (Sip(port=0), ""),
        (Sip(host="0.0.0.0", port=5070), "sip:127.0.0.1:5070"),
        (Sip(host="", host6="::"), "sip:[::1]:5060"),
        (Sip(port=0, tls_port=5061), "sip:127.0.0.1:5061;transport=tls"),
        (Sip(host="0.0.0.0", public_host="sip.example.com"), "sip:sip.example.com:5060"),
    ],
)
def test_the_sip_address_is_one_that_can_be_called(sip, uri):
    """Like the media sockets': a wildcard is shown as loopback, a public address wins."""
    assert sip_uri(sip) == uri


def test_a_softphone_is_told_of_where_one_may_call():
    """As anybody, beside the other way to call; not where it would be refused."""
    reached = dataclasses.replace(REACHED, sip="sip:127.0.0.1:5060", has_softphones=True)
    assert "a softphone   sip:anyone@127.0.0.1:5060\n" in render_text(reached, coloured=False)
    assert json.loads(render_json(reached))["sip"] == "sip:127.0.0.1:5060"
    for other in ({"sip": ""}, {"has_softphones": False}):
        text = render_text(dataclasses.replace(reached, **other), coloured=False)
        assert "softphone" not in text
