"""The switchboard's decisions, in virtual time."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.control import (
    MESSAGE_MAX,
    Answer,
    Ask,
    AskCalls,
    AskDrain,
    AskHangUp,
    AskLadder,
    AskLogLevel,
    AskReload,
    AskScale,
    AskStatus,
    AskTrunks,
    AskUpgrade,
    Beat,
    CallLine,
    Calls,
    Hello,
    LadderIs,
    Order,
    OrderCalls,
    OrderHangUp,
    OrderLadder,
    OrderLogLevel,
    OrderTrunks,
    Reader,
    Refused,
    Reply,
    ReportCalls,
    ReportDone,
    ReportLadder,
    ReportTrunks,
    Status,
    TrunkLine,
    TrunksAre,
    encode,
    worker_identity,
)
from flowcatd.errors import ControlError, LocalError
from flowcatd.sip_figures import SipFigures
from supervisor import routing
from supervisor.routing import FleetTold, LevelAsked, Routing
from tests.laws import keeps_garbage_law, keeps_quiet_law
from tests.supervisor.board import fleet, line

BOB = b"\x00bob"
EVE = b"\x00eve"
REPLY = Reader(Reply)
ORDER = Reader(Order)
ASKED = Reader(Ask)


def worker(seat: int, pid: int = 0) -> bytes:
    """A worker's identity; its pid is 100 + seat unless told otherwise."""
    return worker_identity(seat, pid or 100 + seat)


def with_workers(*seats: int, now: float = 0.0) -> Routing:
    """A routing that knows these workers by their Hello, and nothing of the supervisor."""
    it = Routing("m")
    for seat in seats:
        it.receive(worker(seat), encode(Hello(seat=seat, slot=seat, pid=100 + seat)), now)
    assert it.outgoing() == []
    return it


def ask(it: Routing, message: msgspec.Struct, now: float = 0.0, who: bytes = BOB) -> None:
    """As an operator."""
    it.receive(who, encode(message), now)


def replies(it: Routing, who: bytes = BOB) -> list[msgspec.Struct]:
    """What an operator was told; what workers were told meanwhile is dropped."""
    return [REPLY.decode(sent.data) for sent in it.outgoing() if sent.identity == who]


def orders(it: Routing) -> dict[bytes, msgspec.Struct]:
    """What workers were told."""
    sent = it.outgoing()
    assert all(one.identity.startswith(b"worker.") for one in sent)
    return {one.identity: ORDER.decode(one.data) for one in sent}


def call(name: str, slot: int = 0) -> CallLine:
    """One live call."""
    return CallLine(
        call_id=name,
        run_id=f"run-{name}",
        carrier="raw",
        agent="echo",
        slot=slot,
        state="up",
        seconds=1.0,
        turns=0,
    )


# --- status --------------------------------------------------------------------------------------


def test_status_before_the_supervisor_spoke_has_no_fleet():
    """It is answered at once all the same."""
    it = Routing("m")
    ask(it, AskStatus(id="1"))
    assert replies(it) == [Status(id="1", fleet=None)]
    assert it.wake_at() is None


def test_status_is_the_last_fleet():
    """The newer one counts."""
    it = Routing("m")
    it.receive_supervisor(encode(fleet()), 0.0)
    it.receive_supervisor(encode(fleet(line(0))), 1.0)
    ask(it, AskStatus(id="1"))
    assert replies(it) == [Status(id="1", fleet=fleet(line(0)))]


@pytest.mark.parametrize(("capacity", "shown"), [(0, 7), (10, 0)])
def test_a_beat_fills_in_calls_only_where_the_fleet_has_no_figures(capacity, shown):
    """The load table, which the fleet's figures come from, is never older than a beat."""
    it = Routing("m")
    it.receive(worker(0), encode(Beat(seat=0, slot=0, pid=100, calls=7)), 0.0)
    row = msgspec.structs.replace(line(0), capacity=capacity)
    it.receive_supervisor(encode(fleet(row)), 0.0)
    ask(it, AskStatus(id="1"))
    assert replies(it)[0].fleet.workers[0].calls == shown


# --- asks of the workers -------------------------------------------------------------------------


