"""SIP messages: the torture corpora, what peers send, what we write."""

from __future__ import annotations

import contextlib

import pytest
import sipmessage
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.errors import LocalError
from flowcatd.sip.header import (
    Address,
    Via,
    parse_address,
    parse_cseq,
    parse_number,
    parse_parameters,
    parse_valued,
    parse_via,
    quoted,
    split_list,
    unquoted,
)
from flowcatd.sip.message import (
    HEADER_LINES,
    LINE_BYTES,
    MESSAGE_BYTES,
    Request,
    Response,
    answer_port,
    build_request,
    build_response,
    check_fields,
    note_source,
    parse_message,
    refuse,
    stateless_tag,
)
from flowcatd.sip.trouble import DROP, SipError
from flowcatd.sip.uri import Uri, is_same_uri, parse_uri
from flowcatd.sip.vet import Abilities, find_objection
from flowcatd.sip.words import phrase_of
from tests.flowcatd.sip.torture import Case, case, cases, plain, request, via

ABLE = Abilities(
    ("INVITE", "ACK", "BYE", "CANCEL", "OPTIONS", "REGISTER", "MESSAGE"),
    media_types=("application/sdp",),
)
UNKNOWN_METHODS = {"intmeth", "esc02"}
"""Well-formed, but no method that we take: 501 is the user agent's answer."""


def judge(data: bytes) -> str:
    """What becomes of a message: accept, a status, or drop."""
    try:
        message = parse_message(data)
        check_fields(message)
    except SipError as error:
        return str(error.status) if error.status else "drop"
    objection = find_objection(message, ABLE) if isinstance(message, Request) else None
    return str(objection.status) if objection else "accept"


@pytest.mark.parametrize("torture", cases(), ids=lambda each: each.name)
def test_every_torture_message_gets_what_its_rfc_says(torture: Case):
    """A challenge and a stray response are well-formed; whose they are is told elsewhere."""
    wanted = {"challenge": "accept", "stray": "accept"}.get(torture.verdict, torture.verdict)
    if torture.name in UNKNOWN_METHODS:
        wanted = "501"
    assert judge(torture.data) == wanted


@pytest.mark.parametrize(
    "torture",
    [each for each in cases() if each.verdict in {"400", "501", "505"} and each.name != "test"],
    ids=lambda each: each.name,
)
def test_every_refused_request_is_answered(torture: Case):
    """The answer has the request's Vias and a To with a tag, as far as it had one."""
    with pytest.raises(SipError) as caught:
        check_fields(parse_message(torture.data))
    answer = refuse(torture.data, caught.value)
    assert answer is not None
    assert answer.startswith(f"SIP/2.0 {torture.verdict} ".encode())
    assert b"\r\nVia: SIP/" in answer
    assert answer.endswith(b"\r\n\r\n")
    assert (b"\r\nTo: " in answer) == (torture.name != "insuf")
    assert torture.name == "insuf" or b"tag=" in answer


@pytest.mark.parametrize(
    "torture", [each for each in cases() if each.verdict == "accept"], ids=lambda each: each.name
)
def test_a_message_written_again_means_the_same(torture: Case):
    """Routing values, fields and body survive a round trip."""
    once = parse_message(torture.data)
    again = parse_message(bytes(once))
    assert (again.from_, again.to, again.call_id, again.cseq, again.top) == (
        once.from_,
        once.to,
        once.call_id,
        once.cseq,
        once.top,
    )
    known = once.fields.keys() - {"content-length"}
    assert {name: again.fields[name] for name in known} == {
        name: once.fields[name] for name in known
    }
    assert again.body == once.body


