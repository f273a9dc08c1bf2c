"""Offer and answer: every answer keeps RFC 3264, checked line by line by a reader that shares no code.

The peers are bodies of the corpus, bodies drawn at random, and our own other end.
"""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.errors import LocalError
from flowcatd.sip.attribute import Attribute, Direction, Fingerprint
from flowcatd.sip.offer import Negotiation, Snapshot, State
from flowcatd.sip.session import (
    G722,
    OPUS,
    PCMA,
    PCMU,
    Capabilities,
    Dtls,
    Incoming,
    Local,
    Sdes,
    Secrecy,
    Session,
)
from flowcatd.sip.trouble import SipError

CORPUS = Path(__file__).parents[2] / "corpus" / "sdp"
OUR_PRINT = Fingerprint("sha-256", ":".join(["0F"] * 32))
HERE = Local("192.0.2.1", 10_000, fingerprint=OUR_PRINT)
HERE_6 = replace(HERE, host="2001:db8::1")
THERE = Local("192.0.2.2", 20_000, fingerprint=Fingerprint("sha-256", ":".join(["F0"] * 32)))
ALL = Capabilities()
HEAD = "v=0\no=peer 7 1 IN IP4 192.0.2.9\ns=-\nc=IN IP4 192.0.2.9\nt=0 0\n"


def call(capabilities: Capabilities = ALL, local: Local = HERE, fill: int = 1) -> Negotiation:
    """Our end of a new call; its SRTP keys are this byte."""
    return Negotiation(capabilities, local, "4711", lambda length: bytes([fill]) * length)


def body(name: str) -> str:
    """A body of the corpus."""
    return (CORPUS / f"{name}.sdp").read_bytes().decode()


def offered(*lines: str, head: str = HEAD) -> str:
    """A peer's body."""
    return head + "".join(f"{line}\n" for line in lines)


def agreed(text: str, capabilities: Capabilities = ALL, local: Local = HERE) -> Session:
    """What a first offer of theirs comes to."""
    ours = call(capabilities, local)
    answer = ours.receive_offer(text)
    keeps_the_rules(text, answer)
    assert ours.session is not None
    return ours.session


# The independent reader: lines, and nothing of the room's own code.


def sections(text: str) -> tuple[list[str], list[list[str]]]:
    """The session's lines, and those of each m= section."""
    head: list[str] = []
    parts: list[list[str]] = []
    for line in re.split(r"\r\n|\r|\n", text):
        stripped = line.strip()
        if stripped.startswith("m="):
            parts.append([])
        if stripped:
            (parts[-1] if parts else head).append(stripped)
    return head, parts


def direction(head: list[str], part: list[str]) -> str:
    """The direction of a section."""
    words = ("sendrecv", "sendonly", "recvonly", "inactive")
    found = [line[2:] for line in [*part, *head] if line[2:] in words]
    return found[0] if found else "sendrecv"


def names(part: list[str]) -> dict[str, str]:
    """What each payload type of a section is called, with clock and channels."""
    usual = {"0": "pcmu/8000", "8": "pcma/8000", "9": "g722/8000", "13": "cn/8000"}
    maps: dict[str, str] = {}
    for line in part:
        match = re.match(r"a=rtpmap:\s*(\d+)\s+(\S+)", line)
        if match:
            maps.setdefault(match[1], match[2].lower().removesuffix("/1"))
    words = part[0].split()[3:]
    return {word: (usual | maps)[word] for word in words if word in usual | maps}


ALLOWED = {
    "sendrecv": {"sendrecv", "sendonly", "recvonly", "inactive"},
    "sendonly": {"recvonly", "inactive"},
    "recvonly": {"sendonly", "inactive"},
    "inactive": {"inactive"},
}


def keeps_the_rules(offer: str, answer: str) -> None:
    """RFC 3264 §6, RFC 5761 §5.1.1, RFC 4568 §5.1.2, RFC 5763 §5, RFC 8866 §9."""
    offer_head, asked = sections(offer)
    head, told = sections(answer)
    assert answer.replace("\r\n", "").isprintable()
    assert [line[0] for line in head if line[0] != "a"] == ["v", "o", "s", "c", "t"]
    times = [line for line in offer_head if line.startswith("t=")] or ["t=0 0"]
    assert [line for line in head if line.startswith("t=")] == times
    assert len(asked) == len(told)
    live = 0
    for theirs, ours in zip(asked, told, strict=True):
        (kind, port, proto, *_), (our_kind, our_port, our_proto, *formats) = (
            part[0][2:].split() for part in (theirs, ours)
        )
        assert (kind.lower(), proto) == (our_kind, our_proto)
        assert formats
        if our_port == "0":
            continue
        live += 1
        assert port.partition("/")[0] != "0"
        assert direction(head, ours) in ALLOWED[direction(offer_head, theirs)]
        known = set(names(theirs).values())
        # Opus is 48000/2 by its RFC, also to a peer that wrote it without.
        known |= {"opus/48000/2"} if "opus/48000" in known else set()
        assert list(names(ours)) == formats
        assert set(names(ours).values()) <= known
        assert [line for line in ours if line.startswith("a=rtpmap")]
        assert "a=rtcp-mux" not in ours or "a=rtcp-mux" in theirs
        keeps_secrecy(offer_head + theirs, ours, proto)
    assert live == 1


def keeps_secrecy(theirs: list[str], ours: list[str], proto: str) -> None:
    """One key with an offered tag and suite, or a certificate and who opens; never neither for SAVP."""
    keys = [line.split()[:2] for line in ours if line.startswith("a=crypto:")]
    prints = [line for line in ours if line.startswith("a=fingerprint:")]
    assert len(keys) + len(prints) <= 1
    assert not ("SAVP" in proto and not keys and not prints)
    assert all(key in [line.split()[:2] for line in theirs] for key in keys)
    if prints:
        setup = next(line[8:] for line in ours if line.startswith("a=setup:"))
        asked = next((line[8:] for line in theirs if line.startswith("a=setup:")), "active")
        assert setup in {"actpass": {"active", "passive"}, "active": {"passive"}}.get(
            asked, {"active"}
        )


