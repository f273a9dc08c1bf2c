"""`flowcatd call` as a process: what it prints, and with which code it exits."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from functools import partial
from pathlib import Path

import pytest

from flowcatd.audio.wav import SampleFormat, parse_wav, wav_header
from flowcatd.caller.cli import Status, add_arguments
from flowcatd.caller.turns import Kind, Wish
from tests.flowcatd.caller.answering import Habits, answering
from tests.flowcatd.caller.played import PlayedAgent, tone
from tests.flowcatd.caller.serving import daemon

ROOT = Path(__file__).parents[3]
COMMAND = (
    "import argparse, sys; from flowcatd.caller.cli import add_arguments, run;"
    "parser = argparse.ArgumentParser('flowcatd call'); add_arguments(parser);"
    "sys.exit(run(parser.parse_args()))"
)
AGENT = partial(PlayedAgent, lines=("hello", "which time", "goodbye"), line_ms=100)
QUICK = ("--answer-silence-ms", "150", "--timeout", "20")


async def start(*arguments: str, **variables: str) -> Process:
    """The command, running with these variables beside our own."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", COMMAND, *arguments),
        cwd=ROOT,
        env=os.environ | variables,
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
    )


async def call(*arguments: str, typed: str = "", **variables: str) -> tuple[int | None, str, str]:
    """Exit code, standard output and standard error."""
    process = await start(*arguments, **variables)
    async with asyncio.timeout(40):
        out, err = await process.communicate(typed.encode())
    return process.returncode, out.decode(), err.decode()


def parsed(*arguments: str) -> argparse.Namespace:
    """What the options mean."""
    parser = argparse.ArgumentParser("flowcatd call")
    add_arguments(parser)
    return parser.parse_args(arguments)


@pytest.fixture
def sound(tmp_path: Path) -> str:
    """A sound file of 200 ms."""
    path = tmp_path / "one.wav"
    path.write_bytes(wav_header(8000, 1, 1600, SampleFormat.PCM16) + tone(200))
    return str(path)


def test_turns_keep_the_order_of_the_command_line():
    """Whatever they are, and an interruption belongs to the turn before it."""
    args = parsed(
        "--say", "a", "--digits", "12", "--interrupt-after", "300", "--wav", "x", "--say", "b"
    )
    assert args.wishes == [
        Wish(Kind.SAY, "a"),
        Wish(Kind.DIGITS, "12", 300),
        Wish(Kind.WAV, "x"),
        Wish(Kind.SAY, "b"),
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--interrupt-after", "300"),
        ("--timeout", "0"),
        ("--timeout", "soon"),
        ("--answer-silence-ms", "5"),
        ("--carrier", "pigeon"),
        ("--what",),
    ],
)
def test_arguments_that_will_not_do_have_their_own_code(arguments, capsys):
    """And one line that says so."""
    with pytest.raises(SystemExit) as caught:
        parsed(*arguments)
    assert caught.value.code == Status.BAD_ARGUMENTS
    assert capsys.readouterr().err.count("\n") == 1


async def test_a_call_to_its_end_is_shown_and_exits_with_0(sound, tmp_path):
    """The conversation as it went, a recording, and the figures."""
    record = tmp_path / "heard.wav"
    async with daemon(AGENT) as there:
        code, out, err = await call(
            there.url, *QUICK, "--wav", sound, "--digits", "1", "--record", str(record)
        )
        assert there.agents[0].digits == "1"
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith(f"calling {there.url}/telephony/ws/twilio/call-")
    assert lines[1].strip() == "call c1, agent played"
    assert [line.split()[1:3] for line in lines[2:-2] if "understood" not in line] == [
        ["agent", "hello"],
        ["caller", "one.wav"],
        ["agent", "which"],
        ["caller", "presses"],
        ["agent", "goodbye"],
    ]
    assert lines[-2] == "the agent ended the call: completed"
    assert "2 answered, after" in lines[-1]
    wav = parse_wav(record.read_bytes())
    assert wav.channels == 2
    assert wav.seconds > 0.5


async def test_json_is_one_object_and_nothing_else(sound):
    """For scripts and tests."""
    async with daemon(AGENT) as there:
        code, out, _ = await call(
            "--url", there.url, *QUICK, "--json", "--wav", sound, "--wav", sound
        )
    figures = json.loads(out)
    assert code == 0
    assert out.count("\n") == 1
    assert figures["reached_end"] is True
    assert figures["close_code"] == 1000
    assert len(figures["answer_ms"]) == 2
    assert [row["role"] for row in figures["turns"]] == [
        "agent",
        "caller",
        "agent",
        "caller",
        "agent",
    ]


async def test_a_call_that_does_not_reach_its_end_exits_with_1(sound):
    """With the reason."""
    async with daemon(partial(AGENT, ends=False)) as there:
        code, out, _ = await call(there.url, *QUICK, "--timeout", "1.5", "--wav", sound)
    assert code == Status.NOT_REACHED
    assert "did not reach its end: the call took longer than 1.5 s" in out


async def test_hang_up_ends_the_call_after_the_last_answer(sound):
    """Which is a good end, because it was asked for."""
    async with daemon(partial(AGENT, ends=False)) as there:
        code, out, _ = await call(there.url, *QUICK, "--hang-up", "--wav", sound)
        assert there.agents[0].stopped
    assert code == 0
    assert "the caller ended the call" in out