def test_folds_compact_names_and_white_space_are_read():
    """RFC 4475's first message, field by field."""
    invite = parse_message(case("wsinv"))
    assert isinstance(invite, Request)
    assert invite.uri.parameters == {"unknownparam": None}
    assert (invite.to.tag, invite.from_.name, invite.from_.tag) == (
        "1918181833n",
        'J Rosenberg \\"',
        "98asjd8",
    )
    assert (invite.cseq.number, invite.max_forwards) == (9, 68)
    assert invite.first("subject") == ""
    assert [hop.transport for hop in invite.vias()] == ["UDP", "TCP", "UDP"]
    assert invite.top.parameters == {"branch": "390skdjuw"}
    assert invite.first("newfangledheader") == "newfangled value continued newfangled value"
    assert invite.first("unknownheaderwithunusualvalue") == ";;,,;;,;"
    (contact,) = invite.addresses("contact")
    assert (contact.name, contact.parameters) == (
        'Quoted string ""',
        {"newparam": "newvalue", "secondparam": None, "q": "0.33"},
    )


def test_escapes_are_resolved_once():
    """A doubly escaped value loses one of its layers, a user with blanks keeps them."""
    invite = parse_message(case("esc01"))
    assert isinstance(invite, Request)
    assert invite.uri.user == "sips:user@example.com"
    assert invite.from_.uri.user == "I have spaces"
    (contact,) = invite.addresses("contact")
    assert contact.uri.parameters == {"lr": None, "name": "value%41"}


def test_an_escaped_nul_is_a_character():
    """Neither end of text nor lost."""
    register = parse_message(case("escnull"))
    assert register.to.uri.user == "null-\0-null"
    assert str(register.to.uri) == "sip:null-%00-null@example.com"


def test_bytes_behind_the_body_are_cut():
    """RFC 3261 §18.3: a datagram's surplus is discarded."""
    register = parse_message(case("dblreq"))
    assert isinstance(register, Request)
    assert (register.method, register.body) == ("REGISTER", b"")


def test_a_binary_body_stays_as_it_is():
    """Blank lines and NULs in it are no ends."""
    message = parse_message(case("mpart01"))
    assert len(message.body) == 553
    assert b"\x02\x08\x01\x95\x00\x71\x02\x33" in message.body
    assert message.media_type().mime_type == "multipart/mixed"


def test_a_request_of_rfc_2543_has_no_branch_tag_or_hops():
    """It is served all the same."""
    invite = parse_message(case("inv2543"))
    assert isinstance(invite, Request)
    assert (invite.top.branch, invite.from_.tag, invite.max_forwards) == ("", "", None)
    assert invite.body.startswith(b"v=0")


def test_the_third_colon_is_dropped():
    """RFC 5118 §4.10: both spellings are the same host."""
    three, two = (
        parse_message(case(name))
        for name in ("ipv6-bug-abnf-3-colons", "ipv6-correct-abnf-2-colons")
    )
    assert three.uri.host == two.uri.host == "[2001:db8::192.0.2.1]"


@pytest.mark.parametrize("name", ["via-received-param-with-delim", "via-received-param-no-delim"])
def test_received_is_read_with_and_without_brackets(name: str):
    """RFC 5118 §4.5."""
    assert parse_message(case(name)).top.received == "2001:db8::9:255"


