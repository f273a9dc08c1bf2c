"""SIPp: scenarios put together from steps, run against an address, and what its statistics say.

A scenario is a list of texts, each one element of SIPp's XML. `[…]` words in messages are SIPp's own:
after an answer that was received with `rrs`, `[next_url]` and `[routes]` lead where the dialog leads. A
message of the other side that the scenario does not expect fails the call; and one failed call is
enough for exit status 1. Its standard error and the trace of messages stay in the test's directory.
Source: SIPp 3.6's own documentation.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.interop.programs import Program, free_ports, made, program

HEAD = '<?xml version="1.0" encoding="ISO-8859-1" ?>\n<scenario name="{name}">\n'
REQUEST = """\
{method} {uri} SIP/2.0
Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
From: <sip:sipp@[local_ip]:[local_port]>;tag=[pid]SIPp[call_number]
To: <sip:[service]@[remote_ip]:[remote_port]>{to_tag}
Call-ID: [call_id]
CSeq: {cseq} {cseq_method}
Contact: <sip:sipp@[local_ip]:[local_port];transport=[transport]>
Max-Forwards: 70
{headers}{body}"""
OUR_TAG = ";tag=[pid]SIPp[call_number]"
RTPMAPS = {
    0: "PCMU/8000",
    8: "PCMA/8000",
    9: "G722/8000",
    96: "telephone-event/8000",
    101: "telephone-event/8000",
}


def send(text: str, *, retrans: bool = False, more: str = "", action: str = "") -> str:
    """A message goes out, again as RFC 3261 says if `retrans`."""
    again = ' retrans="500"' if retrans else ""
    actions = f"<action>{action}</action>" if action else ""
    return f"<send{again}{more}><![CDATA[\n\n{text}\n]]>{actions}</send>"


def request(
    method: str,
    cseq: int | str,
    *,
    body: str = "",
    kind: str = "application/sdp",
    headers: Sequence[str] = (),
    begins: bool = False,
    cseq_method: str = "",
) -> str:
    """A request within the dialog, or the one that `begins` it."""
    fields = list(headers)
    if not begins:
        fields.append("[routes]")
    if body:
        fields.append(f"Content-Type: {kind}")
    fields.append("Content-Length: [len]")
    return REQUEST.format(
        method=method,
        uri="sip:[service]@[remote_ip]:[remote_port]" if begins else "[next_url]",
        to_tag="" if begins else "[peer_tag_param]",
        cseq=cseq,
        cseq_method=cseq_method or method,
        headers="\n".join(fields) + "\n\n",
        body=body,
    )


def invite(body: str = "", *headers: str, cseq: int = 1, more: str = "") -> str:
    """The first INVITE of a call."""
    return send(
        request("INVITE", cseq, body=body, headers=headers, begins=True), retrans=True, more=more
    )


def again(body: str, *headers: str, cseq: int) -> str:
    """A re-INVITE."""
    return send(request("INVITE", cseq, body=body, headers=headers), retrans=True)


def ack(cseq: int, body: str = "", *, action: str = "") -> str:
    """The ACK of a 2xx."""
    return send(request("ACK", cseq, body=body), action=action)


def ack_refused(cseq: int) -> str:
    """The ACK of any other final answer, which belongs to the INVITE's transaction."""
    text = request("ACK", cseq, begins=True)
    text = text.replace("branch=[branch]", "branch=[branch-1]")
    return send(text.replace("[remote_port]>\n", "[remote_port]>[peer_tag_param]\n", 1))


def bye(cseq: int) -> str:
    """We hang up."""
    return send(request("BYE", cseq), retrans=True)


def cancel(cseq: int = 1) -> str:
    """CANCEL of the INVITE that was sent last: its branch."""
    text = request("CANCEL", cseq, begins=True)
    return send(text.replace("branch=[branch]", "branch=[branch-1]"), retrans=True)


def expect(
    status: int, *, optional: bool = False, action: str = "", more: str = "", begins: bool = False
) -> str:
    """An answer comes in; one that `begins` a dialog gives it its route."""
    attributes = ' optional="true"' if optional else ' rrs="true"' if begins else ""
    actions = f"<action>{action}</action>" if action else ""
    return f'<recv response="{status}"{attributes}{more}>{actions}</recv>'


def ringing() -> str:
    """Whatever may come before the final answer."""
    return "\n".join(expect(status, optional=True) for status in (100, 180, 183))


def answered(cseq: int = 1, body: str = "", *, more: str = "", action: str = "") -> str:
    """The call is taken, and that is acknowledged."""
    return "\n".join(
        (ringing(), expect(200, more=more, begins=True), ack(cseq, body, action=action))
    )


def asked(method: str, *, action: str = "", more: str = "") -> str:
    """A request of theirs comes in."""
    actions = f"<action>{action}</action>" if action else ""
    return f'<recv request="{method}"{more}>{actions}</recv>'


def called() -> str:
    """An INVITE of theirs comes in, and is kept, since other requests come before it is answered."""
    names = (("Via", "via"), ("From", "from"), ("To", "to"), ("CSeq", "cseq"))
    kept = "".join(
        f'<ereg regexp=".*" search_in="hdr" header="{name}:" check_it="true" assign_to="{to}"/>'
        for name, to in names
    )
    return asked("INVITE", action=kept, more=' rrs="true"')