def test_calls_are_answered_when_every_worker_has_answered():
    """Not before, and then at once, under the asker's id."""
    it = with_workers(0, 1)
    ask(it, AskCalls(id="x"))
    told = orders(it)
    assert told.keys() == {worker(0), worker(1)}
    own = told[worker(0)].id
    assert told[worker(1)] == OrderCalls(id=own)
    it.receive(worker(0), encode(ReportCalls(id=own, seat=0, calls=[call("a")])), 0.1)
    assert it.outgoing() == []
    it.receive(worker(1), encode(ReportCalls(id=own, seat=1, calls=[call("b", 1)])), 0.2)
    assert replies(it) == [Calls(id="x", calls=[call("a"), call("b", 1)])]
    assert len(it) == 0
    assert it.wake_at() is None


def test_a_worker_that_does_not_answer_is_missing_after_two_seconds():
    """The others' calls are listed all the same."""
    it = with_workers(0, 1)
    ask(it, AskCalls(id="x"), now=10.0)
    own = orders(it)[worker(0)].id
    it.receive(worker(0), encode(ReportCalls(id=own, seat=0, calls=[call("a")])), 10.1)
    assert it.wake_at() == 10.0 + routing.WORKERS_SECONDS == 12.0
    it.wake(11.9)
    assert it.outgoing() == []
    it.wake(12.0)
    assert replies(it) == [Calls(id="x", calls=[call("a")], missing=[1])]


def test_with_no_worker_there_are_no_calls():
    """Answered at once."""
    it = Routing("m")
    ask(it, AskCalls(id="x"))
    assert replies(it) == [Calls(id="x", calls=[])]


def test_a_serving_worker_that_has_not_said_hello_is_asked_when_it_does():
    """As after the switchboard's own death, when nobody has beaten yet."""
    it = Routing("m")
    it.receive_supervisor(encode(fleet(line(0), line(1, state="starting"))), 0.0)
    ask(it, AskCalls(id="x"), now=0.0)
    assert it.outgoing() == []
    it.receive(worker(0), encode(Beat(seat=0, slot=0, pid=100, calls=1)), 0.5)
    own = orders(it)[worker(0)].id
    it.receive(worker(0), encode(ReportCalls(id=own, seat=0, calls=[call("a")])), 0.6)
    assert replies(it) == [Calls(id="x", calls=[call("a")])]


def test_a_worker_that_is_gone_is_not_missed_unless_it_should_be_there():
    """EHOSTUNREACH: one ended, of the other the supervisor says that it serves."""
    it = with_workers(0, 1)
    it.receive_supervisor(encode(fleet(line(1))), 0.0)
    ask(it, AskCalls(id="x"))
    orders(it)
    it.receive_gone(worker(0), 0.0)
    assert it.outgoing() == []
    it.receive_gone(worker(1), 0.0)
    assert replies(it) == [Calls(id="x", calls=[], missing=[1])]


def test_a_silent_worker_that_the_fleet_does_not_have_is_forgotten():
    """And one that still speaks is not: its Hello may be quicker than the supervisor's word."""
    it = with_workers(0, 1)
    it.receive(worker(1), encode(Beat(seat=1, slot=1, pid=101, calls=0)), 9.0)
    it.receive_supervisor(encode(fleet()), 10.0)
    ask(it, AskCalls(id="x"))
    assert orders(it).keys() == {worker(1)}


def test_a_second_answer_of_one_worker_counts_once():
    """Nor does one of a worker that was not asked."""
    it = with_workers(0, 1)
    ask(it, AskCalls(id="x"))
    own = orders(it)[worker(0)].id
    report = encode(ReportCalls(id=own, seat=0, calls=[call("a")]))
    it.receive(worker(0), report, 0.0)
    it.receive(worker(0), report, 0.0)
    it.receive(worker(5), report, 0.0)
    assert it.outgoing() == []
    it.wake(2.0)
    assert replies(it) == [Calls(id="x", calls=[call("a")], missing=[1])]


