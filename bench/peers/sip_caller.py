"""A SIP caller in the fewest words: texts by hand, one blocking UDP socket, no flowcatd in it.

What measures or tests a user agent must not share its mistakes, so this reads and writes messages with
string operations alone: RFC 3261 §8.1 (INVITE, ACK, BYE, CANCEL), with rport, without forking, routes or
authentication. Requests of the other side are answered 200. A request is repeated once a second, three
times; that is enough on loopback. `Times` are seconds of the monotonic clock.
"""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

REPEAT_SECONDS = 1.0
REPEATS = 4
BYTES_MAX = 65_536
SDP = (
    "v=0\r\no=peer 1 1 IN IP4 {host}\r\ns=-\r\nc=IN IP4 {host}\r\nt=0 0\r\n"
    "m=audio {port} RTP/AVP {payload} 101\r\na=rtpmap:101 telephone-event/8000\r\n"
    "a=fmtp:101 0-15\r\na=ptime:20\r\na=sendrecv\r\n"
)


class NotAnsweredError(Exception):
    """The call did not come about; the text is the status line, or that there was none."""


@dataclass(frozen=True, slots=True)
class Message:
    """One that came in; header names are small letters, the first of each counts."""

    start: str
    fields: dict[str, str]
    body: str

    @property
    def status(self) -> int:
        """Of an answer; 0 for a request."""
        return int(self.start.split(" ")[1]) if self.start.startswith("SIP/2.0") else 0


@dataclass(slots=True)
class Placed:
    """A call that is up, or is to be."""

    call_id: str
    tag: str
    branch: str
    to: str
    target: str = ""
    media: tuple[str, int] = ("", 0)
    """Where the other side wants its RTP."""
    answer_seconds: float = 0.0
    """From the INVITE to its 200."""
    cseq: int = 1
    statuses: list[int] = field(default_factory=list)
    """Of all answers to the INVITE."""
    is_over: bool = False
    """They hung up."""


class SipCaller:
    """Calls one address; used by one thread."""

    def __init__(self, host: str, port: int, user: str = "echo", local: str = "127.0.0.1") -> None:
        """Binds a free port."""
        self.uri = f"sip:{user}@{host}:{port}"
        self.to = (host, port)
        self.calls: dict[str, Placed] = {}
        self.last = ""
        """The INVITE that was sent last."""
        self._local = local
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((local, 0))
        self.port = int(self._socket.getsockname()[1])

    def close(self) -> None:
        """Give the port back."""
        self._socket.close()

    def call(self, media_port: int, payload: int = 0) -> Placed:
        """INVITE, and ACK of its 200; NotAnsweredError when it is another."""
        placed = self.invite(media_port, payload)
        begun = time.monotonic()
        answer = self._ask(placed, self.last, "INVITE")
        placed.answer_seconds = time.monotonic() - begun
        self.acknowledge(placed, answer)
        return placed

    def invite(self, media_port: int, payload: int = 0) -> Placed:
        """Only the INVITE, sent once."""
        placed = Placed(secrets.token_hex(8), secrets.token_hex(4), _branch(), f"<{self.uri}>")
        self.calls[placed.call_id] = placed
        body = SDP.format(host=self._local, port=media_port, payload=payload)
        self.last = self.request(placed, "INVITE", self.uri, placed.branch, body)
        self.send(self.last)
        return placed

    def acknowledge(self, placed: Placed, answer: Message) -> None:
        """ACK a final answer; what a 200 says of the dialog is kept."""
        placed.to = answer.fields["to"]
        if answer.status >= 300:
            self.send(self.request(placed, "ACK", self.uri, placed.branch))
            raise NotAnsweredError(answer.start)
        placed.target = answer.fields["contact"].split("<", 1)[1].split(">", 1)[0]
        lines = answer.body.splitlines()
        host = next(line.split()[2] for line in lines if line.startswith("c="))
        port = next(int(line.split()[1]) for line in lines if line.startswith("m=audio"))
        placed.media = (host, port)
        self.send(self.request(placed, "ACK", placed.target))

    def hang_up(self, placed: Placed) -> int:
        """BYE: the status of its answer."""
        placed.cseq += 1
        text = self.request(placed, "BYE", placed.target)
        self.send(text)
        status = self._ask(placed, text, "BYE").status
        self.calls.pop(placed.call_id, None)
        return status

    def cancel(self, placed: Placed) -> None:
        """CANCEL of its INVITE."""
        self.send(self.request(placed, "CANCEL", self.uri, placed.branch))

    def send(self, text: str) -> None:
        """One datagram."""
        self._socket.sendto(text.encode(), self.to)

    def wait(self, wanted: Callable[[Message], bool], seconds: float) -> Message | None:
        """The first message that is wanted; whatever else comes is taken care of."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                data = self._socket.recv(BYTES_MAX)
            except TimeoutError:
                return None
            message = parse(data)
            self._note(message)
            if wanted(message):
                return message
        return None

    def request(
        self, placed: Placed, method: str, uri: str, branch: str = "", body: str = ""
    ) -> str:
        """The text of a request of this call; of a transaction of its own without a branch."""
        branch = branch or _branch()
        here = f"{self._local}:{self.port}"
        kind = "Content-Type: application/sdp\r\n" if body else ""
        return (
            f"{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {here};rport;branch={branch}\r\n"
            f"From: <sip:peer@{here}>;tag={placed.tag}\r\nTo: {placed.to}\r\n"
            f"Call-ID: {placed.call_id}\r\nCSeq: {placed.cseq} {method}\r\n"
            f"Contact: <sip:peer@{here}>\r\nMax-Forwards: 70\r\n"
            f"{kind}Content-Length: {len(body)}\r\n\r\n{body}"
        )

    def _note(self, message: Message) -> None:
        placed = self.calls.get(message.fields.get("call-id", ""))
        if message.status:
            if placed is not None and message.fields.get("cseq", "").endswith("INVITE"):
                placed.statuses.append(message.status)
            return
        if message.start.startswith("ACK"):
            return
        if placed is not None and message.start.startswith("BYE"):
            placed.is_over = True
        names = ("Via", "From", "To", "Call-ID", "CSeq")
        told = "".join(f"{name}: {message.fields[name.lower()]}\r\n" for name in names)
        self.send(f"SIP/2.0 200 OK\r\n{told}Content-Length: 0\r\n\r\n")

    def _ask(self, placed: Placed, text: str, method: str) -> Message:
        def is_final(message: Message) -> bool:
            return (
                message.status >= 200
                and message.fields.get("call-id") == placed.call_id
                and message.fields.get("cseq", "").endswith(method)
            )

        for _ in range(REPEATS):
            answer = self.wait(is_final, REPEAT_SECONDS)
            if answer is not None:
                return answer
            self.send(text)
        raise NotAnsweredError(f"no answer to {method}")


def parse(data: bytes) -> Message:
    """A message that we may trust to be one."""
    head, _, body = data.decode().partition("\r\n\r\n")
    start, *lines = head.split("\r\n")
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        fields.setdefault(name.strip().lower(), value.strip())
    return Message(start, fields, body)


def _branch() -> str:
    return f"z9hG4bK{secrets.token_hex(8)}"