async def test_nobody_there_exits_with_2(sound):
    """And says what to do."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"ws://127.0.0.1:{taken.getsockname()[1]}"
        code, out, err = await call(url, "--json", "--wav", sound)
    assert code == Status.NOT_CONNECTED
    assert "make run" in err
    assert json.loads(out)["reached_end"] is False


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--wav", "nowhere.wav"), "there is no file"),
        (("--digits", "12z"), "keys of a telephone"),
        (("gopher://x", "--digits", "1"), "ws://host:port"),
        (("--digits", "1", "--record", "/nowhere/heard.wav"), "heard.wav"),
        (("sips:x@127.0.0.1", "--digits", "1"), "UDP and TCP"),
        (("sip:x@", "--digits", "1"), "looks like sip:"),
        (("sip:", "--agent", "echo", "--digits", "1"), "--agent: is for ws:// addresses"),
        (("--codec", "opus", "--digits", "1"), "--codec: is for sip: addresses"),
        (
            ("sip:", "--user", "alice", "--password-env", "NONE_OF_OURS", "--digits", "1"),
            "env:NONE_OF_OURS",
        ),
    ],
)
async def test_what_cannot_be_done_exits_with_3_before_any_call(arguments, words):
    """One line, no traceback."""
    code, _, err = await call(*arguments)
    assert code == Status.BAD_ARGUMENTS
    assert words in err
    assert err.count("\n") == 1


async def test_ctrl_c_hangs_up_and_exits_with_130():
    """In good order: the daemon gets the carrier's stop."""
    async with daemon(partial(AGENT, ends=False)) as there:
        process = await start(there.url, "--digits", "1")
        async with asyncio.timeout(20):
            await there.call_up.wait()
            process.send_signal(signal.SIGINT)
            _, err = await process.communicate()
            await there.call_over.wait()
        assert there.agents[0].stopped
    assert process.returncode == Status.INTERRUPTED
    assert err == b""


async def test_typed_keys_are_pressed_and_the_end_of_input_hangs_up():
    """Keys need no voice, so this works on any machine."""
    async with daemon(partial(AGENT, ends=False)) as there:
        code, out, err = await call(
            there.url, *QUICK, "--interactive", "--voice", "none", typed="12\n\n#\n"
        )
        assert there.agents[0].digits == "12#"
    assert (code, err) == (0, "")
    assert "presses 1 2" in out


async def test_a_call_over_sip_is_shown_with_its_sound_and_exits_with_0(sound, tmp_path):
    """What the agent says is not known there: how long it spoke is; and the way to the ladder."""
    record = tmp_path / "heard.wav"
    async with answering(Habits(lines=("a", "b", "c"))) as there:
        code, out, err = await call(
            there.address(), *QUICK, "--wav", sound, "--digits", "1", "--record", str(record)
        )
        assert there.keys == "1"
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == f"calling {there.address()} as a telephone"
    assert lines[1].strip() == "it rings"
    assert lines[2].strip().startswith("taken after 0.")
    assert "PCMU over UDP" in lines[2]
    assert [line.split()[1:3] for line in lines[3:-4]] == [
        ["agent", "(speaks"],
        ["caller", "one.wav"],
        ["agent", "(speaks"],
        ["caller", "presses"],
        ["agent", "(speaks"],
    ]
    assert lines[-4] == "the agent ended the call: completed"
    assert lines[-2].startswith("sound: MOS 4.")
    assert "(good)" in lines[-2]
    assert lines[-1].startswith("flowcatd ladder ")
    wav = parse_wav(record.read_bytes())
    assert (wav.channels, wav.rate_hz) == (2, 8000)


async def test_json_over_sip_has_the_figures_of_the_sound(sound):
    """One object, as over a WebSocket; its call id is the Call-ID."""
    async with answering(Habits(password="sesame")) as there:
        code, out, _ = await call(
            *(there.address(transport="tcp"), *QUICK, "--json", "--wav", sound),
            *("--user", "alice", "--password-env", "SESAME"),
            SESAME="sesame",
        )
        assert there.transports == {"TCP"}
    figures = json.loads(out)
    assert code == 0
    assert out.count("\n") == 1
    assert figures["reached_end"] is True
    assert figures["media"]["packets_in"] > 10
    assert len(figures["call_id"]) == 20
    assert [row["role"] for row in figures["turns"]] == ["agent", "caller", "agent"]


@pytest.mark.parametrize("status", [404, 486, 503])
async def test_a_call_that_is_refused_over_sip_exits_with_2(sound, status):
    """One sentence, and the same in JSON."""
    async with answering(Habits(refuses=status)) as there:
        code, out, err = await call(there.address(), "--json", "--wav", sound)
    assert code == Status.NOT_CONNECTED
    assert f"refused the call with SIP {status}" in err
    assert json.loads(out)["reached_end"] is False


async def test_nobody_at_a_sip_port_exits_with_2(sound):
    """And says what to do."""
    with socket.socket(type=socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    code, _, err = await call(f"sip:x@127.0.0.1:{port}", "--wav", sound)
    assert code == Status.NOT_CONNECTED
    assert "make run" in err


async def test_ctrl_c_over_sip_hangs_up_and_exits_with_130():
    """In good order: the agent gets its BYE."""
    async with answering(Habits(ends=False)) as there:
        process = await start(there.address(), "--digits", "1")
        async with asyncio.timeout(20):
            await there.up.wait()
            process.send_signal(signal.SIGINT)
            _, err = await process.communicate()
            await there.over.wait()
        assert there.methods[-1] == "BYE"
    assert process.returncode == Status.INTERRUPTED
    assert err == b""