def test_a_list_too_long_for_one_message_is_cut_and_says_so():
    """What was cut and what is there are all calls."""
    it = with_workers(0, 1)
    ask(it, AskCalls(id="x"))
    own = orders(it)[worker(0)].id
    calls = [call(f"{number:0200}") for number in range(1500)]
    for seat in (0, 1):
        it.receive(worker(seat), encode(ReportCalls(id=own, seat=seat, calls=calls)), 0.0)
    (sent,) = it.outgoing()
    assert MESSAGE_MAX * 0.8 < len(sent.data) <= MESSAGE_MAX
    reply = REPLY.decode(sent.data)
    assert reply.left_off > 0
    assert len(reply.calls) + reply.left_off == 3000


def test_a_ladder_is_answered_by_the_worker_that_has_the_call():
    """Without waiting for the others; an empty hand is no answer yet."""
    it = with_workers(0, 1, 2)
    ask(it, AskLadder(id="x", call="run-a"))
    told = orders(it)
    own = told[worker(0)].id
    assert set(map(type, told.values())) == {OrderLadder}
    assert {order.call for order in told.values()} == {"run-a"}
    it.receive(worker(0), encode(ReportLadder(id=own, seat=0)), 0.0)
    assert it.outgoing() == []
    sip = SipFigures(trunk="t", ladder=["0.000 ← INVITE 1 +body"])
    it.receive(worker(1), encode(ReportLadder(id=own, seat=1, sip=sip)), 0.0)
    (reply,) = replies(it)
    assert (reply.id, reply.sip) == ("x", sip)
    assert len(it) == 0


@pytest.mark.parametrize(("answer", "missing"), [(True, []), (False, [1])])
def test_a_call_that_no_worker_has_has_no_ladder(answer, missing):
    """Who did not answer in time is named: the call may be there."""
    it = with_workers(0, 1)
    ask(it, AskLadder(id="x", call="c"))
    own = orders(it)[worker(0)].id
    it.receive(worker(0), encode(ReportLadder(id=own, seat=0)), 0.0)
    if answer:
        it.receive(worker(1), encode(ReportLadder(id=own, seat=1)), 0.0)
    it.wake(2.0)
    assert replies(it) == [LadderIs(id="x", sip=None, missing=missing)]


def test_trunks_are_what_all_workers_know_together():
    """One line for each, whoever tends it."""
    it = with_workers(0, 1, 2)
    ask(it, AskTrunks(id="x"))
    own = orders(it)[worker(0)].id
    assert isinstance(OrderTrunks(id=own), Order)
    mine = TrunkLine(name="b", registration="registered", expires_seconds=9.0, inbound=2)
    for seat, lines in ((0, [TrunkLine(name="b", inbound=2), TrunkLine(name="a")]), (1, [mine])):
        it.receive(worker(seat), encode(ReportTrunks(id=own, seat=seat, trunks=lines)), 0.0)
    assert it.outgoing() == []
    it.wake(2.0)
    assert replies(it) == [
        TrunksAre(id="x", trunks=[TrunkLine(name="a"), mine], missing=[2]),
    ]


def test_more_trunks_than_a_message_holds_are_cut():
    """A reply over the limit would be refused by its reader."""
    it = with_workers(0, 1)
    ask(it, AskTrunks(id="x"))
    own = orders(it)[worker(0)].id
    for seat in (0, 1):
        lines = [
            TrunkLine(name=f"{seat}-{number:061}", registration="registered", alive=True)
            for number in range(4000)
        ]
        it.receive(worker(seat), encode(ReportTrunks(id=own, seat=seat, trunks=lines)), 0.0)
    (sent,) = it.outgoing()
    assert len(REPLY.decode(sent.data).trunks) == routing.TRUNKS_MAX


def test_hangup_is_answered_by_the_first_worker_that_has_the_call():
    """The others' answers are of no interest any more."""
    it = with_workers(0, 1)
    ask(it, AskHangUp(id="x", call="run-a"))
    told = orders(it)
    own = told[worker(0)].id
    assert told[worker(0)] == OrderHangUp(id=own, call="run-a")
    it.receive(worker(1), encode(ReportDone(id=own, seat=1, found=True)), 0.0)
    (answer,) = replies(it)
    assert (answer.id, answer.ok, answer.done) == ("x", True, True)
    it.receive(worker(0), encode(ReportDone(id=own, seat=0, found=False)), 0.0)
    assert it.outgoing() == []