def test_bare_line_feeds_are_line_ends():
    """Simple peers send them."""
    assert parse_message(plain().replace(b"\r\n", b"\n")).call_id == "c1@example.com"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (plain() + b"x" * MESSAGE_BYTES, 513),
        (plain("INVITE", *(f"X-{n}: y" for n in range(HEADER_LINES))), 513),
        (plain("INVITE", f"X: {'y' * LINE_BYTES}"), 400),
        (plain(body=b"abc", content_length="4"), 400),
        (plain(content_length="x"), 400),
        (plain(cseq="1 BYE"), 400),
        (plain(cseq="2147483648 INVITE"), 400),
        (plain(max_forwards="256"), 400),
        (plain(max_forwards="-1"), 400),
        (plain(call_id=""), 400),
        (plain(call_id="a b"), 400),
        (plain(via="SIP/2.0/UDP [::g]"), 400),
        (plain(via="SIP/2.0/UDP a:70000"), 400),
        (plain(via="SIP/3.0/UDP a"), 505),
        (plain(from_="<sip:a@b>;tag=\r\n\t"), None),
        (plain("INVITE", "no colon"), 400),
        (plain("INVITE", "bad name: x"), 400),
        (plain("INVITE", "X: a\rb"), 400),
        (plain("INVITE", "t: <sip:c@d>"), 400),
        (plain()[:-2], 400),
        (b"", 400),
        (b"\r\n\r\n\r\n\r\n", 400),
        (plain(uri="bob"), 400),
        (plain(uri="sip:a@b@c"), 400),
        (b"SIP/2.0 99 Low\r\n" + plain().split(b"\r\n", 1)[1], DROP),
        (b"SIP/2.0 200 OK\r\nVia: x\r\n\r\n", DROP),
        (b"SIP/2.0 200 OK\r\n" + plain(content_length="9").split(b"\r\n", 1)[1], DROP),
    ],
)
def test_what_breaks_the_rules_is_refused(data: bytes, status: int | None):
    """Each with the answer that fits; None is what only looks wrong."""
    if status is None:
        parse_message(data)
        return
    with pytest.raises(SipError) as caught:
        parse_message(data)
    assert caught.value.status == status


@pytest.mark.parametrize(
    "line",
    [
        "Contact: <sip:a@b>, *",
        "Contact: <sip:a@b>,",
        'Contact: "a <sip:a@b>',
        "Route: <sip:a b>",
        "Expires: soon",
        "Session-Expires: 90;;",
        "Content-Type: nonsense",
        "Accept: application/sdp;self=1;=",
        "Accept: a/b;self=1, c",
        "Require: a,,b",
    ],
)
def test_the_full_parse_finds_what_the_fast_one_leaves(line: str):
    """Fields are judged when somebody asks for all of them."""
    message = request("INVITE", line)
    with pytest.raises(SipError):
        check_fields(message)


@pytest.mark.parametrize(
    "data", [plain("ACK", uri="bob"), b"SIP/2.0 2x0 OK\r\nVia: a\r\n\r\n", b"x"]
)
def test_what_has_nobody_to_be_told_is_not_answered(data: bytes):
    """ACKs, responses, noise."""
    with pytest.raises(SipError) as caught:
        parse_message(data)
    assert refuse(data, SipError("", 400)) is None or caught.value.status == DROP


# --- addresses


@pytest.mark.parametrize(
    "text",
    [
        "sip:alice@example.com",
        "sips:alice:secret@example.com:5061;transport=tcp;lr?subject=x&priority=urgent",
        "sip:+1-212-555-0101:1234@gateway.example.com;user=phone",
        "sip:example.com",
        "sip:[2001:db8::1]:5070;maddr=[ff02::1]",
        "sip:a%40b@example.com",
        "tel:+358-555-1234567;phone-context=example.com",
        "tel:7042;phone-context=+1914555",
        "urn:service:sos",
        "mailto:a@b",
    ],
)
def test_a_uri_is_written_as_it_was_read(text: str):
    """With all of its parts."""
    assert parse_uri(str(parse_uri(text))) == parse_uri(text)
    assert str(parse_uri(text)) == text


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("sip:+1(212)555-0101@example.com;user=phone", "+12125550101"),
        ("tel:+49.30.1234", "+49301234"),
        ("sip:+4930123;ext=7@example.com", "+4930123"),
        ("sip:alice@example.com", None),
        ("tel:112", None),
    ],
)
def test_a_global_number_is_found(text: str, number: str | None):
    """In sip and tel alike, without separators and parameters."""
    assert parse_uri(text).number == number


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        # RFC 3261 §19.1.4's pairs, with names of our own.
        ("sip:%61nn@heights.example;transport=TCP", "sip:ann@HeightS.example;Transport=tcp", True),
        ("sip:carol@town.example", "sip:carol@town.example;newparam=5", True),
        ("sip:carol@town.example;security=on", "sip:carol@town.example;newparam=5", True),
        ("sip:b@x.example?a=1&b=2", "sip:b@x.example?B=2&A=1", True),
        ("SIP:ann@x.example", "sip:Ann@x.example", False),
        ("sip:bob@x.example", "sip:bob@x.example:5060", False),
        ("sip:bob@x.example", "sip:bob@x.example;transport=udp", False),
        ("sip:carol@town.example;security=on", "sip:carol@town.example;security=off", False),
        ("sip:b@x.example?a=1", "sip:b@x.example", False),
        ("tel:+1-2", "tel:+12", True),
        ("sip:a@b", "sips:a@b", False),
    ],
)
def test_uris_are_compared_by_the_rules(one: str, other: str, same: bool):  # noqa: FBT001 a table
    """Case, order, and which parameters may be missing."""
    assert is_same_uri(parse_uri(one), parse_uri(other)) is same
    assert is_same_uri(parse_uri(other), parse_uri(one)) is same


