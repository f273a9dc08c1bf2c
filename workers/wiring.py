"""Wiring: the only place that joins transports, processors, services and agent into a call.

    leg → vad → turns → hear → think (or echo) → speak → playout → leg
                                                              behind playout: figures,
                                                              transcript, recorder, notices

`Wiring` holds what all calls of a worker share; `open` makes one call's parts, `keep` writes what
remains of it. A call with the echo agent has the same chain, with Echo in the place of Think.

With `records.journal` a Scribe stands at the tail and the call is kept at every turn. A connection
that may be a call whose worker died (`look`) becomes that call when its carrier says the same name
for it: its ledger, its words, its place in the dialog (`workers/parts.py`). `Watch` is told of
each call's great moments.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Protocol

from flowcatd.agent.brain import Brain, Moved
from flowcatd.audio.resample import Resampler
from flowcatd.call import Call
from flowcatd.carriers.events import Encoding, Started
from flowcatd.journal import is_same_call
from flowcatd.links.disk import Disk, Kept
from flowcatd.links.journal import Found, Journals
from flowcatd.log import get_logger
from flowcatd.media import MediaPort, frame_bytes
from flowcatd.options import Options
from flowcatd.options import Records as RecordsOptions
from flowcatd.pipeline.chain import Chain
from flowcatd.pipeline.processor import Processor
from flowcatd.processors.echo import Echo
from flowcatd.processors.figures import Figures
from flowcatd.processors.hear import Hear
from flowcatd.processors.notices import Notices
from flowcatd.processors.playout import Playout
from flowcatd.processors.record import Recorder, Sink
from flowcatd.processors.scribe import Scribe
from flowcatd.processors.speak import Speak
from flowcatd.processors.think import Think
from flowcatd.processors.transcript import Transcript, render_json
from flowcatd.processors.turns import Turns
from flowcatd.processors.vad import Vad, webrtc_detector
from flowcatd.record import CallRecord, Identity, Ledger, Outcome, new_call_id, render
from flowcatd.recording import stereo_header
from flowcatd.transports.edge import Edge
from workers.agents import Agent
from workers.clock import WorkerClock
from workers.parts import (
    Parts,
    Resumption,
    begin_recording,
    end_recording,
    journal_of,
    resumption_of,
    tell_unkept,
)
from workers.shed import Shedding, Thing
from workers.speech import Speech

log = get_logger()


class Leg(MediaPort, Protocol):
    """The wire of one call, as its chain sees it: a carrier's socket, or a SIP leg."""

    @property
    def notices(self) -> bool:
        """Whether the far end asked to be told about the conversation."""

    def notice(self, fields: Mapping[str, object]) -> None:
        """Tell it, if it asked."""


class Watch(Protocol):
    """Whoever counts calls and tells of them; none of these may wait or raise."""

    def started(self, identity: Identity) -> None:
        """A connection named its call, which may yet turn out to be an older one."""

    def answered(self, identity: Identity) -> None:
        """Its stream is up, for the first time in its life."""

    def resumed(self, identity: Identity) -> None:
        """Its stream is up again after its worker died; `identity` is that of the older call."""

    def ended(self, record: CallRecord) -> None:
        """It is over; also told of calls that nobody took up."""

    def unkept(self) -> None:
        """A call's record could not be written."""


class Unwatched:
    """Nobody wants to know."""

    def started(self, identity: Identity) -> None:
        """Nothing."""

    def answered(self, identity: Identity) -> None:
        """Nothing."""

    def resumed(self, identity: Identity) -> None:
        """Nothing."""

    def ended(self, record: CallRecord) -> None:
        """Nothing."""

    def unkept(self) -> None:
        """Nothing."""