def origins(text: str) -> list[str]:
    """The words of o=."""
    return next(line for line in text.splitlines() if line.startswith("o=")).split()


def keeps_origin_rules(texts: list[str]) -> None:
    """RFC 3264 §8: all but the version stays, which grows by one if and only if the text changed."""
    for before, after in pairwise(texts):
        old, new = origins(before), origins(after)
        assert old[:2] + old[3:] == new[:2] + new[3:]
        same = [x for x in before.splitlines() if x[:2] != "o="] == [
            x for x in after.splitlines() if x[:2] != "o="
        ]
        assert int(new[2]) - int(old[2]) == (0 if same else 1)


# What devices offer.

EXPECTED = {
    "asterisk": (PCMA, 8, 101, 8_000),
    "asterisk_chan_sip_best_effort": (G722, 9, 101, 8_000),
    "chrome": (OPUS, 111, 110, 48_000),
    "cisco_cube": (PCMU, 0, 101, 8_000),
    "cisco_ucm_hold": (PCMU, 0, 101, 8_000),
    "fax_gateway": (PCMA, 8, None, None),
    "firefox": (OPUS, 109, 101, 8_000),
    "freeswitch": (OPUS, 102, 103, 48_000),
    "linphone": (OPUS, 96, 101, 48_000),
    "plivo": (PCMU, 0, 101, 8_000),
    "polycom": (G722, 9, 127, 8_000),
    "sloppy": (PCMU, 0, 101, 8_000),
    "teams_sbc": (G722, 9, 101, 8_000),
    "telnyx": (G722, 9, 101, 8_000),
    "text_phone": (PCMU, 0, None, None),
    "twilio": (PCMU, 0, 101, 8_000),
    "volte_gateway": (PCMA, 8, 100, 8_000),
    "yealink": (G722, 9, 101, 8_000),
    "zoiper": (PCMU, 0, 101, 8_000),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_real_devices_offer_is_answered(name):
    """The first of its codecs that we have, its own numbers, the telephone-event of the codec's clock."""
    text = body(name)
    session = agreed(text, local=HERE_6 if "IP6 2001" in text else HERE)
    codec, payload, event, clock_hz = EXPECTED[name]
    assert (session.codec, session.send_payload) == (codec, payload)
    assert session.incoming[0] == Incoming(payload, codec)
    told = session.events
    assert (told and told.send_payload, told and told.clock_hz) == (event, clock_hz)


def test_every_body_of_the_corpus_is_expected():
    """A new one gets its line above."""
    assert {path.stem for path in CORPUS.glob("*.sdp")} == set(EXPECTED)


CODEC_LINES = {
    "0": (),
    "8": ("a=rtpmap:8 PCMA/8000",),
    "9": ("a=rtpmap:9 G722/8000/1",),
    "13": (),
    "18": ("a=rtpmap:18 G729/8000",),
    "96": ("a=rtpmap:96 opus/48000/2", "a=fmtp:96 stereo=1"),
    "101": ("a=rtpmap:101 telephone-event/8000", "a=fmtp:101 0-15"),
    "111": ("a=rtpmap:111 iLBC/8000",),
    "120": ("a=rtpmap:120 telephone-event/48000",),
}
PRINT = "a=fingerprint:sha-256 " + ":".join(["AB"] * 32)
SECRETS = {
    "RTP/AVP": ((),),
    "RTP/AVPF": ((), ("a=crypto:4 AES_CM_128_HMAC_SHA1_32 inline:" + "A" * 40,)),
    "RTP/SAVP": (
        ("a=crypto:9 AES_CM_128_HMAC_SHA1_80 inline:" + "B" * 40,),
        ("a=crypto:1 UNKNOWN inline:AAAA", "a=crypto:2 AES_CM_128_HMAC_SHA1_32 inline:" + "C" * 40),
        (),
    ),
    "UDP/TLS/RTP/SAVPF": ((PRINT, "a=setup:actpass"), (PRINT, "a=setup:passive"), (PRINT,)),
}


@st.composite
def stream(draw, kind="audio"):
    """The lines of an m= section."""
    payloads = draw(st.lists(st.sampled_from(sorted(CODEC_LINES)), min_size=1, unique=True))
    proto = draw(st.sampled_from(sorted(SECRETS)))
    port = draw(st.sampled_from([0, 9, 5004, 65_534]))
    lines = [f"m={kind} {port} {proto} {' '.join(payloads)}"]
    lines += draw(st.sampled_from([[], ["c=IN IP4 0.0.0.0"], ["c=IN IP4 192.0.2.77"]]))
    lines += [line for payload in payloads for line in CODEC_LINES[payload]]
    lines += draw(st.sampled_from(SECRETS[proto]))
    words = ["sendrecv", "sendonly", "recvonly", "inactive", "rtcp-mux", "ptime:30", "mid:m"]
    lines += [f"a={word}" for word in draw(st.lists(st.sampled_from(words), max_size=3))]
    return lines


@st.composite
def offers(draw):
    """A peer's whole offer: audio streams between others."""
    kinds = draw(st.lists(st.sampled_from(["audio", "audio", "video"]), max_size=4))
    parts = [line for kind in kinds for line in draw(stream(kind))]
    return offered(*parts)


SECRECIES = st.sampled_from(Secrecy)


@given(offers(), SECRECIES, st.booleans(), st.booleans())
def test_every_answer_keeps_the_rules(text, secrecy, own_order, held):
    """Whatever is offered, and whatever we want: an answer by the RFC, or 488 and nothing changed."""
    ours = call(Capabilities(secrecy=secrecy, prefers_own_order=own_order))
    ours.is_held = held
    try:
        answer = ours.receive_offer(text)
    except SipError as error:
        if error.status != 488:
            raise
        assert (ours.session, ours.state) == (None, State.SETTLED)
        return
    keeps_the_rules(text, answer)
    session = ours.session
    assert session is not None
    assert not (session.direction.sends and session.rtp is None)
    assert ours.receive_offer(text) == answer
    assert ours.session == session


STEPS = st.lists(st.sampled_from(["a", "b", "a-", "b-", "ha", "hb", "ra", "rb"]), max_size=12)


@given(STEPS, SECRECIES, st.permutations([PCMU, PCMA, G722, OPUS]), st.permutations([PCMU, OPUS]))
def test_chains_of_offers_keep_the_origin_and_both_ends_agree(steps, secrecy, ours, theirs):
    """Either end offers, refreshes, is refused, holds and resumes: o= rules, and one view of the call."""
    both = {
        "a": call(Capabilities(tuple(ours), secrecy), HERE, 1),
        "b": call(Capabilities(tuple(theirs), secrecy), THERE, 2),
    }
    said: dict[str, list[str]] = {"a": [], "b": []}

    def exchange(first: str, second: str, offer: str) -> None:
        said[first].append(offer)
        answer = both[second].receive_offer(offer)
        said[second].append(answer)
        keeps_the_rules(offer, answer)
        both[first].receive_answer(answer)

    exchange("a", "b", both["a"].offer())
    for step in steps:
        first = step[-1] if step[0] in "hr" else step[0]
        second = "b" if first == "a" else "a"
        if step[0] == "h":
            both[first].is_held = not both[first].is_held
        elif step.endswith("-"):
            said[first].append(both[first].offer())
            both[first].withdraw()
        else:
            end = both[first]
            exchange(first, second, end.refresh() if step[0] == "r" else end.offer())
        one, other = both["a"].session, both["b"].session
        assert one is not None
        assert other is not None
        agree_with_each_other(one, other)
    keeps_origin_rules(said["a"])
    keeps_origin_rules(said["b"])


def agree_with_each_other(one: Session, other: Session) -> None:
    """What one sends is what the other expects, in codec, numbers, keys and direction."""
    assert one.codec == other.codec
    for x, y in ((one, other), (other, one)):
        assert Incoming(x.send_payload, x.codec) in y.incoming
        assert not x.direction.sends or y.direction.receives
        assert bool(x.events) == bool(y.events)
        if x.events and y.events:
            assert x.events.send_payload in y.events.receive_payloads
            assert x.events.clock_hz == y.events.clock_hz
        assert type(x.secrecy) is type(y.secrecy)
        if isinstance(x.secrecy, Sdes) and isinstance(y.secrecy, Sdes):
            assert x.secrecy.send == y.secrecy.receive
        if isinstance(x.secrecy, Dtls) and isinstance(y.secrecy, Dtls):
            assert x.secrecy.is_client != y.secrecy.is_client


# Single facts.


def test_our_offer_has_stable_numbers_and_an_event_for_each_clock():
    """All codecs in our order, G.722 at its clock of 8000, Opus with two channels."""
    text = call().offer()
    head, (audio,) = sections(text)
    assert audio[0] == "m=audio 10000 RTP/AVP 0 8 9 111 13 101 110"
    assert names(audio) == {
        "0": "pcmu/8000",
        "8": "pcma/8000",
        "9": "g722/8000",
        "111": "opus/48000/2",
        "13": "cn/8000",
        "101": "telephone-event/8000",
        "110": "telephone-event/48000",
    }
    assert head[1] == "o=- 4711 1 IN IP4 192.0.2.1"
    assert direction(head, audio) == "sendrecv"


def test_all_that_we_offered_may_arrive_before_the_answer():
    """RFC 3264 §5.1: early media may be of any codec of the open offer."""
    ours = call()
    assert ours.expected == ()
    ours.offer()
    assert [each.payload for each in ours.expected] == [0, 8, 9, 111]
    ours.receive_answer(offered("m=audio 4000 RTP/AVP 8"))
    assert ours.expected == (Incoming(8, PCMA),)


def test_payload_types_may_differ_by_direction():
    """We offer Opus as 111, they answer 96: we send 96 and are sent 111 (RFC 3264 §5.1)."""
    ours = call()
    ours.offer()
    session = ours.receive_answer(
        offered(
            *("m=audio 4000 RTP/AVP 96 97", "a=rtpmap:96 opus/48000/2"),
            *("a=rtpmap:97 telephone-event/48000", "a=fmtp:97 0-11"),
        )
    )
    assert (session.codec, session.send_payload) == (OPUS, 96)
    # 96 is understood too: many peers send with their own number.
    assert session.incoming == (Incoming(111, OPUS), Incoming(96, OPUS))
    assert session.events is not None
    assert (session.events.send_payload, session.events.receive_payloads) == (97, (110, 97))
    assert session.events.understood == frozenset(range(12))


def test_an_answer_without_rtpmaps_means_what_we_offered():
    """And stale rtpmaps of codecs that it does not list change nothing."""
    ours = call()
    ours.offer()
    session = ours.receive_answer(offered("m=audio 4000 RTP/AVP 111 110", "a=rtpmap:0 PCMU/8000"))
    assert (session.codec, session.send_payload) == (OPUS, 111)
    assert session.events is not None
    assert session.events.clock_hz == 48_000


def test_an_answer_with_several_codecs_lets_all_of_them_arrive():
    """We send the first, and the peer may change among them without a word (RFC 3264 §5.1)."""
    ours = call()
    ours.offer()
    session = ours.receive_answer(offered("m=audio 4000 RTP/AVP 8 18 0 101"))
    assert session.codec == PCMA
    assert session.incoming == (Incoming(8, PCMA), Incoming(0, PCMU))


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (("m=audio 4000 RTP/AVP 18",), "codec"),
        (("m=audio 4000 RTP/AVP 120",), "codec"),
        (("m=audio 4000 RTP/AVP 0", "m=video 4002 RTP/AVP 31"), "2 media"),
        ((), "0 media"),
        (("m=video 4000 RTP/AVP 0",), "order"),
        (("m=audio 0 RTP/AVP 0",), "refused"),
        (("m=audio 4000 RTP/SAVP 0",), "transport"),
    ],
)
def test_a_wrong_answer_is_an_error_and_leaves_the_offer_open(lines, problem):
    """Wrong payloads, more or fewer streams, another order, another transport."""
    ours = call()
    ours.offer()
    with pytest.raises(SipError, match=problem) as caught:
        ours.receive_answer(offered(*lines))
    assert caught.value.status == 488
    assert (ours.state, ours.session) == (State.OFFERED, None)
    assert ours.receive_answer(offered("m=audio 4000 RTP/AVP 0")).codec == PCMU