def test_hangup_of_a_call_that_nobody_has_is_not_ok():
    """Said when all have answered; whoever did not is named."""
    it = with_workers(0, 1)
    ask(it, AskHangUp(id="x", call="a"))
    own = orders(it)[worker(0)].id
    it.receive(worker(1), encode(ReportDone(id=own, seat=1, found=False)), 0.0)
    it.wake(2.0)
    (answer,) = replies(it)
    assert not answer.ok
    assert answer.text == "no such call, but worker 0 did not answer"


def test_log_level_is_told_to_workers_supervisor_and_ourselves():
    """And answered when all have."""
    it = with_workers(0)
    ask(it, AskLogLevel(id="x", level="debug"))
    told = orders(it)
    own = told[worker(0)].id
    assert told == {worker(0): OrderLogLevel(id=own, level="debug")}
    assert it.to_supervisor() == [encode(AskLogLevel(id=own, level="debug"))]
    assert it.events() == [LevelAsked("debug")]
    it.receive(worker(0), encode(ReportDone(id=own, seat=0, found=True)), 0.0)
    assert it.outgoing() == []
    it.receive_supervisor(encode(Answer(id=own, text="")), 0.0)
    assert replies(it) == [Answer(id="x", text="log level is debug")]


def test_log_level_says_who_did_not_take_it():
    """Not ok then."""
    it = with_workers(0)
    ask(it, AskLogLevel(id="x", level="debug"))
    it.outgoing()
    it.wake(2.0)
    (answer,) = replies(it)
    assert not answer.ok
    assert "worker 0" in answer.text
    assert "supervisor" in answer.text


# --- asks of the supervisor ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [AskDrain(id="x"), AskReload(id="x"), AskUpgrade(id="x"), AskScale(id="x", count=3)],
    ids=lambda message: type(message).__name__,
)
def test_the_supervisor_is_asked_under_an_id_of_ours(message):
    """And its answers, until the last, go back under the asker's."""
    it = Routing("m")
    ask(it, message)
    (word,) = it.to_supervisor()
    passed = ASKED.decode(word)
    assert passed == msgspec.structs.replace(message, id=passed.id)
    assert passed.id != "x"
    for done in (False, False, True):
        it.receive_supervisor(encode(Answer(id=passed.id, text="t", done=done)), 1.0)
        assert replies(it) == [Answer(id="x", text="t", done=done)]
    it.receive_supervisor(encode(Answer(id=passed.id, text="late")), 1.0)
    assert it.outgoing() == []
    assert len(it) == 0


def test_a_supervisor_that_does_not_answer_is_reported():
    """After five seconds; after its first answer it has longer between them."""
    it = Routing("m")
    ask(it, AskReload(id="x"), now=0.0)
    ask(it, AskReload(id="y"), now=0.0)
    first, _ = (ASKED.decode(word).id for word in it.to_supervisor())
    it.receive_supervisor(encode(Answer(id=first, text="slot 0", done=False)), 4.0)
    it.outgoing()
    it.wake(5.0)
    (answer,) = replies(it)
    assert (answer.id, answer.ok, answer.done) == ("y", False, True)
    assert it.wake_at() == 4.0 + routing.PROGRESS_SECONDS


def test_what_could_not_be_sent_to_the_supervisor_is_answered_at_once():
    """Instead of after its deadline."""
    it = Routing("m")
    ask(it, AskDrain(id="x"))
    it.receive_lost(it.to_supervisor()[0], 0.0)
    (answer,) = replies(it)
    assert (answer.id, answer.ok) == ("x", False)


def test_answers_for_another_life_of_the_switchboard_reach_nobody():
    """Ids carry the life's own mark."""
    old, new = Routing("old"), Routing("new")
    ask(old, AskDrain(id="x"))
    ask(new, AskDrain(id="y"))
    late = ASKED.decode(old.to_supervisor()[0]).id
    new.receive_supervisor(encode(Answer(id=late, text="t")), 0.0)
    assert new.outgoing() == []


