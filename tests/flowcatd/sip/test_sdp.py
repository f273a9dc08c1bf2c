"""Session descriptions: real devices' bodies are understood, ours are exact, and garbage is one error."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.sip.attribute import (
    Attribute,
    Crypto,
    Direction,
    Fingerprint,
    Format,
    Rtcp,
    Setup,
    events,
    events_text,
    read_crypto,
    read_fingerprint,
    read_rtcp,
    read_rtpmap,
)
from flowcatd.sip.sdp import (
    BODY_LIMIT,
    FORMATS_LIMIT,
    LINE_LIMIT,
    LINES_LIMIT,
    MEDIA_LIMIT,
    Connection,
    Description,
    Media,
    Origin,
    parse,
)
from flowcatd.sip.trouble import SipError

CORPUS = Path(__file__).parents[2] / "corpus" / "sdp"
BODIES = sorted(CORPUS.glob("*.sdp"))
LEAST = "v=0\no=- 1 1 IN IP4 192.0.2.1\n"

WORD = st.text("abcXYZ019.-", min_size=1, max_size=8)
VALUE = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), max_size=20)
HOST = st.sampled_from(["192.0.2.1", "2001:db8::1", "host.example", "0.0.0.0", "::"])
CONNECTION = st.builds(Connection, HOST, st.sampled_from(["", "", "127", "127/3"]))
BANDWIDTH = st.lists(st.tuples(WORD, st.integers(0, 4_294_967_295)), max_size=2).map(tuple)
ATTRIBUTES = st.lists(
    st.builds(
        Attribute,
        st.sampled_from(["rtpmap", "fmtp", "sendonly", "ptime", "x-y", "mid", "crypto"]),
        VALUE.map(str.strip),
    ),
    max_size=5,
).map(tuple)
MEDIA = st.builds(
    Media,
    st.sampled_from(["audio", "video", "image", "text", "x-odd"]),
    st.integers(0, 65_535),
    st.sampled_from(["RTP/AVP", "RTP/SAVPF", "udptl", "UDP/TLS/RTP/SAVP", "TCP/MSRP"]),
    st.lists(WORD, min_size=1, max_size=5).map(tuple),
    st.none() | CONNECTION,
    BANDWIDTH,
    ATTRIBUTES,
    st.integers(1, 9),
)
DESCRIPTION = st.builds(
    Description,
    st.builds(Origin, WORD, st.integers(0).map(str), st.integers(0).map(str), HOST),
    VALUE.map(lambda text: text.strip(" \t") or "-"),
    st.none() | CONNECTION,
    BANDWIDTH,
    st.lists(st.sampled_from(["0 0", "1 2"]), min_size=1, max_size=2).map(tuple),
    ATTRIBUTES,
    st.lists(MEDIA, max_size=4).map(tuple),
)


def media(*lines: str) -> Media:
    """The first media section of these lines."""
    return parse(LEAST + "c=IN IP4 192.0.2.1\n" + "\n".join(lines)).media[0]


@given(DESCRIPTION)
def test_what_is_written_is_read_again_the_same(description):
    """Round trip: every field and every attribute, in order."""
    assert parse(str(description)) == description
    assert parse(str(description).encode()) == description


@pytest.mark.parametrize("path", BODIES, ids=lambda path: path.stem)
def test_a_real_devices_body_is_read_and_keeps_its_meaning(path):
    """Read, written and read again it is the same value, with audio in it, every line ended by CRLF."""
    description = parse(path.read_bytes())
    text = str(description)
    assert parse(text) == description
    assert "audio" in {each.kind for each in description.media}
    assert text.count("\n") == text.count("\r\n")
    assert text.endswith("\r\n")


@pytest.mark.parametrize("path", BODIES, ids=lambda path: path.stem)
def test_line_ends_blanks_and_a_byte_order_mark_do_not_matter(path):
    """LF, CRLF, CR, blanks behind every line, empty lines between them."""
    text = path.read_bytes().decode().replace("\r\n", "\n")
    wanted = parse(text)
    for end in ("\r\n", "\r", " \n", "\t \r\n", "\n\n"):
        assert parse(text.replace("\n", end)) == wanted
    assert parse(b"\xef\xbb\xbf" + text.encode()) == wanted


def test_each_kind_of_device_is_understood():
    """What was looked at in public traces, device by device: the audio formats that we know."""
    known = {"pcmu", "pcma", "g722", "opus", "telephone-event", "cn"}
    found = {
        path.stem: " ".join(
            f"{each.payload}={each.name.lower()}/{each.clock_hz}"
            for each in next(m for m in parse(path.read_bytes()).media if m.kind == "audio").formats
            if each.name.lower() in known
        )
        for path in BODIES
    }
    assert found == {
        "asterisk": "8=pcma/8000 0=pcmu/8000 101=telephone-event/8000",
        "asterisk_chan_sip_best_effort": "9=g722/8000 8=pcma/8000 101=telephone-event/8000",
        "chrome": "111=opus/48000 9=g722/8000 0=pcmu/8000 8=pcma/8000 13=cn/8000"
        " 110=telephone-event/48000 126=telephone-event/8000",
        "cisco_cube": "0=pcmu/8000 101=telephone-event/8000 19=cn/8000",
        "cisco_ucm_hold": "0=pcmu/8000 101=telephone-event/8000",
        "fax_gateway": "8=pcma/8000",
        "firefox": "109=opus/48000 9=g722/8000 0=pcmu/8000 8=pcma/8000 101=telephone-event/8000",
        "freeswitch": "102=opus/48000 9=g722/8000 0=pcmu/8000 8=pcma/8000"
        " 103=telephone-event/48000 101=telephone-event/8000 13=cn/8000",
        "linphone": "96=opus/48000 0=pcmu/8000 8=pcma/8000 101=telephone-event/48000"
        " 99=telephone-event/16000 100=telephone-event/8000",
        "plivo": "0=pcmu/8000 8=pcma/8000 101=telephone-event/8000",
        "polycom": "9=g722/8000 0=pcmu/8000 8=pcma/8000 127=telephone-event/8000",
        "sloppy": "0=pcmu/8000 8=pcma/8000 101=telephone-event/8000",
        "teams_sbc": "9=g722/8000 0=pcmu/8000 8=pcma/8000 101=telephone-event/8000"
        " 13=cn/8000 118=cn/16000",
        "telnyx": "9=g722/8000 8=pcma/8000 0=pcmu/8000 101=telephone-event/8000",
        "text_phone": "0=pcmu/8000",
        "twilio": "0=pcmu/8000 8=pcma/8000 101=telephone-event/8000",
        "volte_gateway": "8=pcma/8000 105=telephone-event/16000 100=telephone-event/8000",
        "yealink": "9=g722/8000 0=pcmu/8000 8=pcma/8000 101=telephone-event/8000",
        "zoiper": "0=pcmu/8000 101=telephone-event/8000 8=pcma/8000",
    }


def test_an_untidy_body_says_what_a_tidy_one_does():
    """No s= and t=, a blank in the user's name, a b= before c=, blanks behind colons, an unknown letter."""
    description = parse((CORPUS / "sloppy.sdp").read_bytes())
    audio = description.media[0]
    assert (description.name, description.times) == ("-", ("0 0",))
    assert description.origin == Origin("John_Doe", "1", "1", "192.0.2.140")
    assert description.connection_of(audio) == Connection("192.0.2.140")
    assert (audio.ptime_ms, audio.fmtp(101)) == (20, "0-11")