def test_a_provisional_answer_binds_nobody():
    """The 183 of one branch, then the 200 of another, with other codec and address."""
    ours = call()
    ours.offer()
    early = ours.receive_answer(offered("m=audio 4000 RTP/AVP 0"), final=False)
    assert (early.codec, ours.state, ours.session) == (PCMU, State.OFFERED, None)
    final = ours.receive_answer(offered("m=audio 5000 RTP/AVP 8"))
    assert (final.codec, final.rtp) == (PCMA, ("192.0.2.9", 5000))
    assert ours.session == final


def test_a_refused_offer_changes_nothing_but_the_version():
    """After a 488 or 491 the call goes on as it was; the next text has a number of its own."""
    ours = call()
    texts = [ours.receive_offer(body("twilio"))]
    before = ours.session
    ours.is_held = True
    texts.append(ours.offer())
    ours.withdraw()
    assert ours.session == before
    ours.is_held = False
    texts.append(ours.receive_offer(body("twilio")))
    keeps_origin_rules(texts)
    assert [origins(text)[2] for text in texts] == ["1", "2", "3"]


def test_crossing_offers_are_491():
    """Whose turn it then is knows the dialog."""
    ours = call()
    ours.offer()
    with pytest.raises(SipError) as caught:
        ours.receive_offer(body("twilio"))
    assert caught.value.status == 491
    with pytest.raises(LocalError):
        ours.offer()