@pytest.mark.parametrize(
    "text",
    [
        "sip:",
        "sip:@x",
        "sip:a@",
        "sip:a@b:0",
        "sip:a@b:99999",
        "sip:a b@c",
        "sip:[::1",
        "sip:[1]",
        "1:x",
        *(
            "tel:",
            "tel:xyz",
            "tel:+1 2",
            "urn:",
            "urn:a b",
            "sip:a@b;" + ";".join(map(str, range(99))),
        ),
        "sip:a@b?" + "&".join(f"{n}=" for n in range(99)),
    ],
)
def test_a_uri_that_is_none_is_refused(text: str):
    """With 400."""
    with pytest.raises(SipError):
        parse_uri(text)


texts = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), max_size=12)
tokens = st.text("abcXYZ019-.!%*_+`'~", min_size=1, max_size=8)
hosts = st.sampled_from(["example.com", "192.0.2.1", "[2001:db8::1]", "a_b-c.d"])
ports = st.none() | st.integers(1, 65535)
# Names are compared without regard to case, so generated ones have none.
named = st.dictionaries(tokens.map(str.lower), st.none() | texts, max_size=4)
uris = st.builds(
    Uri,
    st.sampled_from(["sip", "sips"]),
    hosts,
    texts,
    ports,
    parameters=named,
    headers=st.lists(st.tuples(tokens, texts), max_size=2).map(tuple),
)


@given(uris)
def test_any_uri_survives_being_written(uri: Uri):
    """Whatever stands in user, parameters and headers."""
    assert parse_uri(str(uri)) == uri


@given(st.builds(Address, uris, texts.map(lambda text: " ".join(text.split())), named))
def test_any_address_survives_being_written(address: Address):
    """Whatever the display name is."""
    assert parse_address(str(address)) == address
    assert [parse_address(each) for each in split_list(f"{address}, {address}")] == [address] * 2


@given(st.builds(Via, tokens.map(str.upper), hosts, ports, named))
def test_any_via_survives_being_written(hop: Via):
    """Whatever parameters it has."""
    assert parse_via(str(hop)) == hop


@given(texts)
def test_a_quoted_string_gives_its_text_back(text: str):
    """Quotes and backslashes too."""
    assert unquoted(quoted(text)) == text


READERS = (
    *(parse_uri, parse_address, parse_via, parse_cseq, parse_valued, parse_parameters),
    *(parse_number, split_list),
)


@pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__)
@given(text=st.text() | st.text('<>"\\;,=:@?[]%* sip/2.0UDP\t\0'))
def test_no_text_breaks_a_reader(read, text: str):
    """A value, or SipError: anything else would pass through and fail."""
    with contextlib.suppress(SipError):
        read(text)


# --- building


