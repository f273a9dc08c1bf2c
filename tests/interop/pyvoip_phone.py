"""A pyVoIP telephone, which is a process of its own: pyVoIP is GPLv3, and all threads.

    pyvoip_phone.py USER SERVER_PORT SIP_PORT RTP_LOW RTP_HIGH

Registers with the password `secret`, answers every call, and then does what it reads: `call
USER`, `hangup`, `key`, `hear SECONDS`, `quit`. What happens goes out as lines: `REGISTERED`, `ANSWERED`,
`ENDED`, `KEY 5`, `HEARD n` (packets of 20 ms that were not silence). It plays a 440 Hz tone.
"""

from __future__ import annotations

import math
import sys
import threading
import time

from pyVoIP.VoIP import CallState, VoIPCall, VoIPPhone
from pyVoIP.VoIP.status import PhoneStatus

FRAME = 160
LIMIT_SECONDS = 10.0
TONE = bytes(128 + int(60 * math.sin(2 * math.pi * 11 * at / 200)) for at in range(200)) * 80
"""Two seconds of unsigned 8 bit samples, which is pyVoIP's own format; 440 Hz."""


class Telephone:
    """The one call at a time that it has."""

    def __init__(self, user: str, server_port: int, port: int, low: int, high: int) -> None:
        self.call: VoIPCall | None = None
        self.phone = VoIPPhone(
            "127.0.0.1",
            server_port,
            user,
            "secret",
            myIP="127.0.0.1",
            sipPort=port,
            rtpPortLow=low,
            rtpPortHigh=high,
            callCallback=self.ring,
        )

    def start(self) -> None:
        """Register."""
        self.phone.start()
        wait(lambda: self.phone.get_status() is PhoneStatus.REGISTERED)
        say("REGISTERED")

    def ring(self, call: VoIPCall) -> None:
        """A call comes in."""
        self.call = call
        call.answer()
        self.talk(call)

    def dial(self, user: str) -> None:
        """A call goes out."""
        self.call = self.phone.call(user)
        call = self.call
        wait(lambda: call.state is not CallState.DIALING)
        self.talk(call)

    def talk(self, call: VoIPCall) -> None:
        """Say that it is up, play, and say when it is over."""
        say("ANSWERED" if call.state is CallState.ANSWERED else f"FAILED {call.state}")
        threading.Thread(target=self.watch, args=(call,), daemon=True).start()

    def watch(self, call: VoIPCall) -> None:
        """Play the tone until the end; keys are told as they come."""
        played = 0.0
        while call.state is CallState.ANSWERED:
            if time.monotonic() > played:
                call.write_audio(TONE)
                played = time.monotonic() + len(TONE) / 8000 - 0.5
            if key := call.get_dtmf():
                say(f"KEY {key}")
            time.sleep(0.02)
        say("ENDED")

    def hear(self, seconds: float) -> None:
        """Count frames that are not silence."""
        assert self.call is not None
        end = time.monotonic() + seconds
        count = 0
        while time.monotonic() < end and self.call.state is CallState.ANSWERED:
            frame = self.call.read_audio(FRAME, blocking=True)
            count += max(frame) - min(frame) > 20
        say(f"HEARD {count}")


def wait(condition) -> None:
    """Until it is so; ends the program when that takes too long."""
    end = time.monotonic() + LIMIT_SECONDS
    while not condition():
        if time.monotonic() > end:
            say("TIMED OUT")
            sys.exit(1)
        time.sleep(0.02)


def say(line: str) -> None:
    """A line for the test."""
    print(line, flush=True)  # noqa: T201 a program of its own


def main() -> None:
    """Start it, and do as it is told."""
    telephone = Telephone(sys.argv[1], *(int(word) for word in sys.argv[2:6]))
    telephone.start()
    for line in sys.stdin:
        command, _, value = line.strip().partition(" ")
        if command == "call":
            telephone.dial(value)
        elif command == "hangup" and telephone.call is not None:
            telephone.call.hangup()
        elif command == "hear":
            telephone.hear(float(value))
        elif command == "quit":
            break
    telephone.phone.stop()


if __name__ == "__main__":
    main()