@given(st.binary(max_size=400) | st.text(max_size=400))
def test_garbage_is_the_one_error(body):
    """Whatever comes is a description or a SipError 400."""
    try:
        parse(body)
    except SipError as error:
        if error.status != 400:
            raise


@given(st.sampled_from(BODIES), st.data())
def test_a_damaged_body_is_a_description_or_the_one_error(path, data):
    """Bytes replaced, cut out and put in; whatever is still read can be written and read again."""
    body = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(body)))
        body[at : at + data.draw(st.integers(0, 5))] = data.draw(st.binary(max_size=5))
    try:
        description = parse(bytes(body))
    except SipError as error:
        if error.status != 400:
            raise
        return
    assert parse(str(description)) == description
    touch(description)


def touch(description: Description) -> None:
    """Read every attribute as what it could be: that must never raise."""
    assert len(description.bundle) >= 0
    for each in description.media:
        read = (each.formats, each.ptime_ms, each.maxptime_ms, each.rtcp, each.cryptos, each.mid)
        assert len(read) == 6
        assert description.direction_of(each) in set(Direction)
        assert description.setup_of(each) in {None, *Setup}
        description.fingerprints_of(each)
        connection = description.connection_of(each)
        assert connection is None or connection.is_nowhere in {True, False}


@pytest.mark.parametrize(
    "body",
    [
        "",
        "v=1\no=- 1 1 IN IP4 192.0.2.1\n",
        "o=- 1 1 IN IP4 192.0.2.1\n",
        "v=0\ns=-\n",
        "v=0\no=- 1 1 IN\n",
        "v=0\no=- 1 1 IN IP4 192.0.2.1;drop\n",
        LEAST + "c=IN IP4\n",
        LEAST + "c=ATM NSAP 1.2.3\n",
        LEAST + "c=IN IP4 192.0.2.1/x\n",
        LEAST + "m=audio\n",
        LEAST + "m=audio x RTP/AVP 0\n",
        LEAST + "m=audio 65536 RTP/AVP 0\n",
        LEAST + "m=audio 5004/0 RTP/AVP 0\n",
        LEAST + "m=au(dio 5004 RTP/AVP 0\n",
        LEAST + "m=audio 5004 RTP/AVP\n",
        LEAST + "a=x\0y\n",
        LEAST + "rubbish\n",
        LEAST + "ab=c\n",
    ],
)
def test_what_is_no_description_is_refused(body):
    """With the status 400, and without a word of it in the error."""
    with pytest.raises(SipError) as caught:
        parse(body)
    assert caught.value.status == 400
    assert "192.0.2.1" not in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [
        LEAST + "a=x\n" * (BODY_LIMIT // 4),
        LEAST + "a=" + "x" * LINE_LIMIT,
        LEAST + "a=x\n" * LINES_LIMIT,
        LEAST + "m=audio 0 RTP/AVP 0\n" * (MEDIA_LIMIT + 1),
        LEAST + "m=audio 0 RTP/AVP" + " 0" * (FORMATS_LIMIT + 1),
    ],
    ids=["body", "line", "lines", "media", "formats"],
)
def test_a_body_beyond_a_limit_is_refused(body):
    """So that no peer decides how much there is to do."""
    with pytest.raises(SipError, match="more than"):
        parse(body)


