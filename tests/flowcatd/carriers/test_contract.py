"""Every carrier's transcripts, played through its core: the one contract test of the room.

A transcript is a file of `tests/corpus/carriers/<name>/`, one JSON object per line:

  {"note": …}                               read by people
  {"fresh": true} or {"query": {…}}         a new core (the first is made without asking)
  {"in": {…}} or {"in_text": "…"}           a text message; also in_text_base64, in_binary_base64
  {"in_close": true}                        the socket closed
  {"call": "audio", "with": "…"}            our wish (audio takes base64), answered by "out" or "out_base64"

with what must come of it: "events", or "closes" and its code; and "closed" and "ignored" where told.
"""

from __future__ import annotations

import base64
from pathlib import Path

import msgspec
import pytest

from flowcatd.carriers.catalogue import carrier_names, find_row, open_carrier
from flowcatd.carriers.events import Audio, CarrierEvent
from flowcatd.carriers.json_media import JsonMedia
from flowcatd.carriers.message import Slot, find
from flowcatd.errors import CarrierError

CORPUS = Path(__file__).parents[2] / "corpus" / "carriers"
TRANSCRIPTS = sorted((path.parent.name, path.stem) for path in CORPUS.glob("*/*.jsonl"))
VERBS = {"in", "in_text", "in_text_base64", "in_binary_base64", "in_close"}
KNOWN = VERBS | {"note", "fresh", "query", "events", "closes", "closed", "ignored"}
KNOWN |= {"call", "with", "out", "out_base64"}


def _as_data(event: CarrierEvent) -> dict[str, object]:
    data = {"is": type(event).__name__, **msgspec.to_builtins(event)}
    if isinstance(event, Audio):
        data["payload"] = base64.b64encode(event.payload).decode()
    return data


def _feed(core: JsonMedia, line: dict) -> None:
    if "in" in line:
        core.receive_text(msgspec.json.encode(line["in"]), now=1.0)
    elif "in_text" in line:
        core.receive_text(line["in_text"], now=1.0)
    elif "in_text_base64" in line:
        core.receive_text(base64.b64decode(line["in_text_base64"]), now=1.0)
    elif "in_binary_base64" in line:
        core.receive_binary(base64.b64decode(line["in_binary_base64"]), now=1.0)
    else:
        core.receive_closed(now=1.0)


def _wish(core: JsonMedia, line: dict) -> None:
    match line["call"]:
        case "audio":
            sent = core.audio(base64.b64decode(line["with"]))
        case "clear":
            sent = core.clear()
        case verb:
            sent = getattr(core, verb)(line["with"])
    if "out_base64" in line:
        assert sent == base64.b64decode(line["out_base64"])
    elif line["out"] is None:
        assert sent is None
    else:
        assert msgspec.json.decode(sent) == line["out"]


def _play(core: JsonMedia, line: dict) -> None:
    """One line that is neither a note nor a fresh core."""
    if "call" in line:
        _wish(core, line)
    elif "closes" in line:
        with pytest.raises(CarrierError) as caught:
            _feed(core, line)
        assert caught.value.close_code == line["closes"]
        assert core.closed
        assert core.events() == []
        return
    elif VERBS & line.keys():
        _feed(core, line)
    assert [_as_data(event) for event in core.events()] == line.get("events", [])
    assert core.closed == line.get("closed", core.closed)
    assert core.ignored == line.get("ignored", core.ignored)


@pytest.mark.parametrize(("name", "stem"), TRANSCRIPTS)
def test_a_transcript_gives_what_it_says(name, stem):
    """Each message, wish and mistake of the transcript has the outcome that its line states."""
    core = open_carrier(name, {}, "ours")
    if name == "raw":
        core.events()
    for number, text in enumerate((CORPUS / name / f"{stem}.jsonl").read_bytes().splitlines(), 1):
        line = msgspec.json.decode(text)
        assert line.keys() <= KNOWN, f"line {number} has a key that nothing reads"
        if "query" in line or "fresh" in line:
            core = open_carrier(name, line.get("query", {}), "ours")
        if line.keys() - {"note", "fresh"}:
            try:
                _play(core, line)
            except AssertionError as error:
                error.add_note(f"{name}/{stem}.jsonl line {number}")
                raise


@pytest.mark.parametrize("name", carrier_names())
def test_every_carrier_has_a_good_and_an_adverse_transcript(name):
    """A row without proof of both kinds is not finished."""
    kinds = {stem.partition("_")[0] for carrier, stem in TRANSCRIPTS if carrier == name}
    assert kinds == {"good", "bad"}


@pytest.mark.parametrize("name", carrier_names())
def test_audio_stands_where_the_fast_path_reads_it(name):
    """The typed decoders know one place; a row that has audio elsewhere needs another core."""
    row = find_row(name)
    if row.media is None:
        assert row.send_media is None
    else:
        assert row.media["event"] == "media"
        assert find(row.media, Slot.PAYLOAD) == ("media", "payload")
        assert find(row.send_media, Slot.PAYLOAD) == ("media", "payload")
        assert find(row.media, Slot.TIME_TEXT) in {None, ("media", "timestamp")}


@pytest.mark.parametrize("name", carrier_names())
def test_no_two_messages_of_a_direction_share_an_event_name(name):
    """A message is known by its event name alone."""
    row = find_row(name)
    inbound = (row.hello, row.start, row.media, row.dtmf, row.mark, row.cleared, row.stop)
    outbound = (row.send_media, row.send_mark, row.send_clear, row.send_digits)
    for direction in (inbound, outbound):
        names = [template["event"] for template in direction if template is not None]
        assert len(names) == len(set(names))