def test_steps_out_of_turn_are_local_errors():
    """An answer, a withdrawal or a refresh without what it belongs to."""
    ours = call()
    for step in (lambda: ours.receive_answer(body("twilio")), ours.withdraw, ours.refresh):
        with pytest.raises(LocalError):
            step()


def test_the_same_offer_again_gets_the_same_answer():
    """A session refresh: same version, word for word (RFC 3264 §8)."""
    ours = call()
    first = ours.receive_offer(body("yealink"))
    assert ours.receive_offer(body("yealink")) == first
    assert ours.refresh() == first


def test_a_reordered_offer_keeps_the_codec():
    """A peer that lists its codecs anew does not want another one, as long as ours is among them."""
    ours = call()
    ours.receive_offer(offered("m=audio 4000 RTP/AVP 0 8"))
    ours.receive_offer(offered("m=audio 4000 RTP/AVP 8 0"))
    assert ours.session is not None
    assert ours.session.codec == PCMU


def test_a_codec_change_is_followed_and_a_hopeless_one_refused():
    """The codec in use is no longer offered: the next, or 488 with the old agreement standing."""
    ours = call()
    ours.receive_offer(offered("m=audio 4000 RTP/AVP 0"))
    ours.receive_offer(offered("m=audio 4000 RTP/AVP 8"))
    assert ours.session is not None
    assert ours.session.codec == PCMA
    with pytest.raises(SipError, match="no codec"):
        ours.receive_offer(offered("m=audio 4000 RTP/AVP 18"))
    assert ours.session.codec == PCMA


def test_our_new_offer_names_the_codec_in_use_first_and_keeps_their_numbers():
    """So that the peer does not change codec, and no number changes its meaning (§8.3.2)."""
    ours = call()
    ours.receive_offer(offered("m=audio 4000 RTP/AVP 111 8 96", "a=rtpmap:111 iLBC/8000", CODEC_96))
    audio = sections(ours.offer())[1][0]
    told = names(audio)
    assert next(iter(told)) == "8"
    assert told["96"] == "telephone-event/8000"
    opus = next(number for number, name in told.items() if name.startswith("opus"))
    assert opus != "111"


CODEC_96 = "a=rtpmap:96 telephone-event/8000"


def test_a_number_of_ours_never_changes_its_meaning():
    """They reuse our 101 for Opus: the answer gives Opus a number of its own."""
    ours = call()
    ours.offer()
    ours.receive_answer(offered("m=audio 4000 RTP/AVP 0"))
    answer = ours.receive_offer(offered("m=audio 4000 RTP/AVP 101", "a=rtpmap:101 opus/48000/2"))
    assert names(sections(answer)[1][0]) == {"111": "opus/48000/2"}
    assert ours.session is not None
    assert (ours.session.send_payload, ours.session.incoming[0].payload) == (101, 111)