def test_a_media_section_overrides_the_session():
    """Its own c= and direction, where it has them; the first direction of several."""
    description = parse(
        f"{LEAST}c=IN IP4 192.0.2.1\na=sendonly\nm=audio 2 RTP/AVP 0\nm=video 4 RTP/AVP 31\n"
        "c=IN IP6 2001:db8::1\na=inactive\na=sendrecv\n"
    )
    audio, video = description.media
    assert description.direction_of(audio) is Direction.SENDONLY
    assert description.direction_of(video) is Direction.INACTIVE
    assert description.connection_of(audio) == Connection("192.0.2.1")
    assert description.connection_of(video) == Connection("2001:db8::1")
    assert str(description.connection_of(video)) == "IN IP6 2001:db8::1"


def test_a_direction_that_nobody_wrote_is_both_ways():
    """RFC 8866 §6.7."""
    description = parse(LEAST + "m=audio 2 RTP/AVP 0\n")
    assert description.direction_of(description.media[0]) is Direction.SENDRECV
    assert description.media[0].direction is None


def test_payload_types_are_explained_by_rtpmap_or_by_the_profile():
    """Static ones need no rtpmap; the first rtpmap counts; one of no payload type in the m= is stale."""
    section = media(
        "m=audio 2 RTP/AVP 0 9 8 97 98 0",
        *("a=rtpmap:97 opus/48000/2", "a=rtpmap:97 iLBC/8000", "a=rtpmap:99 AMR/8000"),
        *("a=fmtp:97 stereo=1", "a=fmtp:8 vad=yes"),
    )
    assert section.payloads == (0, 9, 8, 97, 98)
    assert section.formats == (
        Format(0, "PCMU", 8000),
        Format(9, "G722", 8000),
        Format(8, "PCMA", 8000, 1, "vad=yes"),
        Format(97, "opus", 48000, 2, "stereo=1"),
    )