def test_a_request_we_build_is_read_by_another_library():
    """`sipmessage`, which knows nothing of us, finds every value where it belongs."""
    built = build_request(
        "INVITE",
        parse_uri("sip:bob@192.0.2.2:5070;transport=tcp"),
        via=via("z9hG4bKx"),
        from_=Address(parse_uri("sip:ann@example.com"), 'Ann "A"', {"tag": "t1"}),
        to=Address(parse_uri("sip:bob@example.com")),
        call_id="id1",
        cseq=7,
    )
    built.put_body(b"v=0\r\n", "application/sdp")
    built.put("Contact", Address(parse_uri("sip:ann@192.0.2.9")))
    read = sipmessage.Message.parse(bytes(built))
    assert isinstance(read, sipmessage.Request)
    assert (read.method, str(read.uri)) == ("INVITE", str(built.uri))
    assert (read.from_address.name, read.from_address.parameters["tag"]) == ('Ann "A"', "t1")
    assert (str(read.cseq), read.call_id, read.max_forwards) == ("7 INVITE", "id1", 70)
    assert read.via[0].parameters["branch"] == "z9hG4bKx"
    assert (read.content_length, read.body) == (5, b"v=0\r\n")
    assert str(read.contact[0].uri) == "sip:ann@192.0.2.9"


def test_a_response_copies_what_it_must():
    """Every Via in order, From, To with a tag, Call-ID, CSeq, and the route of a new dialog."""
    asked = request(
        "INVITE",
        "Via: SIP/2.0/TCP 192.0.2.3;branch=z9hG4bKtwo, SIP/2.0/UDP 192.0.2.4",
        "Record-Route: <sip:p1;lr>",
        "Record-Route: <sip:p2;lr>",
        "Timestamp: 54",
    )
    ringing = parse_message(bytes(build_response(asked, 180, tag="mine")))
    assert isinstance(ringing, Response)
    assert [hop.host for hop in ringing.vias()] == ["192.0.2.1", "192.0.2.3", "192.0.2.4"]
    assert (ringing.to.tag, ringing.phrase) == ("mine", "Ringing")
    assert ringing.fields["record-route"] == ["<sip:p1;lr>", "<sip:p2;lr>"]
    assert "timestamp" not in ringing.fields
    trying = build_response(asked, 100, tag="mine")
    assert (trying.to.tag, trying.first("timestamp"), trying.first("record-route")) == (
        "",
        "54",
        None,
    )
    assert build_response(asked, 486, "Nobody home").phrase == "Nobody home"
    assert "record-route" not in build_response(asked, 486).fields


def test_a_tag_is_not_added_twice():
    """A To within a dialog has one."""
    asked = request("BYE", to="<sip:bob@example.com>;tag=b9")
    assert build_response(asked, 200, tag="other").to.tag == "b9"


def test_a_header_with_a_line_end_is_our_mistake():
    """No value of a call's can add a header."""
    with pytest.raises(LocalError):
        request().put("subject", "a\r\nX: b")


def test_an_unanswerable_phrase_is_still_one():
    """A status without words of its own takes its class's."""
    assert (phrase_of(499), phrase_of(799)) == ("Bad Request", "Unknown")


def test_the_stateless_tag_is_the_same_for_the_same_request():
    """And another for another (RFC 3261 §8.2.7)."""
    assert stateless_tag(request()) == stateless_tag(request())
    assert stateless_tag(request()) != stateless_tag(request(call_id="c2"))


@pytest.mark.parametrize(
    ("top", "written", "port"),
    [
        ("SIP/2.0/UDP 192.0.2.7:5066;branch=b", {"branch": "b"}, 5066),
        ("SIP/2.0/UDP 10.0.0.1:5066;branch=b", {"branch": "b", "received": "192.0.2.7"}, 5066),
        ("SIP/2.0/UDP host.example", {"received": "192.0.2.7"}, 5060),
        ("SIP/2.0/UDP 192.0.2.7:5066;rport", {"rport": "4000", "received": "192.0.2.7"}, 4000),
        ("SIP/2.0/UDP 192.0.2.7;maddr=192.0.2.250", {"maddr": "192.0.2.250"}, 5060),
    ],
)
def test_the_top_via_says_where_the_answer_goes(top: str, written: dict[str, str], port: int):
    """RFC 3261 §18.2.1 and RFC 3581; never where a stranger names."""
    asked = request("OPTIONS", via=f"{top}, SIP/2.0/UDP 192.0.2.8")
    note_source(asked, "192.0.2.7", 4000)
    again = parse_message(bytes(asked))
    assert again.top.parameters == written
    assert [hop.host for hop in again.vias()][1:] == ["192.0.2.8"]
    assert answer_port(again.top, 4000) == port