def test_the_first_usable_audio_stream_is_taken():
    """Others, and what is no audio, are refused in their place; the place is kept in our offers."""
    ours = call()
    answer = ours.receive_offer(body("text_phone"))
    lines = [part[0] for part in sections(answer)[1]]
    assert lines == [
        *("m=text 0 RTP/AVP 98", "m=audio 0 RTP/AVP 0"),
        *("m=audio 10000 RTP/AVP 0", "m=audio 0 RTP/AVP 8"),
    ]
    again = [part[0].split()[:2] for part in sections(ours.offer())[1]]
    assert again == [["m=text", "0"], ["m=audio", "0"], ["m=audio", "10000"], ["m=audio", "0"]]


def test_the_stream_in_use_is_kept_among_several():
    """A new stream above it in the list does not take its place."""
    ours = call()
    ours.receive_offer(offered("m=audio 0 RTP/AVP 0", "m=audio 4002 RTP/AVP 0"))
    ours.receive_offer(offered("m=audio 4000 RTP/AVP 8", "m=audio 4002 RTP/AVP 0"))
    assert ours.session is not None
    assert ours.session.rtp == ("192.0.2.9", 4002)


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ((), "no audio"),
        (("m=video 4000 RTP/AVP 31",), "no audio"),
        (("m=audio 0 RTP/AVP 0",), "over RTP"),
        (("m=audio 4000 udptl t38",), "over RTP"),
        (("m=audio 4000 RTP/AVP 18",), "codec"),
        (("m=audio 4000 RTP/AVP 101", CODEC_LINES["101"][0]), "codec"),
        (("m=audio 4000 RTP/AVP 0", "c=IN IP6 2001:db8::9"), "IPv6"),
        (("m=audio 4000 RTP/AVP 0", "c=IN IP4 224.2.1.1/127"), "multicast"),
        (("m=audio 4000 RTP/SAVP 0",), "encrypted"),
        (("m=audio 4000 RTP/SAVP 0", PRINT, "a=setup:holdconn"), "put off"),
    ],
)
def test_an_offer_without_anything_for_us_is_488_with_the_reason(lines, problem):
    """So that the ladder says why."""
    with pytest.raises(SipError, match=problem) as caught:
        call().receive_offer(offered(*lines))
    assert caught.value.status == 488


def test_an_offer_without_an_address_is_refused():
    """Neither the session nor the stream has a c=."""
    with pytest.raises(SipError, match="address"):
        call().receive_offer("v=0\no=- 1 1 IN IP4 192.0.2.9\nm=audio 4000 RTP/AVP 0\n")


@pytest.mark.parametrize(
    ("theirs", "we_hold", "answer", "mine"),
    [
        ("sendrecv", False, "sendrecv", Direction.SENDRECV),
        ("sendonly", False, "recvonly", Direction.RECVONLY),
        ("recvonly", False, "sendonly", Direction.SENDONLY),
        ("inactive", False, "inactive", Direction.INACTIVE),
        ("sendrecv", True, "sendonly", Direction.SENDONLY),
        ("sendonly", True, "inactive", Direction.INACTIVE),
        ("recvonly", True, "sendonly", Direction.SENDONLY),
        ("inactive", True, "inactive", Direction.INACTIVE),
    ],
)
def test_hold_is_answered_by_both_ends_wishes(theirs, we_hold, answer, mine):
    """RFC 3264 §6.1 and RFC 6337 §5.3; whose hold it is stands in the session."""
    ours = call()
    ours.is_held = we_hold
    text = ours.receive_offer(offered("m=audio 4000 RTP/AVP 0", f"a={theirs}"))
    head, (audio,) = sections(text)
    assert direction(head, audio) == answer
    session = ours.session
    assert session is not None
    assert (session.direction, session.held_by_us) == (mine, we_hold)
    assert session.held_by_them == (theirs in {"sendonly", "inactive"})


def test_an_address_of_nowhere_holds_and_gets_nothing():
    """RFC 3264 §8.4: no RTP, no RTCP, but the answer is not a hold of ours."""
    ours = call()
    text = ours.receive_offer(offered("m=audio 4000 RTP/AVP 0", "c=IN IP4 0.0.0.0"))
    head, (audio,) = sections(text)
    assert direction(head, audio) == "sendrecv"
    session = ours.session
    assert session is not None
    assert (session.rtp, session.rtcp, session.direction) == (None, None, Direction.RECVONLY)
    assert session.held_by_them


def test_we_resume_our_hold_whatever_they_hold():
    """Our offer says what we want: sendonly while we hold, sendrecv after, under their hold too."""
    ours = call()
    ours.receive_offer(offered("m=audio 4000 RTP/AVP 0", "a=sendonly"))
    seen = []
    for held in (True, False):
        ours.is_held = held
        head, (audio,) = sections(ours.offer())
        seen.append(direction(head, audio))
        ours.receive_answer(offered("m=audio 4000 RTP/AVP 0", "a=inactive"))
    assert seen == ["sendonly", "sendrecv"]
    assert ours.session is not None
    assert ours.session.held_by_them


def test_an_answer_that_does_not_fit_our_hold_is_cut_to_it():
    """Peers answer sendrecv to sendonly; nothing is expected from them all the same."""
    ours = call()
    ours.is_held = True
    ours.offer()
    session = ours.receive_answer(offered("m=audio 4000 RTP/AVP 0", "a=sendrecv"))
    assert (session.direction, session.held_by_us) == (Direction.SENDONLY, True)