def test_what_is_not_rtp_has_no_payload_types():
    """A fax's `t38` is no number, and its lines are kept."""
    image = parse((CORPUS / "fax_gateway.sdp").read_bytes()).media[1]
    assert (image.kind, image.words, image.formats) == ("image", ("t38",), ())
    assert image.first("T38MaxBitRate") == "14400"


def test_a_refused_stream_may_list_no_format():
    """RFC 8866 wants one; answers without are seen, and written again with one."""
    section = media("m=video 0 RTP/AVP")
    assert next(iter(section.lines())) == "m=video 0 RTP/AVP 0"


def test_nowhere_and_multicast_are_told_apart_from_addresses():
    """0.0.0.0 and :: hold (RFC 3264 §8.4); a group is nobody to talk to."""
    assert Connection("0.0.0.0").is_nowhere
    assert Connection("::").is_nowhere
    assert not Connection("192.0.2.1").is_nowhere
    assert not Connection("pbx.example").is_nowhere
    assert Connection("224.2.1.1", "127").is_multicast
    assert Connection("ff15::101").is_multicast
    assert not Connection("2001:db8::1").is_multicast


def test_rtpmaps_are_read():
    """Case kept, channels one unless written, blanks allowed; nonsense is None."""
    assert read_rtpmap("0 PCMU/8000/1") == Format(0, "PCMU", 8000)
    assert read_rtpmap(" 101  telephone-event/8000") == Format(101, "telephone-event", 8000)
    assert Format(96, "Opus", 48000, 2).rtpmap == Attribute("rtpmap", "96 Opus/48000/2")
    for bad in ("", "101", "101 x", "128 x/8000", "1 x/0", "1 /8000", "x y/8000", "1 x/8000/0"):
        assert read_rtpmap(bad) is None


def test_rtcp_ports_are_read():
    """RFC 3605: with an address or without."""
    assert read_rtcp("53020") == Rtcp(53020)
    assert read_rtcp("53020 IN IP6 2001:db8::2") == Rtcp(53020, "2001:db8::2")
    assert str(Rtcp(53020, "2001:db8::2")) == "53020 IN IP6 2001:db8::2"
    assert str(Rtcp(53020, "192.0.2.1")) == "53020 IN IP4 192.0.2.1"
    assert read_rtcp("") is None
    assert read_rtcp("0") is None


def test_fingerprints_are_read():
    """RFC 8122: hash names and digits know no case."""
    digits = ":".join(["ab"] * 32)
    assert read_fingerprint(f"SHA-256 {digits}") == Fingerprint("sha-256", digits.upper())
    for bad in ("", "sha-256", "sha-256 AB", f"sha-256 {digits}:g0", f"a b {digits}"):
        assert read_fingerprint(bad) is None


KEY = bytes(range(30))
KEY_TEXT = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwd"