# --- what a user agent refuses


@pytest.mark.parametrize(
    ("asked", "status", "field"),
    [
        (request("UPDATE"), 405, "allow"),
        (request("WINK"), 501, "allow"),
        (request(uri="http:x"), 416, None),
        (request("INVITE", "Require: 100rel, gruu"), 420, "unsupported"),
        (request("INVITE", "Content-Type: text/plain", body=b"x"), 415, "accept"),
        (request("INVITE", "c: application/sdp", "e: gzip", body=b"x"), 415, "accept-encoding"),
        (request("INVITE", "Accept: text/plain"), 406, None),
        (request("INVITE", "Accept: application/*"), None, None),
        (request("INVITE", "c: multipart/mixed;boundary=x", body=b"x"), None, None),
        (
            request(
                "INVITE", "c: x/y", "Content-Disposition: session;handling=optional", body=b"x"
            ),
            None,
            None,
        ),
        (request("CANCEL", "Require: 100rel"), None, None),
        (request("ACK", "Require: 100rel"), None, None),
        (request(), None, None),
    ],
)
def test_a_request_that_is_not_for_us_is_refused(
    asked: Request, status: int | None, field: str | None
):
    """RFC 3261 §8.2, in its order, with the field that tells the caller what would do."""
    objection = find_objection(asked, ABLE)
    assert (objection and objection.status) == status
    if objection is not None:
        answer = objection.answer(asked, "t")
        assert answer.to.tag == "t"
        assert field is None or answer.first(field)


def test_a_field_that_is_not_there_is_none():
    """Or removed."""
    asked = request("INVITE", "Expires: 60", "Event: presence;id=7", "Allow: INVITE, ack")
    assert (asked.number("expires"), str(asked.valued("event"))) == (60, "presence;id=7")
    assert asked.words("allow") == ["invite", "ack"]
    asked.put("Expires")
    assert (asked.number("expires"), asked.valued("replaces"), asked.media_type()) == (
        None,
        None,
        None,
    )
    assert asked.is_initial


def test_a_message_can_be_told_final_from_provisional():
    """200 and above."""
    assert [build_response(request(), status).is_final for status in (199, 200)] == [False, True]


def test_the_long_and_the_many_are_refused_too():
    """The answer is cut to what can be read of the request."""
    for data in (
        plain() + b"x" * MESSAGE_BYTES,
        plain("INVITE", *(f"X-{n}: y" for n in range(2 * HEADER_LINES))),
        plain("INVITE", "no colon", "t: <sip:c@d>"),
        plain()[:-2],
    ):
        with pytest.raises(SipError) as caught:
            parse_message(data)
        answer = refuse(data, caught.value)
        assert answer is not None
        assert parse_message(answer).call_id == "c1@example.com"


def test_a_request_without_a_via_is_not_refused():
    """There is nobody to tell."""
    data = plain().replace(b"via:", b"x-via:")
    assert refuse(data, SipError("")) is None
    assert refuse(plain(), SipError("", DROP)) is None


def test_a_uri_can_be_given_parameters():
    """The value itself stays as it is."""
    uri = parse_uri("sip:a@b;lr")
    assert str(uri.with_parameters(transport="tcp")) == "sip:a@b;lr;transport=tcp"
    assert str(uri) == "sip:a@b;lr"