def reply(status: str, *headers: str, body: str = "") -> str:
    """What the INVITE that was kept is answered with, until that is acknowledged."""
    fields = [
        f"SIP/2.0 {status}",
        "Via:[$via]",
        "From:[$from]",
        f"To:[$to]{OUR_TAG}",
        "Call-ID: [call_id]",
        "CSeq:[$cseq]",
        "Contact: <sip:sipp@[local_ip]:[local_port];transport=[transport]>",
        *headers,
    ]
    if body:
        fields.append("Content-Type: application/sdp")
    fields.append("Content-Length: [len]")
    return send("\n".join(fields) + "\n\n" + body, retrans=True)


def ask(method: str, cseq: int, *headers: str) -> str:
    """A request of ours in a call that they began."""
    fields = [
        f"{method} [next_url] SIP/2.0",
        "Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]",
        f"From:[$to]{OUR_TAG}",
        "To:[$from]",
        "Call-ID: [call_id]",
        f"CSeq: {cseq} {method}",
        "Contact: <sip:sipp@[local_ip]:[local_port];transport=[transport]>",
        "Max-Forwards: 70",
        "[routes]",
        *headers,
        "Content-Length: 0",
    ]
    return send("\n".join(fields) + "\n\n", retrans=True)


def answer(status: str, *headers: str, body: str = "", retrans: bool = False) -> str:
    """What theirs is answered with."""
    fields = [
        f"SIP/2.0 {status}",
        *(f"[last_{name}:]" for name in ("Via", "From", "To", "Call-ID", "CSeq")),
        "Contact: <sip:sipp@[local_ip]:[local_port];transport=[transport]>",
        *headers,
    ]
    if body:
        fields.append("Content-Type: application/sdp")
    fields.append("Content-Length: [len]")
    return send("\n".join(fields) + "\n\n" + body, retrans=retrans)


def pause(seconds: float) -> str:
    """Nothing is done for so long."""
    return f'<pause milliseconds="{int(seconds * 1000)}"/>'


def must_match(pattern: str, header: str = "") -> str:
    """The message has this, else the call has failed; in one header or anywhere."""
    where = f'search_in="hdr" header="{header}:"' if header else 'search_in="msg"'
    return (
        f'<ereg regexp="{pattern}" {where} check_it="true" assign_to="1"/><log message="has [$1]"/>'
    )


def play(path: Path, payload: int = 0) -> str:
    """SIPp streams bare payload of this type, over and over."""
    return f'<exec rtp_stream="{path},-1,{payload}"/>'


def sdp(*formats: int, direction: str = "sendrecv", version: int = 1, more: str = "") -> str:
    """A session description with these payload types."""
    chosen = formats or (0, 101)
    lines = [
        "v=0",
        f"o=sipp 53655765 {version} IN IP[local_ip_type] [local_ip]",
        "s=-",
        "c=IN IP[media_ip_type] [media_ip]",
        "t=0 0",
        f"m=audio [media_port] RTP/AVP {' '.join(map(str, chosen))}",
        *(f"a=rtpmap:{number} {RTPMAPS[number]}" for number in chosen),
        f"a={direction}",
    ]
    return "\n".join(lines) + "\n" + more


@dataclass(frozen=True)
class Target:
    """Whom SIPp calls."""

    host: str
    port: int
    user: str = "echo"

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@asynccontextmanager
async def sipp(
    place: Path,
    target: Target,
    steps: Sequence[str],
    *words: str,
    name: str = "scenario",
    calls: int = 1,
    seconds: float = 30,
    port: int = 0,
) -> AsyncIterator[Program]:
    """Run a scenario until the block ends; on a port of one's choice, when it waits to be called."""
    scenario = made(place) / f"{name}.xml"
    scenario.write_text(HEAD.format(name=name) + "\n".join(steps) + "\n</scenario>\n")
    own, media, control = port or free_ports(), free_ports(4), free_ports()
    bare = target.host.strip("[]")
    fixed = (
        *(str(target), "-sf", str(scenario), "-m", str(calls), "-nostdin", "-s", target.user),
        *("-i", bare, "-p", str(own), "-mi", bare, "-mp", str(media), "-cp", str(control)),
        *("-trace_err", "-trace_msg", "-trace_logs", "-message_file", str(place / f"{name}.txt")),
        *("-error_file", str(place / f"{name}.errors"), "-log_file", str(place / f"{name}.said")),
        *("-timeout", f"{int(seconds)}s", "-timeout_error", "-skip_rlimit"),
    )
    async with program("sipp", *fixed, *words, place=place, log=f"{name}.screen") as running:
        yield running


async def play_out(
    place: Path,
    target: Target,
    steps: Sequence[str],
    *words: str,
    name: str = "scenario",
    calls: int = 1,
    seconds: float = 30,
) -> str:
    """Run a scenario to its end, which must be a good one: the messages that it saw."""
    async with sipp(
        place, target, steps, *words, name=name, calls=calls, seconds=seconds
    ) as running:
        status = await running.ended(seconds + 5)
    errors = place / f"{name}.errors"
    trace = place / f"{name}.txt"
    said = errors.read_text(errors="replace") if errors.exists() else running.log[-2000:]
    seen = trace.read_text(errors="replace") if trace.exists() else ""
    assert status == 0, f"sipp ended with {status}: {said[-3000:]}\n{seen[-6000:]}"
    return seen