@pytest.mark.parametrize(
    ("lines", "rtcp", "mux"),
    [
        ((), ("192.0.2.9", 4001), False),
        (("a=rtcp:4010",), ("192.0.2.9", 4010), False),
        (("a=rtcp:4010 IN IP4 192.0.2.10",), ("192.0.2.10", 4010), False),
        (("a=rtcp-mux", "a=rtcp:4010"), ("192.0.2.9", 4000), True),
        (("b=RS:0", "b=RR:0"), None, False),
        (("b=RS:0", "b=RR:800"), ("192.0.2.9", 4001), False),
    ],
)
def test_reports_go_where_the_peer_wants_them(lines, rtcp, mux):
    """The next port, a=rtcp (RFC 3605), the same port (RFC 5761), nowhere (RFC 3556)."""
    bandwidth = [line for line in lines if line[0] == "b"]
    rest = [line for line in lines if line[0] == "a"]
    session = agreed(offered("m=audio 4000 RTP/AVP 0", *bandwidth, *rest))
    assert (session.rtcp, session.has_rtcp_mux) == (rtcp, mux)


def test_rtcp_shares_a_port_only_if_both_say_so():
    """We offer it; an answer without it is no (RFC 5761 §5.1.1)."""
    for line, mux in (("a=rtcp-mux", True), ("a=x", False)):
        ours = call()
        assert "a=rtcp-mux" in ours.offer()
        assert ours.receive_answer(offered("m=audio 4000 RTP/AVP 0", line)).has_rtcp_mux is mux


def test_a_port_for_reports_that_is_not_the_next_is_written():
    """RFC 3605."""
    assert "a=rtcp:10099\r\n" in call(local=replace(HERE, rtcp_port=10_099)).offer()
    assert "a=rtcp:" not in call(local=replace(HERE, rtcp_port=10_001)).offer()


@pytest.mark.parametrize(
    ("lines", "ptime_ms"),
    [
        ((), 20),
        (("a=ptime:30",), 30),
        (("a=ptime:20.0",), 20),
        (("a=ptime:25",), 20),
        (("a=ptime:200",), 60),
        (("a=ptime:40", "a=maxptime:30"), 30),
        (("a=maxptime:10",), 10),
        (("a=ptime:5",), 10),
        (("a=ptime:x",), 20),
    ],
)
def test_our_packets_are_as_long_as_the_peer_wants(lines, ptime_ms):
    """As far as we can: whole tens, at most 60 ms."""
    assert agreed(offered("m=audio 4000 RTP/AVP 0", *lines)).ptime_ms == ptime_ms


def test_opus_without_its_second_channel_is_opus():
    """Written by some; ours is written by the book (RFC 7587 §7)."""
    text = offered("m=audio 4000 RTP/AVP 96", "a=rtpmap:96 OPUS/48000", "a=fmtp:96 cbr=1")
    session = agreed(text)
    assert (session.codec, session.send_payload, session.fmtp) == (OPUS, 96, "cbr=1")


def test_events_with_another_clock_than_the_codecs_are_used_when_there_are_no_others():
    """A phone with Opus whose only telephone-event counts in 8000 Hz still presses keys."""
    session = agreed(
        offered(
            *("m=audio 4000 RTP/AVP 96 101", "a=rtpmap:96 opus/48000/2"),
            "a=rtpmap:101 telephone-event/8000",
        )
    )
    assert session.events is not None
    assert (session.events.send_payload, session.events.clock_hz) == (101, 8_000)


def test_our_order_counts_where_that_is_asked_for():
    """A trunk whose offers begin with G.729 and Opus, and an agent that wants PCMA."""
    text = offered("m=audio 4000 RTP/AVP 96 0 8", "a=rtpmap:96 opus/48000/2")
    assert agreed(text).codec == OPUS
    wanted = Capabilities((PCMA, OPUS), prefers_own_order=True)
    assert agreed(text, wanted).codec == PCMA


def test_keys_are_agreed_by_tag():
    """Theirs decrypts what they send, ours is in the answer under their tag; suites that we lack are
    passed over, and an index (MKI) is reported so that it can be cut out.
    """
    session = agreed(body("teams_sbc"))
    assert isinstance(session.secrecy, Sdes)
    assert session.secrecy.receive.material == b"abcdefghijklmnopqrstuvwxyz0123"
    assert session.secrecy.receive.mki_bytes == 1
    assert session.secrecy.send.material == b"\x01" * 30
    assert session.secrecy.send.suite.tag_bytes == 10
    assert "material" not in repr(session)


def test_a_key_beside_a_plain_profile_is_an_offer_to_encrypt():
    """Best effort, as many phones write it; not where encryption is off."""
    text = body("asterisk_chan_sip_best_effort")
    assert isinstance(agreed(text).secrecy, Sdes)
    assert agreed(text, Capabilities(secrecy=Secrecy.OFF)).secrecy is None


@pytest.mark.parametrize(
    "line",
    [
        "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:AAAA",
        "a=crypto:1 F8_128_HMAC_SHA1_80 inline:" + "A" * 40,
        "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:" + "A" * 40 + " UNENCRYPTED_SRTP",
        "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:" + "A" * 40 + " KDR=5",
    ],
)
def test_a_key_that_we_cannot_use_is_no_key(line):
    """Too short, of another suite, or with less than full encryption."""
    with pytest.raises(SipError, match="encrypted"):
        call().receive_offer(offered("m=audio 4000 RTP/SAVP 0", line))


def test_plain_media_are_refused_where_encryption_is_demanded():
    """And never is an encrypted stream made plain by a later offer of ours."""
    for secrecy in (Secrecy.SDES, Secrecy.DTLS):
        with pytest.raises(SipError, match="plain"):
            call(Capabilities(secrecy=secrecy)).receive_offer(body("twilio"))
    ours = call()
    ours.receive_offer(body("yealink"))
    again = ours.offer()
    assert "RTP/SAVP" in again
    assert "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:AQEB" in again
    with pytest.raises(SipError, match="transport"):
        ours.receive_answer(offered("m=audio 4000 RTP/AVP 0"))
    with pytest.raises(SipError, match="no key"):
        ours.receive_answer(offered("m=audio 4000 RTP/SAVP 0"))


