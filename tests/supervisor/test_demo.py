"""`flowcatd demo`: what it shows is measured, and a fault is seen as one."""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest
from aiohttp import WSMsgType, web

from supervisor import demo_echo, demo_pipeline
from supervisor.demo import add_arguments, run

ROOT = Path(__file__).parents[2]
COMMAND = (
    "import argparse, sys; from supervisor.demo import add_arguments, run;"
    "parser = argparse.ArgumentParser('flowcatd demo'); add_arguments(parser);"
    "sys.exit(run(parser.parse_args()))"
)


def parsed(*arguments: str) -> argparse.Namespace:
    """What the options mean."""
    parser = argparse.ArgumentParser("flowcatd demo")
    add_arguments(parser)
    return parser.parse_args(arguments)


def test_every_sample_comes_back_through_the_pipeline(capsys):
    """And the figures are those of the frames that went in."""
    assert run(parsed("pipeline", "--seconds", "2", "--json")) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["frames"] == figures["returned"] == 100
    counts = {(row["processor"], row["frame"]): row["count"] for row in figures["counts"]}
    assert counts["vad", "InputAudio"] == 100
    assert counts["playout", "OutputAudio"] == 100
    assert counts["echo", "InputAudio"] == counts["meter", "InputAudio"] == 100
    assert counts["meter", "VadUserStartedSpeaking"] == 2
    assert figures["microseconds_per_frame"] > 0


def test_the_interruption_raises_the_epoch_and_forgets_the_rest(capsys):
    """What was heard is a beginning of the line, and the old epoch's straggler is dropped."""
    assert run(parsed("pipeline", "--seconds", "1", "--json")) == 0
    told = json.loads(capsys.readouterr().out)["interruption"]
    assert told["epoch_after"] == told["epoch_before"] + 1
    assert demo_pipeline.LINE.startswith(told["heard"])
    assert told["clears"] == told["stale"] == 1
    assert 0 < told["unsent_ms"] < demo_pipeline.LINE_MS


def test_a_sample_that_does_not_come_back_is_a_failure():
    """The verdict stands on the samples and on the interruption."""
    result = demo_pipeline.run(1)
    assert result.ok
    result.whole = False
    assert not result.ok
    assert "NOT all right" in demo_pipeline.render(result)


def test_the_pipeline_is_told_in_words(capsys):
    """For a person."""
    assert run(parsed("pipeline", "--seconds", "1")) == 0
    out = capsys.readouterr().out
    assert "every sample as it was" in out
    assert "epoch 0 → 1" in out
    assert out.endswith("all right\n")


def test_the_loopback_echo_returns_every_frame(capsys):
    """Over a real WebSocket, in real time."""
    assert run(parsed("ws-echo", "--loopback", "--seconds", "1", "--json")) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["sent"] == figures["right"] == 50
    assert 0 < figures["round_trip_ms"]["p50"] <= figures["round_trip_ms"]["max"]


async def echo_with(fault: str, port: list[int]) -> web.AppRunner:
    """An echo that does one thing wrong with its tenth frame."""

    async def answer(request: web.Request) -> web.StreamResponse:
        there = web.WebSocketResponse()
        await there.prepare(request)
        count, held = 0, b""
        async for message in there:
            if message.type is not WSMsgType.BINARY:
                continue
            count += 1
            frames = [message.data]
            if count == 10:
                held = message.data
                frames = {
                    "lost": [],
                    "duplicate": [held, held],
                    "reordered": [],
                    "corrupt": [held[:-1] + b"\xff"],
                    "gone": [],
                }[fault]
                if fault == "gone":
                    await there.close(code=1011)
            elif count == 11 and fault == "reordered":
                frames = [message.data, held]
            for frame in frames:
                await there.send_bytes(frame)
        return there

    application = web.Application()
    application.router.add_get("/telephony/ws/raw/x", answer)
    runner = web.AppRunner(application, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port.append(runner.addresses[0][1])
    return runner


@pytest.mark.parametrize("fault", ["lost", "duplicate", "reordered", "corrupt", "gone"])
async def test_every_fault_of_an_echo_is_counted_as_what_it_is(fault):
    """One of fifty frames, and the demo fails."""
    port: list[int] = []
    runner = await echo_with(fault, port)
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-c", COMMAND, "ws-echo", "--seconds", "1", "--json"),
            *("--connect", f"ws://127.0.0.1:{port[0]}/telephony/ws/raw/x"),
            cwd=ROOT,
            stdout=PIPE,
        )
        async with asyncio.timeout(30):
            out, _ = await process.communicate()
    finally:
        await runner.cleanup()
    figures = json.loads(out)
    assert process.returncode == 1
    if fault == "gone":
        assert figures["problem"] == "the other end closed with code 1011"
        assert figures["lost"] > 0
    else:
        assert figures[fault] == 1
        assert figures["problem"] == ""


def test_nobody_there_exits_with_2(capsys):
    """And says so."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"ws://127.0.0.1:{taken.getsockname()[1]}/telephony/ws/raw/x"
        assert run(parsed("ws-echo", "--connect", url)) == 2
    assert "nobody answers" in capsys.readouterr().err


def test_an_address_that_will_not_do_exits_with_3(capsys):
    """Before anything is tried."""
    assert run(parsed("ws-echo", "--connect", "ws://127.0.0.1:1/telephony/ws/raw/x?rate=7")) == 3
    assert "rate must be one of" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [("ws-echo",), ("pipeline", "--seconds", "0"), ("nothing",), ()]
)
def test_arguments_that_will_not_do_exit_with_3(arguments, capsys):
    """One line says what is wrong."""
    with pytest.raises(SystemExit) as caught:
        parsed(*arguments)
    assert caught.value.code == 3
    assert capsys.readouterr().err.count("\n") == 1


def test_quantiles_are_measured_round_trips():
    """The nearest rank, and nothing where nothing came back."""
    outcome = demo_echo.Outcome("x", trips_ms=[float(n) for n in range(1, 101)])
    assert [outcome.at(share) for share in (0.5, 0.99, 1.0)] == [50.0, 99.0, 100.0]
    assert demo_echo.Outcome("x").at(0.5) == 0.0