@pytest.mark.parametrize(
    ("text", "crypto"),
    [
        (f"1 A inline:{KEY_TEXT}", Crypto(1, "A", KEY)),
        (f"1 A inline:{KEY_TEXT}|2^31", Crypto(1, "A", KEY, "2^31")),
        (f"2 A inline:{KEY_TEXT}|1:4", Crypto(2, "A", KEY, "", "1:4")),
        (
            f"3 A inline:{KEY_TEXT}|2^20|1:4 WSH=64 KDR=1",
            Crypto(3, "A", KEY, "2^20", "1:4", ("WSH=64", "KDR=1")),
        ),
    ],
)
def test_keys_are_read_and_written(text, crypto):
    """RFC 4568 §9.1, with lifetime, index and session parameters."""
    assert read_crypto(text) == crypto
    assert str(crypto) == text


def test_a_key_line_that_is_not_understood_is_none():
    """So that another line can be taken; several keys need an index on the wire that we do not follow."""
    for bad in (
        *("", "1 A", "x A inline:AAAA", "1 A other:AAAA", "1 A inline:", "1 A inline:!!!!"),
        *(f"1 A inline:{KEY_TEXT};inline:{KEY_TEXT}", f"1 A inline:{KEY_TEXT}|1|2"),
        f"1 A inline:{KEY_TEXT}|1:x",
    ):
        assert read_crypto(bad) is None


@pytest.mark.parametrize(
    "more",
    ["2^49", "2^0", "2^031", "0", "01", "x", str((1 << 48) + 1), "1:0", "1:129", "0:1", "1:01"],
)
def test_a_key_with_a_lifetime_or_an_index_that_cannot_be_is_invalid(more):
    """RFC 4568 §6.1: beyond the suite's lifetime, or an index without a length of 1 to 128."""
    assert read_crypto(f"1 A inline:{KEY_TEXT}|{more}") is None


@pytest.mark.parametrize("more", ["2^48", "1", str(1 << 48), "2^20|1066:4", "1:128"])
def test_a_key_with_a_lifetime_that_its_suite_allows_is_taken(more):
    """RFC 4568 §6.1."""
    assert read_crypto(f"1 A inline:{KEY_TEXT}|{more}") is not None


def test_a_suite_is_read_without_regard_to_case():
    """RFC 4568 §4: all but the key."""
    crypto = read_crypto(f"1 aes_cm_128_hmac_sha1_80 INLINE:{KEY_TEXT}")
    assert crypto == Crypto(1, "AES_CM_128_HMAC_SHA1_80", KEY)


def test_an_index_of_a_key_has_a_length():
    """So many bytes are cut out of each packet."""
    assert Crypto(1, "A", KEY, "", "1:4").mki_bytes == 4
    assert Crypto(1, "A", KEY).mki_bytes == 0


def test_a_key_is_in_no_repr():
    """It would end up in a log."""
    assert "key" not in repr(Crypto(1, "A", b"\x01" * 30)).lower().replace("keys", "")


@given(st.frozensets(st.integers(0, 255), min_size=1))
def test_events_are_read_as_they_are_written(numbers):
    """RFC 4733 §2.4.1: numbers and runs."""
    assert events(events_text(numbers)) == numbers


def test_events_that_nobody_named_are_the_sixteen_keys():
    """RFC 4733 §2.4.1; what is no list is taken as none."""
    assert events("") == events("garbage") == frozenset(range(16))
    assert events("events=0-11,16") == frozenset({*range(12), 16})
    assert events("0-999999999") == frozenset(range(16))


def test_directions_combine():
    """Flipped is the other end's view; `&` is what both allow."""
    assert Direction.SENDONLY.flipped is Direction.RECVONLY
    assert Direction.SENDRECV & Direction.RECVONLY is Direction.RECVONLY
    assert Direction.SENDONLY & Direction.RECVONLY is Direction.INACTIVE
    assert {each.flipped.flipped for each in Direction} == set(Direction)
