"""Wiring: the only place that joins transports, processors, services and agent into a call.

    carrier socket → vad → turns → hear → think (or echo) → speak → playout → carrier socket
                                                              behind playout: figures,
                                                              transcript, recorder, notices

`Wiring` holds what all calls of a worker share; `open` makes one call's parts, `keep` writes what
remains of it. A call with the echo agent has the same chain, with Echo in the place of Think.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import msgspec

from flowcatd.audio.resample import Resampler
from flowcatd.call import Call
from flowcatd.carriers.events import Encoding, Started
from flowcatd.links.disk import Disk, GrowingFile, Kept
from flowcatd.log import get_logger
from flowcatd.media import frame_bytes
from flowcatd.options import Options
from flowcatd.pipeline.chain import Chain
from flowcatd.pipeline.processor import Processor
from flowcatd.processors.echo import Echo
from flowcatd.processors.figures import Figures
from flowcatd.processors.hear import Hear
from flowcatd.processors.notices import Notices
from flowcatd.processors.playout import Playout
from flowcatd.processors.record import Recorder, Sink
from flowcatd.processors.speak import Speak
from flowcatd.processors.think import Think
from flowcatd.processors.transcript import Transcript, render_json
from flowcatd.processors.turns import Turns
from flowcatd.processors.vad import Vad, webrtc_detector
from flowcatd.record import Identity, Ledger, Outcome, new_call_id, render
from flowcatd.recording import stereo_header
from flowcatd.transports.carrier import CarrierSocket
from flowcatd.transports.edge import Edge
from workers.agents import Agent
from workers.clock import WorkerClock
from workers.speech import Speech

log = get_logger()


@dataclass(slots=True)
class Parts:
    """One call and what is read from it when it is over."""

    call: Call
    transcript: Transcript
    recording: GrowingFile | None = None


class Wiring:
    """Makes calls."""

    def __init__(
        self, options: Options, clock: WorkerClock, speech: Speech, disk: Disk, records: Path
    ) -> None:
        """`records` is the directory for what remains of calls."""
        self._options = options
        self._clock = clock
        self._speech = speech
        self._disk = disk
        self._records = records

    def open(self, socket: CarrierSocket, agent: Agent, identity: Identity) -> Parts:
        """A call on this socket, answered by this agent; its chain is linked once it starts."""
        ledger = Ledger(identity, datetime.now(UTC), self._clock.now())

        def wire_up(call: Call, started: Started) -> Chain:
            socket.notice({"type": "call", "call_id": call.id, "agent": agent.name})
            stages = [*self._stages(call, socket, agent, started), *self._taps(parts, socket)]
            return Chain(stages, call, at_tail=call.at_tail, at_head=call.at_head)

        call = Call(ledger, self._options.calls, self._clock, wire_up)
        parts = Parts(call, Transcript())
        return parts

    async def keep(self, parts: Parts, outcome: Outcome) -> None:
        """Write the transcript and the record; a disk that refuses, or hangs, is one log line."""
        call, options = parts.call, self._options.records
        ledger, name = call.ledger, call.id
        if parts.recording is not None:
            ledger.files.recording = (await self._in_time(parts.recording.close())).name
        entries = parts.transcript.entries()
        if options.transcript and entries:
            data = render_json(name, entries, dropped=parts.transcript.dropped)
            kept = await self._write(f"{name}.transcript.json", data)
            ledger.files.transcript = kept.name
            if kept.problem:
                self._lost(call, "transcript", kept.problem)
        record = ledger.finish(
            call.now(), outcome, variables=call.variables(), leftovers=call.leftovers
        )
        log.info(
            "call.ended",
            call=name,
            by=record.ended_by,
            reason=record.reason,
            seconds=record.duration_seconds,
            turns=record.turns.user,
            **({"error": record.error} if record.error else {}),
        )
        if record.leftovers:
            log.error("call.leaked", call=name, leftovers=record.leftovers)
        if options.record:
            kept = await self._write(f"{name}.json", render(record))
            if kept.problem:  # the log is then the last place where it can stand
                log.error(
                    "record.lost",
                    call=name,
                    what="record",
                    problem=kept.problem,
                    record=msgspec.to_builtins(msgspec.structs.replace(record, variables={})),
                    pii_variables=record.variables,
                )

    async def _write(self, name: str, data: bytes) -> Kept:
        return await self._in_time(self._disk.write_whole(self._records / name, data))

    async def _in_time(self, work: Awaitable[Kept]) -> Kept:
        """The disk's answer, or that it gave none: a call's place must not wait for a dead disk."""
        try:
            async with asyncio.timeout(self._options.calls.end_seconds):
                return await work
        except TimeoutError:
            return Kept("", 0, "ETIMEDOUT")

    # --- the chain --------------------------------------------------------------------------------

    def _stages(
        self, call: Call, socket: CarrierSocket, agent: Agent, started: Started
    ) -> list[Processor]:
        options, usage = self._options, call.ledger.usage
        hear = Hear(options.turns, usage)
        stages: list[Processor] = [
            Vad(options.turns, webrtc_detector()),
            Turns(options.turns),
            hear,
        ]
        if agent.make_brain is None:
            return [*stages, Echo(), Speak(None, usage), Playout(socket, options.playout)]
        hear.use(self._speech.open_hearing(hear.on_event))
        voice = self._speech.open_voice(agent.voice, usage)
        speak = Speak(voice, usage, lambda name: self._speech.open_voice(name, usage))
        usage.providers.update(self._speech.rows)
        brain = agent.make_brain({"call_id": call.id, **started.parameters})
        call.variables = brain.variables
        think = Think(
            brain, lambda moved: self._moved(call, moved.source, moved.target, moved.event)
        )
        return [*stages, think, speak, Playout(socket, options.playout)]

    def _moved(self, call: Call, source: str, target: str, event: str) -> None:
        call.ledger.moved(call.now(), source, target, event)
        if event == "no_input":
            call.ledger.turns.no_input += 1

    def _taps(self, parts: Parts, socket: CarrierSocket) -> list[Processor]:
        taps: list[Processor] = [Figures(parts.call.ledger)]
        if self._options.records.transcript:
            taps.append(parts.transcript)
        if socket.notices:
            taps.append(Notices(socket.notice))
        if self._options.records.recording:
            taps.append(Recorder(partial(self._recording, parts)))
        return taps

    def _recording(self, parts: Parts, rate_hz: int) -> Sink:
        call = parts.call
        parts.recording = self._disk.create(
            self._records / f"{call.id}.wav",
            partial(stereo_header, rate_hz),
            partial(self._lost, call, "recording"),
        )
        return parts.recording

    def _lost(self, call: Call, what: str, problem: str) -> None:
        log.error("record.lost", call=call.id, what=what, problem=problem)
        call.ledger.problem(what, problem)


def warm() -> None:
    """Make now what the first call would otherwise wait for: tables, filters, the detector."""
    silence = bytes(frame_bytes(8000))
    for encoding in Encoding:
        edge = Edge(encoding, 8000)
        edge.receive(edge.encode(silence), None, 0)
    detector = webrtc_detector()
    if detector is not None:
        detector.is_speech(silence, 8000)
    for from_hz, to_hz in ((8000, 16000), (16000, 8000)):
        Resampler(from_hz, to_hz).push(silence)


def identity_of(*, run_id: str, carrier: str, agent: str, slot: int, token: str) -> Identity:
    """Who a new call is; `token` makes its id unique."""
    return Identity(
        call_id=new_call_id(datetime.now(UTC), token),
        run_id=run_id,
        carrier=carrier,
        agent=agent,
        worker_slot=slot,
    )
