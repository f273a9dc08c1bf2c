"""What a person writes and what is connected to."""

from __future__ import annotations

import pytest

from flowcatd.caller.address import DEFAULT, resolve
from flowcatd.carriers.events import Encoding
from flowcatd.errors import ConfigError


def place(url: str, carrier: str = "", agent: str = ""):
    """The address for run `r1`."""
    return resolve(url, carrier=carrier, agent=agent, run_id="r1")


@pytest.mark.parametrize(
    ("url", "carrier", "agent", "expected"),
    [
        (DEFAULT, "", "", "ws://127.0.0.1:6210/telephony/ws/twilio/r1?events=1"),
        (DEFAULT, "plivo", "echo", "ws://127.0.0.1:6210/telephony/ws/plivo/r1?events=1&agent=echo"),
        ("localhost:7000", "raw", "", "ws://localhost:7000/telephony/ws/raw/r1?events=1"),
        ("https://example.org/", "", "", "wss://example.org/telephony/ws/twilio/r1?events=1"),
        ("http://[::1]:6210", "", "", "ws://[::1]:6210/telephony/ws/twilio/r1?events=1"),
        (
            "ws://h:1/telephony/ws/raw/x?rate=16000&token=a%26b",
            "",
            "echo",
            "ws://h:1/telephony/ws/raw/x?rate=16000&token=a%26b&events=1&agent=echo",
        ),
        ("ws://h:1/other?events=0", "", "", "ws://h:1/other?events=0"),
    ],
)
def test_an_address_is_completed(url, carrier, agent, expected):
    """The path and the wish for notices are ours, everything else is the person's."""
    assert place(url, carrier, agent).url == expected


def test_the_carrier_is_read_from_the_path():
    """Whoever writes a whole address need not say it twice."""
    address = place("ws://h:1/telephony/ws/raw/x?encoding=pcm&rate=16000")
    assert address.row.name == "raw"
    assert (address.encoding, address.rate_hz) == (Encoding.PCM, 16000)


def test_carriers_have_their_own_format():
    """A telephone's, where the address does not choose."""
    address = place(DEFAULT, "plivo")
    assert (address.encoding, address.rate_hz) == (Encoding.MULAW, 8000)


def test_what_is_shown_has_no_token():
    """The query stays out of messages."""
    assert place("ws://h:1/?token=secret").shown == "ws://h:1/telephony/ws/twilio/r1"


@pytest.mark.parametrize(
    ("url", "carrier", "names"),
    [
        ("ftp://h", "", "ws://host"),
        ("ws:///path", "", "ws://host"),
        (DEFAULT, "twillio", "did you mean 'twilio'"),
        ("ws://h/telephony/ws/raw/x?rate=11025", "", "rate must be one of"),
    ],
)
def test_a_wrong_address_says_what_is_allowed(url, carrier, names):
    """In words for whoever wrote it."""
    with pytest.raises(ConfigError, match=names):
        place(url, carrier)
