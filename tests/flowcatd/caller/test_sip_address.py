"""Facts about addresses for calls over SIP, as a person writes them."""

from __future__ import annotations

import pytest

from flowcatd.audio import g722, opus
from flowcatd.caller.sip_address import DEFAULT, OFFERS, is_sip, resolve
from flowcatd.errors import ConfigError
from flowcatd.sip.session import CODECS


@pytest.mark.parametrize("text", ["sip:", "SIP:", DEFAULT])
def test_the_scheme_alone_is_this_machine_s_daemon(text):
    """What `make run` answers."""
    address = resolve(text)
    assert address.shown.lower() == DEFAULT
    assert (address.host, address.port, address.transport) == ("127.0.0.1", 5060, "UDP")
    assert address.rate_hz == 8000


@pytest.mark.parametrize(
    ("text", "host", "port", "transport", "user"),
    [
        ("sip:bob@host.example", "host.example", 5060, "UDP", "bob"),
        ("sip:+15550100@192.0.2.7:5070;transport=tcp", "192.0.2.7", 5070, "TCP", "+15550100"),
        ("sip:bob@[::1]:5070;transport=UDP", "::1", 5070, "UDP", "bob"),
        ("sip:192.0.2.7", "192.0.2.7", 5060, "UDP", "flowcatd"),
    ],
)
def test_an_address_says_where_and_how(text, host, port, transport, user):
    """Port, transport and user have defaults; brackets belong to the text alone."""
    address = resolve(text)
    assert (address.host, address.port, address.transport) == (host, port, transport)
    assert address.target.user == user


@pytest.mark.parametrize(
    "text", ["sips:bob@host", "sip:bob@host;transport=ws", "sip:bob@", "sip:bob@a b", "tel:1"]
)
def test_what_cannot_be_called_is_told(text):
    """Before anything is sent."""
    with pytest.raises(ConfigError):
        resolve(text if text != "tel:1" else "sip:@:1")


def test_codecs_of_one_offer_have_one_rate():
    """What is said is made before the call, at one rate."""
    for name, offered in OFFERS.items():
        if (name == "g722" and not g722.available()) or (name == "opus" and not opus.available()):
            continue
        address = resolve("sip:", name)
        assert address.codecs == tuple(CODECS[each] for each in offered)
        assert address.rate_hz == (16_000 if name in {"g722", "opus"} else 8000)


def test_a_codec_that_is_none_is_told():
    """With the nearest name."""
    with pytest.raises(ConfigError, match="pcmu"):
        resolve("sip:", "pcmx")


@pytest.mark.parametrize(
    ("text", "meant"), [("sip:x", True), ("SIPS:x", True), ("ws://sip", False)]
)
def test_sip_is_told_apart_from_websockets(text, meant):
    """By its scheme."""
    assert is_sip(text) is meant