@dataclass(frozen=True, slots=True)
class Store:
    """Where what remains of calls goes."""

    disk: Disk
    directory: Path
    journals: Journals | None = None
    """None where records.journal says so, or the directory cannot be had."""

    def close(self) -> None:
        """The worker's last act, when nothing is written any more: its life is over in good order.

        Earlier, another worker would take a call that still writes its record for an orphan.
        """
        if self.journals is not None:
            self.journals.close()


def open_store(options: RecordsOptions, disk: Disk, directory: Path, slot: int) -> Store:
    """The worker's store; touches the disk, so before it serves."""
    journals = None
    if options.journal:
        try:
            journals = Journals(disk, directory / "journal", slot, secrets.token_hex(4))
        except OSError as error:
            log.error("journal.refused", why=error.strerror or str(error))
    return Store(disk, directory, journals)


class Wiring:
    """Makes calls."""

    def __init__(
        self,
        options: Options,
        clock: WorkerClock,
        speech: Speech,
        store: Store,
        watch: Watch | None = None,
        shedding: Shedding | None = None,
    ) -> None:
        """`store` is what `open_store` gave; `watch` is told of calls; `shedding` spares the rest."""
        self._options = options
        self._clock = clock
        self._speech = speech
        self._disk = store.disk
        self._records = store.directory
        self._journals = store.journals
        self._watch = watch or Unwatched()
        self._shedding = shedding
        if self._journals is not None:
            self._journals.is_sparing = self._defers

    def _defers(self) -> bool:
        return self._shedding is not None and self._shedding.gives_up(Thing.HOUSEKEEPING)

    async def look(self, identity: Identity) -> Sequence[Found]:
        """The calls that a connection with this identity may be, were its worker dead; quick."""
        if self._journals is None:
            return ()
        return await self._journals.look(identity, self._options.calls.resume_seconds)

    def open(
        self,
        leg: Leg,
        agent: Agent,
        identity: Identity,
        found: Sequence[Found] = (),
    ) -> Parts:
        """A call on this leg, answered by this agent; its chain is linked once it starts."""
        ledger = Ledger(identity, datetime.now(UTC), self._clock.now())

        def wire_up(call: Call, started: Started) -> Chain:
            resumption = self._take_up(parts, started, found)
            leg.notice({"type": "call", "call_id": call.id, "agent": agent.name})
            stages = self._stages(parts, leg, agent, started, resumption)
            stages += self._taps(parts, leg, started, resumption)
            if resumption is None:
                self._watch.answered(call.ledger.identity)
            else:
                self._watch.resumed(call.ledger.identity)
            return Chain(stages, call, at_tail=call.at_tail, at_head=call.at_head)

        call = Call(ledger, self._options.calls, self._clock, wire_up)
        parts = Parts(call, Transcript())
        self._watch.started(identity)
        return parts

    def _take_up(self, parts: Parts, started: Started, found: Sequence[Found]) -> Resumption | None:
        """Be the first of these calls that is this one and that nobody else took."""
        call, journals = parts.call, self._journals
        if journals is None:
            return None
        resumption = None
        for each in found:
            if is_same_call(each.journal, started.call_id) and journals.claim(each):
                resumption = resumption_of(each.journal, call.ledger.identity, call.now())
                if parts.listing is not None:
                    parts.listing.remove(call)
                call.take_up(resumption.ledger)
                if parts.listing is not None:
                    parts.listing.add(call)
                break
        parts.journal = journals.file(call.ledger.identity, partial(self._lost, call, "journal"))
        return resumption

    async def keep(self, parts: Parts, outcome: Outcome) -> None:
        """Write the transcript and the record; a disk that refuses, or hangs, is one log line."""
        call, options = parts.call, self._options.records
        ledger, name = call.ledger, call.id
        if parts.recording is not None:
            begun = parts.recording.name
            end_recording(ledger.files, begun, (await self._in_time(parts.recording.close())).name)
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
            if kept.problem:
                tell_unkept(record, kept.problem)
                self._watch.unkept()
        if parts.journal is not None:
            parts.journal.remove()
        self._watch.ended(record)
        call.release()

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
        self,
        parts: Parts,
        leg: Leg,
        agent: Agent,
        started: Started,
        resumption: Resumption | None,
    ) -> list[Processor]:
        call, options, usage = parts.call, self._options, parts.call.ledger.usage
        hear = Hear(options.turns, usage)
        stages: list[Processor] = [
            Vad(options.turns, webrtc_detector()),
            Turns(options.turns),
            hear,
        ]
        parts.playout = Playout(leg, options.playout)
        parts.session = {"call_id": call.id, **started.parameters}
        if resumption is not None:
            parts.session = {**resumption.journal.session, **parts.session}
        brain = self._brain(parts, agent, resumption)
        if brain is None:
            return [*stages, Echo(), Speak(None, usage), parts.playout]
        hear.use(self._speech.open_hearing(hear.on_event))
        open_voice = partial(self._speech.open_voice, usage=usage, rate_hz=started.rate_hz)
        voice = open_voice(agent.voice)
        speak = Speak(voice, usage, open_voice)
        if voice is not None:
            call.part = speak.part
        usage.providers.update(self._speech.rows)
        call.variables = brain.variables
        think = Think(brain, partial(self._moved, parts), is_resumed=resumption is not None)
        return [*stages, think, speak, parts.playout]

    def _brain(self, parts: Parts, agent: Agent, resumption: Resumption | None) -> Brain | None:
        """A new one, or the one that was in this call before; None for the echo."""
        if agent.make_brain is None:
            return None
        if resumption is None or agent.restore_brain is None:
            parts.brain = agent.make_brain(parts.session)
            return parts.brain
        now = parts.call.now()
        restored = agent.restore_brain(resumption.journal.brain, parts.session, now)
        if restored.problem:
            parts.call.ledger.problem("agent", restored.problem)
        parts.brain = restored.brain
        return parts.brain

    def _moved(self, parts: Parts, moved: Moved) -> None:
        call = parts.call
        call.ledger.moved(call.now(), moved.source, moved.target, moved.event)
        if moved.event == "no_input":
            call.ledger.turns.no_input += 1
        if parts.scribe is not None:
            parts.scribe.mark()

    def _taps(
        self,
        parts: Parts,
        leg: Leg,
        started: Started,
        resumption: Resumption | None,
    ) -> list[Processor]:
        trimmed = self._shedding.trimmed if self._shedding is not None else _never
        parts.figures = Figures(parts.call.ledger)
        taps: list[Processor] = [parts.figures]
        if resumption is not None:
            parts.transcript.resume(resumption.entries, resumption.offset_ms)
        if self._options.records.transcript:
            taps.append(parts.transcript)
        if leg.notices:
            taps.append(Notices(leg.notice, trimmed))
        if self._options.records.recording:
            taps.append(Recorder(partial(self._recording, parts), trimmed))
        journals = self._journals
        if journals is not None:
            parts.scribe = Scribe(partial(self._write_down, parts, started), journals.is_sparing)
            taps.append(parts.scribe)
        return taps

    def _write_down(self, parts: Parts, started: Started) -> None:
        if parts.journal is not None:
            parts.journal.write(journal_of(parts, started, parts.call.now()))

    def _recording(self, parts: Parts, rate_hz: int) -> Sink:
        call = parts.call
        times = call.ledger.resumed
        name = f"{call.id}-{times + 1}.wav" if times else f"{call.id}.wav"
        parts.recording = self._disk.create(
            self._records / name,
            partial(stereo_header, rate_hz),
            partial(self._lost, call, "recording"),
        )
        begin_recording(call.ledger.files, name)
        return parts.recording

    def _lost(self, call: Call, what: str, problem: str) -> None:
        log.error("record.lost", call=call.id, what=what, problem=problem)
        call.ledger.problem(what, problem)


def _never() -> bool:
    return False


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