def test_an_answer_with_a_key_of_another_suite_is_refused():
    """Tag 1 was the first suite, not the second (RFC 4568 §5.1.3)."""
    ours = call(Capabilities(secrecy=Secrecy.SDES))
    ours.offer()
    line = "a=crypto:1 AES_CM_128_HMAC_SHA1_32 inline:" + "A" * 40
    with pytest.raises(SipError, match="no key"):
        ours.receive_answer(offered("m=audio 4000 RTP/SAVP 0", line))


def test_gcm_is_agreed_where_it_is_wanted():
    """RFC 7714, whose salt is two bytes shorter."""
    suites = ("AEAD_AES_256_GCM", "AEAD_AES_128_GCM")
    ends = [call(Capabilities(secrecy=Secrecy.SDES, suites=suites), HERE, n) for n in (1, 2)]
    session = ends[0].receive_answer(ends[1].receive_offer(ends[0].offer()))
    assert isinstance(session.secrecy, Sdes)
    assert (session.secrecy.send.suite.name, len(session.secrecy.send.material)) == (suites[0], 44)


def test_dtls_roles_are_agreed_and_stay():
    """The answerer opens (RFC 5763 §5); when it later offers, it still is the client."""
    wanted = Capabilities(secrecy=Secrecy.DTLS)
    ours, theirs = call(wanted), call(wanted, THERE, 2)
    for one, other in ((ours, theirs), (theirs, ours), (ours, theirs)):
        offer = one.offer()
        assert "a=setup:actpass" in offer
        one.receive_answer(other.receive_offer(offer))
        assert ours.session is not None
        assert theirs.session is not None
        secrets = ours.session.secrecy, theirs.session.secrecy
        assert [replace(each, association="") for each in secrets] == [
            Dtls(False, (THERE.fingerprint,)),
            Dtls(True, (OUR_PRINT,)),
        ]


def _tls_id(text: str) -> str:
    return next(line[9:] for line in text.splitlines() if line.startswith("a=tls-id:"))


def test_an_association_keeps_its_names_through_a_call():
    """RFC 8842 §5.2, §5.3, §5.5: both name it, whoever offers later, and a refresh begins no other."""
    wanted = Capabilities(secrecy=Secrecy.DTLS)
    ours, theirs = call(wanted), call(wanted, THERE, 2)
    offer = ours.offer()
    answer = theirs.receive_offer(offer)
    ours.receive_answer(answer)
    first = ours.session.secrecy, theirs.session.secrecy
    named = {"ours": _tls_id(offer), "theirs": _tls_id(answer)}
    assert len(set(named.values())) == 2
    assert all(re.fullmatch(r"[A-Za-z0-9+/_-]{20,255}", each) for each in named.values())
    theirs = Negotiation.restore(theirs.snapshot(), wanted, THERE)
    offer = theirs.offer()
    answer = ours.receive_offer(offer)
    theirs.receive_answer(answer)
    assert {"ours": _tls_id(answer), "theirs": _tls_id(offer)} == named
    assert (ours.session.secrecy, theirs.session.secrecy) == first


DTLS_OFFER = ("m=audio 4000 UDP/TLS/RTP/SAVP 0", "a=setup:actpass")


def test_a_new_name_of_theirs_gets_a_new_one_of_ours():
    """RFC 8842 §5.3; and nobody is told a name who gives none."""
    ours = call()
    ids = [f"a=tls-id:{letter * 20}" for letter in "aab"]
    answers = [_tls_id(ours.receive_offer(offered(*DTLS_OFFER, PRINT, each))) for each in ids]
    assert answers[0] == answers[1] != answers[2]
    assert "tls-id" not in ours.receive_offer(offered(*DTLS_OFFER, PRINT))


def test_without_a_name_another_address_is_another_association():
    """RFC 8842 §4: transport parameters; nowhere is no address."""
    ours, seen = call(), []
    for where in ("192.0.2.9", "192.0.2.8", "0.0.0.0"):
        head = HEAD.replace("192.0.2.9", where)
        ours.receive_offer(offered(*DTLS_OFFER, PRINT, head=head))
        seen.append(ours.session.secrecy.association)
    assert seen == ["192.0.2.9 4000", "192.0.2.8 4000", ""]


def test_the_order_of_fingerprints_means_nothing():
    """RFC 8842 §3.1 speaks of a set: one that is shuffled begins no new association."""
    other = "a=fingerprint:sha-1 " + ":".join(["CD"] * 20)
    secrets = {
        agreed(offered(*DTLS_OFFER, *prints)).secrecy
        for prints in ((PRINT, other), (other, PRINT), (other, PRINT, PRINT))
    }
    assert len(secrets) == 1


@pytest.mark.parametrize(
    ("lines", "is_client"), [((), True), (("a=setup:passive",), True), (("a=setup:active",), False)]
)
def test_an_answerer_without_a_word_is_passive(lines, is_client):
    """RFC 4145 §4.1: the default of an answer; were both to wait, nothing would ever be heard."""
    ours = call(Capabilities(secrecy=Secrecy.DTLS))
    ours.offer()
    session = ours.receive_answer(offered("m=audio 4000 UDP/TLS/RTP/SAVP 0", PRINT, *lines))
    assert session.secrecy.is_client is is_client


def test_an_answer_with_our_own_key_is_refused():
    """RFC 4568 §7.1.2: the answer's master key must be another than the offer's."""
    ours = call(Capabilities(secrecy=Secrecy.SDES))
    line = next(line for line in ours.offer().splitlines() if line.startswith("a=crypto:1"))
    with pytest.raises(SipError, match="our own key"):
        ours.receive_answer(offered("m=audio 4000 RTP/SAVP 0", line))