def test_an_operator_that_went_away_costs_nothing():
    """Its ask is forgotten, the supervisor's answers to it too."""
    it = Routing("m")
    ask(it, AskReload(id="x"))
    own = ASKED.decode(it.to_supervisor()[0]).id
    it.receive_gone(BOB, 0.0)
    assert len(it) == 0
    it.receive_supervisor(encode(Answer(id=own, text="t")), 0.0)
    assert it.outgoing() == []


def test_the_fleet_is_passed_on_as_it_came_and_tells_of_a_reload():
    """Another generation than before is another configuration; the first one is not."""
    it = Routing("m")
    words = [encode(fleet(generation=generation)) for generation in (4, 4, 5)]
    for word in words:
        it.receive_supervisor(word, 0.0)
    expected = zip(words, (False, False, True), strict=True)
    assert it.events() == [FleetTold(word, is_reloaded=told) for word, told in expected]


# --- what is refused, and bounds -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("who", "data", "code", "id_"),
    [
        (BOB, b"", "garbage", ""),
        (BOB, b"\xff\x00", "garbage", ""),
        (BOB, b"[]", "garbage", ""),
        (BOB, b"[" * 10_000, "garbage", ""),
        (BOB, b'{"type":"dance","id":"7"}', "garbage", "7"),
        (BOB, b'{"type":"status","id":7}', "garbage", ""),
        (BOB, b'{"type":"scale","id":"7","count":0}', "garbage", "7"),
        (BOB, b'{"type":"status","id":"7","v":2}', "version", "7"),
        (BOB, encode(AskHangUp(id="7", call="a" * 128)) + b" " * 20_000, "size", "7"),
        (BOB, encode(Hello(seat=0, slot=0, pid=1)), "garbage", ""),
        (BOB, encode(ReportDone(id="7", seat=0, found=True)), "garbage", "7"),
        (worker(0), encode(AskStatus(id="7")), "garbage", "7"),
        (worker(0), encode(Hello(seat=1, slot=0, pid=100)), "garbage", ""),
        (worker(0), encode(Beat(seat=0, slot=0, pid=5, calls=0)), "garbage", ""),
        (b"worker.", b"", "garbage", ""),
    ],
)
def test_what_is_not_understood_is_refused_with_its_code(who, data, code, id_):
    """And nothing else comes of it."""
    it = Routing("m")
    it.receive(who, data, 0.0)
    (refused,) = replies(it, who)
    assert isinstance(refused, Refused)
    assert (refused.code, refused.id) == (code, id_)
    assert (len(it), it.workers, it.refused) == (0, 0, 1)


def test_one_operator_cannot_take_all_places():
    """Beyond its share it is told to wait; another one is not."""
    it = with_workers(0)
    for _ in range(routing.PENDING_PER_OPERATOR + 1):
        ask(it, AskCalls(id="x"))
    refused = replies(it)
    assert [one.code for one in refused] == ["busy"]
    ask(it, AskCalls(id="y"), who=EVE)
    assert replies(it, EVE) == []
    assert len(it) == routing.PENDING_PER_OPERATOR + 1


def test_asks_beyond_all_places_are_refused_as_busy():
    """Until places are free again."""
    it = with_workers(0)
    for number in range(routing.PENDING_MAX):
        ask(it, AskCalls(id="x"), who=b"\x00%d" % number)
    it.outgoing()
    ask(it, AskCalls(id="y"))
    assert [one.code for one in replies(it)] == ["busy"]
    it.wake(2.0)
    it.outgoing()
    ask(it, AskCalls(id="y"), now=2.0)
    assert orders(it).keys() == {worker(0)}


def test_more_workers_than_there_can_be_push_out_the_quietest():
    """The table has a bound whatever says Hello."""
    it = Routing("m")
    for pid in range(routing.WORKERS_MAX + 1):
        it.receive(worker(0, pid + 1), encode(Hello(seat=0, slot=0, pid=pid + 1)), pid)
    assert it.workers == routing.WORKERS_MAX
    ask(it, AskCalls(id="x"))
    assert worker(0, 1) not in orders(it)