def test_a_payload_type_that_looks_like_rtcp_keeps_its_port_to_itself():
    """RFC 5761 §4: 64 to 95 with a marker are RTCP's numbers, so the port is not shared."""
    lines = ("m=audio 4000 RTP/AVP {0}", "a=rtpmap:{0} PCMU/8000", "a=rtcp-mux")
    shared = {
        number: agreed(offered(*(line.format(number) for line in lines))).has_rtcp_mux
        for number in (63, 64, 95, 96)
    }
    assert shared == {63: True, 64: False, 95: False, 96: True}


def test_comfort_noise_is_offered_with_a_codec_of_its_clock_only():
    """RFC 3389 §5.1: type 13 is of 8000 Hz."""
    assert "CN/8000" in call().offer()
    assert "CN/8000" not in call(Capabilities(codecs=(OPUS,))).offer()


def test_events_of_which_we_know_none_are_left_out():
    """RFC 4733 §2.5.2.1: a description names the events it takes, and there would be none."""
    lines = ("m=audio 4000 RTP/AVP 0 101", "a=rtpmap:101 telephone-event/8000", "a=fmtp:101 32-36")
    assert "telephone-event" not in call().receive_offer(offered(*lines))


def test_dtls_needs_a_certificate_at_both_ends():
    """Ours is the shell's duty; theirs is their answer's."""
    wanted = Capabilities(secrecy=Secrecy.DTLS)
    with pytest.raises(LocalError, match="certificate"):
        call(wanted, replace(HERE, fingerprint=None)).offer()
    ours = call(wanted)
    ours.offer()
    with pytest.raises(SipError, match="certificate"):
        ours.receive_answer(offered("m=audio 4000 UDP/TLS/RTP/SAVP 0"))


def test_a_browsers_bundle_is_answered_with_the_audio_alone():
    """RFC 8843: the group holds what was accepted, under its name; video is refused under its own."""
    ours = call(local=replace(HERE, attributes=(Attribute("ice-ufrag", "abcd"),)))
    head, (audio, video) = sections(ours.receive_offer(body("chrome")))
    assert "a=group:BUNDLE 0" in head
    assert {"a=mid:0", "a=setup:active", "a=rtcp-mux", "a=ice-ufrag:abcd"} <= set(audio)
    assert video == ["m=video 0 UDP/TLS/RTP/SAVPF 96", "a=mid:1"]


def test_the_time_of_the_answer_is_the_offers():
    """RFC 3264 §6: it cannot be negotiated, however odd it is."""
    text = offered("m=audio 4000 RTP/AVP 0").replace("t=0 0", "t=2873397496 2873404696")
    answer = call().receive_offer(text)
    keeps_the_rules(text, answer)
    assert "t=2873397496 2873404696\r\n" in answer


def test_an_answer_cannot_take_up_a_stream_that_we_refused():
    """It was offered with port 0 (RFC 3264 §8.2)."""
    ours = call()
    ours.receive_offer(offered("m=audio 4000 RTP/AVP 0", "m=video 4002 RTP/AVP 31"))
    ours.offer()
    with pytest.raises(SipError, match="not offered"):
        ours.receive_answer(offered("m=audio 4000 RTP/AVP 0", "m=video 4002 RTP/AVP 31"))


def test_a_call_cannot_be_taken_up_without_its_codec():
    """A daemon whose codecs changed meanwhile says so, instead of sending what nobody agreed to."""
    ours = call()
    ours.receive_offer(offered("m=audio 4000 RTP/AVP 0"))
    with pytest.raises(SipError, match="codec"):
        Negotiation.restore(ours.snapshot(), Capabilities((PCMA,)), HERE)


def test_a_late_offer_is_answered_in_the_ack():
    """We offer in our 200; the answer makes the session, or an error that ends the call."""
    ours, theirs = call(), call(local=THERE, fill=2)
    session = ours.receive_answer(theirs.receive_offer(ours.offer()))
    assert session.rtp == ("192.0.2.2", 20_000)
    assert theirs.session is not None
    agree_with_each_other(session, theirs.session)


def test_a_new_port_of_ours_is_a_new_version():
    """And the o= line keeps the address of the first."""
    ours = call()
    texts = [ours.receive_offer(body("twilio"))]
    ours.local = replace(HERE, host="192.0.2.200", port=12_000)
    texts.append(ours.offer())
    keeps_origin_rules(texts)
    assert "m=audio 12000 " in texts[1]
    assert "c=IN IP4 192.0.2.200\r\n" in texts[1]


@given(offers(), st.booleans())
def test_another_process_takes_it_up_where_it_was(text, held):
    """Snapshot as JSON and back: the same session, the same next offer and the same answers."""
    ours = call()
    ours.is_held = held
    try:
        ours.receive_offer(text)
    except SipError:
        return
    stored = msgspec.json.encode(ours.snapshot())
    taken = Negotiation.restore(msgspec.json.decode(stored, type=Snapshot), ALL, HERE)
    assert taken.session == ours.session
    assert taken.receive_offer(text) == ours.receive_offer(text)
    assert taken.offer() == ours.offer()


def test_a_call_without_an_agreement_can_be_taken_up():
    """Its next offer has the next version."""
    ours = call()
    first = ours.offer()
    taken = Negotiation.restore(ours.snapshot(), ALL, HERE)
    assert taken.session is None
    assert taken.offer() == first


@given(st.sampled_from(sorted(CORPUS.glob("*.sdp"))), st.data())
def test_a_damaged_offer_is_answered_or_refused(path, data):
    """400 or 488, and nothing else; an answer to it can be parsed by our own other end."""
    text = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(text)))
        text[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    try:
        call().receive_offer(bytes(text))
    except SipError as error:
        if error.status not in {400, 488}:
            raise