def test_calls_gathered_have_a_bound():
    """More than fit into any reply are only counted."""
    it = with_workers(*range(4))
    ask(it, AskCalls(id="x"))
    own = orders(it)[worker(0)].id
    for seat in range(4):
        calls = [call(str(number)) for number in range(3000)]
        it.receive(worker(seat), encode(ReportCalls(id=own, seat=seat, calls=calls)), 0.0)
    (reply,) = replies(it)
    assert len(reply.calls) <= routing.CALLS_MAX
    assert len(reply.calls) + reply.left_off == 12_000


def test_who_does_not_drain_is_told_so():
    """Before memory is."""
    it = Routing("m")
    for _ in range(routing.OUTGOING_MAX):
        ask(it, AskStatus(id="x"))
    with pytest.raises(LocalError):
        ask(it, AskStatus(id="x"))
    assert len(it.outgoing()) == routing.OUTGOING_MAX


# --- laws ----------------------------------------------------------------------------------------

IDENTITIES = st.one_of(
    st.sampled_from([BOB, EVE, worker(0), worker(1), b"worker.", b""]), st.binary(max_size=20)
)
MESSAGES = st.sampled_from(
    [
        AskStatus(id="1"),
        AskCalls(id="2"),
        AskHangUp(id="3", call="a"),
        AskLogLevel(id="4", level="info"),
        AskReload(id="5"),
        Hello(seat=0, slot=0, pid=100),
        Hello(seat=1, slot=0, pid=101),
        Beat(seat=1, slot=0, pid=101, calls=3),
        ReportCalls(id="m-1", seat=0, calls=[call("a")]),
        ReportDone(id="m-2", seat=1, found=True),
        Answer(id="m-1", text="t", done=False),
        Answer(id="m-2", text="t"),
        fleet(line(0), line(1)),
        fleet(generation=2),
    ]
)
DATA = st.one_of(
    st.binary(max_size=200), st.text(max_size=100).map(str.encode), MESSAGES.map(encode)
)
STEPS = st.lists(
    st.tuples(st.sampled_from(["receive", "supervisor", "gone", "lost", "wake"]), IDENTITIES, DATA),
    max_size=60,
)


def feed(it: Routing, verb: str, who: bytes, data: bytes, now: float) -> None:
    """Whatever can happen to it."""
    match verb:
        case "receive":
            it.receive(who, data, now)
        case "supervisor":
            it.receive_supervisor(data, now)
        case "gone":
            it.receive_gone(who, now)
        case "lost":
            it.receive_lost(data, now)
        case _:
            it.wake(now)


@given(STEPS)
def test_garbage_law(steps):
    """Whatever anybody says in whatever order, nothing is raised, and operators are still answered."""
    it = Routing("m")
    for number, (verb, who, data) in enumerate(steps):
        keeps_garbage_law(
            it, lambda v=verb, w=who, d=data, n=number: feed(it, v, w, d, n / 10), ControlError
        )
    it.outgoing(), it.to_supervisor()
    keeps_quiet_law(it)
    assert it.outgoing() == it.to_supervisor() == []
    ask(it, AskStatus(id="z"), now=100.0)
    assert replies(it)[0].id == "z"


@given(STEPS)
def test_every_ask_gets_exactly_one_last_reply(steps):
    """By its deadline at the latest, whatever workers and supervisor say; nothing stays pending."""
    it = Routing("m")
    told = 0
    for number, (verb, _, data) in enumerate(steps):
        ask(it, AskCalls(id="mine"), now=number / 10)
        feed(it, verb, worker(0), data, number / 10)
        told += sum(reply.id == "mine" for reply in replies(it))
        it.to_supervisor(), it.events()
    it.wake(1e6)
    told += sum(reply.id == "mine" for reply in replies(it))
    assert told == len(steps)
    assert len(it) == 0
    assert it.wake_at() is None


@given(STEPS)
def test_bounded_law(steps):
    """Pending asks and workers never exceed their limits."""
    it = Routing("m")
    for number, (verb, who, data) in enumerate(steps):
        for times in range(20):
            feed(it, verb, who + bytes([times]), data, number)
            it.receive(who, encode(AskReload(id="r")), number)
            assert len(it) <= routing.PENDING_MAX
            assert it.workers <= routing.WORKERS_MAX
        it.outgoing(), it.to_supervisor(), it.events()
