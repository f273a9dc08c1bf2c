"""The transaction machines in virtual time: every row of every table, matching, limits, the pair law."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flowcatd.errors import CapacityError, LocalError
from flowcatd.sip.event import (
    Acked,
    Answered,
    Asked,
    Cancelled,
    Ended,
    Hop,
    Limits,
    TimedOut,
    Undelivered,
)
from flowcatd.sip.machine import BEGIN, TABLES, Do, Kind, State, Turn
from flowcatd.sip.message import Request, Response, build_response, parse_message
from flowcatd.sip.timers import Timers
from flowcatd.sip.transaction import Transactions
from tests.flowcatd.sip.lossy import settle
from tests.flowcatd.sip.torture import case, plain, request, response
from tests.fuzz.sip import run
from tests.laws import keeps_bounded_law, keeps_quiet_law

UDP = Hop("UDP", "192.0.2.1", 5066)
TCP = Hop("TCP", "192.0.2.1", 5066, connection=3)
T1 = 0.5

ROWS = [(kind, state, turn) for kind, table in TABLES.items() for state, turn in table]

PATHS = {
    State.CALLING: (),
    State.TRYING: (),
    State.PROCEEDING: (Turn.PROVISIONAL,),
    State.COMPLETED: (Turn.FAILURE,),
    State.CONFIRMED: (Turn.FAILURE, Turn.ACK),
    State.ACCEPTED: (Turn.SUCCESS,),
}
STATUS = {Turn.PROVISIONAL: 180, Turn.SUCCESS: 200, Turn.FAILURE: 486}


FIGURES = {
    Kind.INVITE_CLIENT: """
        CALLING     PROVISIONAL>PROCEEDING SUCCESS>ACCEPTED FAILURE>COMPLETED ERROR>TERMINATED
        CALLING     TIMER_A>CALLING TIMER_B>TERMINATED
        PROCEEDING  PROVISIONAL>PROCEEDING SUCCESS>ACCEPTED FAILURE>COMPLETED ERROR>TERMINATED
        PROCEEDING  CANCEL>PROCEEDING TIMER_C>PROCEEDING TIMER_GIVEN_UP>TERMINATED
        COMPLETED   FAILURE>COMPLETED ERROR>TERMINATED TIMER_D>TERMINATED
        ACCEPTED    SUCCESS>ACCEPTED TIMER_M>TERMINATED""",
    Kind.CLIENT: """
        TRYING      PROVISIONAL>PROCEEDING SUCCESS>COMPLETED FAILURE>COMPLETED ERROR>TERMINATED
        TRYING      TIMER_E>TRYING TIMER_F>TERMINATED
        PROCEEDING  PROVISIONAL>PROCEEDING SUCCESS>COMPLETED FAILURE>COMPLETED ERROR>TERMINATED
        PROCEEDING  TIMER_E>PROCEEDING TIMER_F>TERMINATED
        COMPLETED   TIMER_K>TERMINATED""",
    Kind.INVITE_SERVER: """
        PROCEEDING  REQUEST>PROCEEDING PROVISIONAL>PROCEEDING SUCCESS>ACCEPTED FAILURE>COMPLETED
        PROCEEDING  ERROR>PROCEEDING TIMER_TRYING>PROCEEDING
        COMPLETED   REQUEST>COMPLETED ACK>CONFIRMED ERROR>COMPLETED TIMER_G>COMPLETED
        COMPLETED   TIMER_H>TERMINATED
        CONFIRMED   ACK>CONFIRMED REQUEST>CONFIRMED TIMER_I>TERMINATED
        ACCEPTED    REQUEST>ACCEPTED SUCCESS>ACCEPTED ACK>ACCEPTED ERROR>ACCEPTED
        ACCEPTED    TIMER_L>TERMINATED""",
    Kind.SERVER: """
        TRYING      REQUEST>TRYING PROVISIONAL>PROCEEDING SUCCESS>COMPLETED FAILURE>COMPLETED
        TRYING      ERROR>TERMINATED TIMER_F>TERMINATED TIMER_TRYING>PROCEEDING
        PROCEEDING  REQUEST>PROCEEDING PROVISIONAL>PROCEEDING SUCCESS>COMPLETED FAILURE>COMPLETED
        PROCEEDING  ERROR>TERMINATED TIMER_F>TERMINATED
        COMPLETED   REQUEST>COMPLETED ERROR>TERMINATED TIMER_J>TERMINATED""",
}
"""The arrows of RFC 6026 Figures 4 and 5, RFC 3261 Figures 6 and 8, and RFC 4320, with the two rows of our own."""


@pytest.mark.parametrize("kind", Kind)
def test_the_table_has_the_arrows_of_the_figures(kind: Kind):
    """Written down a second time, from the RFCs."""
    arrows = set()
    for line in FIGURES[kind].split("\n")[1:]:
        state, *pairs = line.split()
        arrows |= {(state, *pair.split(">")) for pair in pairs}
    rows = TABLES[kind].items()
    assert {(state.name, turn.name, row[0].name) for (state, turn), row in rows} == arrows


class Machine:
    """One transaction of a kind, driven turn by turn through the layer's public door."""

    def __init__(self, kind: Kind, hop: Hop = UDP, state: State | None = None) -> None:
        self.kind = kind
        self.layer = Transactions()
        self.now = 0.0
        self.hop = hop
        method = "INVITE" if kind in {Kind.INVITE_CLIENT, Kind.INVITE_SERVER} else "OPTIONS"
        self.request = request(method, "Route: <sip:p1;lr>")
        if kind.is_client:
            self.id = self.layer.send(self.request, hop, 0.0)
        else:
            self.layer.receive(self.request, hop, 0.0)
            (asked,) = self.layer.events()
            assert isinstance(asked, Asked)
            self.id = asked.id
        self.one = self.layer._all[self.id]
        rings = kind is Kind.INVITE_SERVER and state is State.PROCEEDING
        for turn in PATHS[state] if state and not rings else ():
            self.drive(turn)
        if state is not None:
            assert self.one.state is state
            self.drain()

    def drain(self) -> tuple[list[object], list[bytes]]:
        """What was told and what was sent."""
        return self.layer.events(), [each.data for each in self.layer.outgoing()]

    def drive(self, turn: Turn) -> None:
        """Lets it happen, the way it happens."""
        if turn in STATUS and self.kind.is_client:
            self.layer.receive(response(self.request, STATUS[turn]), self.hop, self.now)
        elif turn in STATUS:
            answer = build_response(self.request, STATUS[turn], tag="b1")
            self.layer.respond(self.id, answer, self.now)
        elif turn is Turn.REQUEST:
            self.layer.receive(
                request(self.request.method, "Route: <sip:p1;lr>"), self.hop, self.now
            )
        elif turn is Turn.ACK:
            ack = request("ACK", to="<sip:bob@example.com>;tag=b1", cseq="1 ACK")
            self.layer.receive(ack, self.hop, self.now)
        elif turn is Turn.ERROR:
            self.layer.receive_failure(self.one.hop, self.now)
        elif turn is Turn.CANCEL:
            self.layer.cancel(self.id, self.now)
        else:
            self._wait_for(turn)

    def _wait_for(self, turn: Turn) -> None:
        if turn is Turn.TIMER_GIVEN_UP:
            self.layer.cancel(self.id, self.now)
        due = self.one.timers[turn].due
        while turn in self.one.timers and self.one.timers[turn].due == due:
            self.now = self.layer.wake_at()
            assert self.now <= due
            self.drain()
            self.layer.wake(self.now)

    def run_out(self) -> float:
        """Time alone passes; when nothing more is to come."""
        while (due := self.layer.wake_at()) is not None:
            assert due >= self.now
            self.now = due
            self.layer.wake(due)
        return self.now


def first_word(data: bytes) -> bytes:
    """A request's method, a response's version."""
    return data.split(b" ")[0]


def has_done(do: Do, told: list[object], sent: list[bytes], kept: bool) -> bool:  # noqa: FBT001 a table's cell
    """Whether a doing can be seen from outside; timers are seen when they fire."""
    kinds = [type(event) for event in told]
    match do:
        case Do.TELL:
            return any(kind in {Answered, Asked, Acked, Cancelled} for kind in kinds)
        case Do.TELL_TIMEOUT:
            return TimedOut in kinds
        case Do.TELL_ERROR:
            return Undelivered in kinds
        case Do.SEND:
            return len(sent) == 1
        case Do.REPEAT:
            return len(sent) == (1 if kept else 0)
        case Do.TRYING:
            return any(data.startswith(b"SIP/2.0 100 ") for data in sent)
        case Do.ACKNOWLEDGE:
            return [first_word(data) for data in sent] == [b"ACK"]
        case Do.CANCEL:
            return b"CANCEL" in [first_word(data) for data in sent] or not kept
    return True


@pytest.mark.parametrize(
    ("kind", "state", "turn"), ROWS, ids=[f"{k.name}-{s.name}-{t.name}" for k, s, t in ROWS]
)
def test_each_row_does_what_it_says(kind: Kind, state: State, turn: Turn):
    """From its state, by its turn, to the next: with all that is sent, told and nothing else."""
    machine = Machine(kind, state=state)
    kept = bool(machine.one.kept)
    after, doings = TABLES[kind][(state, turn)]
    if turn is Turn.TIMER_GIVEN_UP:
        kept = False  # its CANCEL went out before
    machine.drive(turn)
    assert machine.one.state is after
    told, sent = machine.drain()
    if not turn.name.startswith("TIMER"):
        assert bool(told) == any(do in {Do.TELL, Do.TELL_ERROR} for do in doings) or after is (
            State.TERMINATED
        )
        assert bool(sent) <= bool(doings)
    for do in doings:
        assert has_done(do, told, sent, kept), do
    assert (Ended(machine.id) in told) == (after is State.TERMINATED)
    assert (machine.id in machine.layer._all) == (after is not State.TERMINATED)
    machine.run_out()
    rings = (kind, after) == (Kind.INVITE_SERVER, State.PROCEEDING)
    assert (machine.id in machine.layer._all) == rings, "nothing ends it"


def test_every_state_is_reached_and_left_by_time():
    """But for a server INVITE that rings: that is its user's to answer."""
    for kind, table in TABLES.items():
        reached = {BEGIN[kind][0]}
        for _ in State:
            reached |= {after for (before, _), (after, _) in table.items() if before in reached}
        assert reached == {state for state, _ in table} | {State.TERMINATED}
        timed = {state for state, turn in table if turn.name.startswith("TIMER")}
        assert timed == reached - {State.TERMINATED}


@pytest.mark.parametrize("hop", [UDP, TCP], ids=["UDP", "TCP"])
@pytest.mark.parametrize("kind", Kind)
def test_time_alone_ends_every_state(kind: Kind, hop: Hop):
    """Within 64*T1 of its beginning, or at once where nothing can come twice."""
    for state in {state for state, _ in TABLES[kind]}:
        if (kind, state) == (Kind.INVITE_SERVER, State.PROCEEDING):
            continue
        machine = Machine(kind, hop)
        for turn in PATHS[state]:
            machine.drive(turn)
        ended = machine.run_out()
        assert len(machine.layer) == 0
        assert machine.layer.ignored == 0, "a timer outlived its state"
        ringing = 190 + 64 * T1 if (kind, state) == (Kind.INVITE_CLIENT, State.PROCEEDING) else 0
        assert ended <= max(64 * T1, ringing)
        waits = hop is UDP or state not in {State.COMPLETED, State.CONFIRMED}
        # A reliable server INVITE still waits for its ACK.
        if (kind, state) != (Kind.INVITE_SERVER, State.COMPLETED):
            assert (ended > 0) == waits


@pytest.mark.parametrize("kind", Kind)
def test_what_has_no_row_is_ignored_and_counted(kind: Kind):
    """A late provisional answer, a second thought, a stray CANCEL."""
    turns = set(STATUS) if kind.is_client else set(STATUS) | {Turn.REQUEST}
    for state in {state for state, _ in TABLES[kind]}:
        for turn in turns:
            if (state, turn) in TABLES[kind]:
                continue
            machine = Machine(kind, state=state)
            machine.drive(turn)
            assert machine.layer.ignored == 1
            assert machine.drain() == ([], [])
            assert machine.one.state is state


def times_sent(machine: Machine) -> list[float]:
    """When what is sent is sent, as time passes."""
    sent = [0.0] * len(machine.layer.outgoing())
    while (due := machine.layer.wake_at()) is not None:
        machine.layer.wake(due)
        sent += [due] * len(machine.layer.outgoing())
    return sent


def test_an_invite_is_repeated_with_doubling_pauses():
    """Timer A, until Timer B at 32 s (§17.1.1.2)."""
    assert times_sent(Machine(Kind.INVITE_CLIENT)) == [0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5]


def test_another_request_is_repeated_up_to_every_four_seconds():
    """Timer E, until Timer F at 32 s (§17.1.2.2)."""
    assert times_sent(Machine(Kind.CLIENT)) == [
        0,
        0.5,
        1.5,
        3.5,
        7.5,
        11.5,
        15.5,
        19.5,
        23.5,
        27.5,
        31.5,
    ]


def test_a_failure_is_repeated_until_it_is_acknowledged():
    """Timer G, until Timer H at 32 s (§17.2.1)."""
    machine = Machine(Kind.INVITE_SERVER)
    machine.drive(Turn.FAILURE)
    assert times_sent(machine) == [0, 0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5]


def test_a_provisional_answer_slows_repetition_to_t2():
    """§17.1.2.2: in Proceeding, Timer E runs for T2."""
    machine = Machine(Kind.CLIENT)
    machine.drive(Turn.PROVISIONAL)
    assert times_sent(machine)[:4] == [0, 0.5, 4.5, 8.5]


@pytest.mark.parametrize("kind", Kind)
def test_nothing_is_repeated_over_a_reliable_transport(kind: Kind):
    """Whatever the machine."""
    machine = Machine(kind, TCP)
    if kind is Kind.INVITE_SERVER:
        machine.drive(Turn.FAILURE)
    assert len(times_sent(machine)) <= 1


def test_a_slow_user_has_the_caller_told_trying_after_200_ms():
    """§17.2.1; a quick one does not."""
    machine = Machine(Kind.INVITE_SERVER)
    assert machine.layer.wake_at() == 0.2
    machine.drive(Turn.PROVISIONAL)
    assert machine.layer.wake_at() is None


def test_timers_are_a_value():
    """A layer with another T1 keeps another time."""
    layer = Transactions(Timers(t1=0.1))
    layer.send(request("OPTIONS"), UDP, 0.0)
    assert layer.wake_at() == 0.1


# --- what the layer sends by itself


def test_a_failure_is_acknowledged_the_way_the_invite_went():
    """§17.1.1.3: same Request-URI, top Via, Route, From, Call-ID and number; the To of the failure."""
    machine = Machine(Kind.INVITE_CLIENT)
    machine.drain()
    machine.drive(Turn.FAILURE)
    _, (sent,) = machine.drain()
    ack = parse_message(sent)
    assert isinstance(ack, Request)
    assert (ack.method, ack.uri, ack.top, ack.call_id) == (
        "ACK",
        machine.request.uri,
        machine.request.top,
        machine.request.call_id,
    )
    assert (str(ack.cseq), ack.to.tag, ack.from_.tag) == ("1 ACK", "b1", "a1")
    assert ack.fields["route"] == ["<sip:p1;lr>"]


def test_a_repeated_failure_is_acknowledged_again_and_told_once():
    """The first ACK was lost (§17.1.1.2)."""
    machine = Machine(Kind.INVITE_CLIENT, state=State.COMPLETED)
    for _ in range(3):
        machine.drive(Turn.FAILURE)
        told, sent = machine.drain()
        assert (told, [first_word(data) for data in sent]) == ([], [b"ACK"])


def test_a_cancel_waits_for_the_first_sign_of_life():
    """§9.1: before that it could overtake the INVITE; then it has the same branch and number."""
    machine = Machine(Kind.INVITE_CLIENT)
    machine.drain()
    assert machine.layer.cancel(machine.id, 0.0)
    assert machine.drain() == ([], [])
    machine.drive(Turn.PROVISIONAL)
    _, (sent,) = machine.drain()
    cancel = parse_message(sent)
    assert isinstance(cancel, Request)
    assert (cancel.method, str(cancel.cseq), cancel.to.tag) == ("CANCEL", "1 CANCEL", "")
    assert cancel.top == machine.request.top
    assert machine.layer.cancel(machine.id, 0.0)
    assert machine.drain() == ([], [])


def test_a_200_that_crosses_the_cancel_is_told():
    """The user then acknowledges it and says BYE."""
    machine = Machine(Kind.INVITE_CLIENT, state=State.PROCEEDING)
    machine.layer.cancel(machine.id, 0.0)
    machine.drive(Turn.SUCCESS)
    told, _ = machine.drain()
    assert [event.response.status for event in told if isinstance(event, Answered)] == [200]
    assert not machine.layer.cancel(machine.id, 0.0)


def test_a_call_that_rings_too_long_cancels_itself():
    """Timer C, then 64*T1 for the 487."""
    machine = Machine(Kind.INVITE_CLIENT, state=State.PROCEEDING)
    machine.drive(Turn.TIMER_C)
    assert machine.now == 190.0
    assert [first_word(data) for data in machine.drain()[1]] == [b"CANCEL"]
    machine.run_out()
    assert machine.now == 190.0 + 64 * T1


# --- matching


def test_a_cancel_finds_its_invite():
    """§9.2; without one its target is nothing."""
    machine = Machine(Kind.INVITE_SERVER)
    cancel = request("CANCEL", cseq="1 CANCEL")
    machine.layer.receive(cancel, UDP, 0.1)
    (told,) = machine.layer.events()
    assert isinstance(told, Cancelled)
    assert (told.target, told.id != machine.id) == (machine.id, True)
    other = request("CANCEL", via="SIP/2.0/UDP 192.0.2.1:5066;branch=z9hG4bKtwo")
    machine.layer.receive(other, UDP, 0.1)
    assert machine.layer.events()[0].target is None


def test_a_request_that_comes_two_ways_is_told_so():
    """§8.2.2.2: a 482 that keeps no state; not for another CSeq."""
    machine = Machine(Kind.INVITE_SERVER)
    again = request("INVITE", via="SIP/2.0/UDP 192.0.2.1:5066;branch=z9hG4bKtwo")
    machine.layer.receive(again, UDP, 0.0)
    (sent,) = machine.drain()[1]
    assert sent.startswith(b"SIP/2.0 482 ")
    assert len(machine.layer) == 1
    retry = request("INVITE", via="SIP/2.0/UDP 192.0.2.1:5066;branch=z9hG4bKtwo", cseq="2 INVITE")
    machine.layer.receive(retry, UDP, 0.0)
    assert isinstance(machine.layer.events()[0], Asked)


@pytest.mark.parametrize("branch", ["", ";branch=old7", ";branch=z9hG4bK"])
def test_a_peer_of_rfc_2543_is_matched_by_everything_else(branch: str):
    """§17.2.3: repetition, ACK with our tag, CANCEL; a bare cookie is no branch (RFC 4475 §3.2.1)."""
    old = f"SIP/2.0/UDP 192.0.2.1:5066{branch}"
    layer = Transactions()
    layer.receive(request("INVITE", via=old), UDP, 0.0)
    layer.receive(request("INVITE", via=old), UDP, 0.1)
    (asked,) = layer.events()
    layer.receive(request("CANCEL", via=old, cseq="1 CANCEL"), UDP, 0.2)
    assert layer.events()[0].target == asked.id
    layer.respond(asked.id, build_response(asked.request, 487, tag="b1"), 0.3)
    layer.receive(
        request("ACK", via=old, cseq="1 ACK", to="<sip:bob@example.com>;tag=b1"), UDP, 0.4
    )
    assert layer._all[asked.id].state is State.CONFIRMED
    layer.receive(request("INVITE", via=old, cseq="2 INVITE"), UDP, 0.5)
    assert isinstance(layer.events()[0], Asked)


@pytest.mark.parametrize(
    "other",
    [
        {"via": "SIP/2.0/UDP 192.0.2.1:5066;branch=z9hG4bKtwo"},
        {"via": "SIP/2.0/UDP 192.0.2.7:5066;branch=z9hG4bKone"},
        {"via": "SIP/2.0/UDP 192.0.2.1:5067;branch=z9hG4bKone"},
    ],
)
def test_another_branch_or_sender_is_another_transaction(other: dict[str, str]):
    """§17.2.3: both are compared."""
    layer = Transactions()
    layer.receive(request("OPTIONS"), UDP, 0.0)
    layer.receive(request("OPTIONS", cseq="2 OPTIONS", **other), UDP, 0.0)
    assert len(layer) == 2


@pytest.mark.parametrize(
    "stray",
    [
        lambda asked: response(asked, 200),
        lambda _: parse_message(case("bcast")),
    ],
)
def test_a_response_for_nobody_is_counted(stray):
    """§17.1.3, and RFC 4475 §3.3.10: somebody else's."""
    layer = Transactions()
    layer.receive(stray(request("OPTIONS")), UDP, 0.0)
    assert (layer.ignored, layer.events(), layer.outgoing()) == (1, [], [])


@pytest.mark.parametrize("more", ["Via: SIP/2.0/UDP 192.0.2.250", None])
def test_a_response_with_a_second_via_is_not_ours(more: str | None):
    """§8.1.3.3, on a line of its own or behind a comma."""
    layer = Transactions()
    asked = request("OPTIONS")
    layer.send(asked, UDP, 0.0)
    answer = response(asked, 200)
    if more:
        answer.fields["via"].append("SIP/2.0/UDP 192.0.2.250")
    else:
        answer.fields["via"][0] += ", SIP/2.0/UDP 192.0.2.250"
    layer.receive(answer, UDP, 0.0)
    assert (layer.ignored, layer.events()) == (1, [])


def test_the_answer_goes_where_rport_or_the_via_says():
    """RFC 3581, RFC 3261 §18.2.2: the source's host, the source's or the Via's port."""
    for top, port in (("192.0.2.1:5066;rport", 40_000), ("192.0.2.1:5066", 5066), ("a", 5060)):
        layer = Transactions()
        layer.receive(request("OPTIONS", via=f"SIP/2.0/UDP {top}"), replace(UDP, port=40_000), 0.0)
        (asked,) = layer.events()
        layer.respond(asked.id, build_response(asked.request, 200), 0.0)
        assert layer.outgoing()[0].hop == replace(UDP, port=port)


def test_an_ack_of_nothing_is_told():
    """It may be a 2xx's, after the transaction's end."""
    layer = Transactions()
    ack = request("ACK")
    layer.receive(ack, UDP, 0.0)
    assert layer.events() == [Acked(ack, UDP)]


# --- limits and misuse


def test_the_longest_finished_goes_first():
    """Then, when none is finished, a new request costs nothing but a 503."""
    layer = Transactions(limits=Limits(transactions=2))
    for number in (1, 2, 3):
        layer.receive(request("OPTIONS", cseq=f"{number} OPTIONS", **hop(number)), UDP, 0.0)
        asked = [event for event in layer.events() if isinstance(event, Asked)]
        assert [event.request.cseq.number for event in asked] == [number]
        if number == 1:
            layer.respond(asked[0].id, build_response(asked[0].request, 200), 0.0)
    assert len(layer) == 2
    layer.outgoing()
    layer.receive(request("OPTIONS", cseq="4 OPTIONS", **hop(4)), UDP, 0.0)
    (sent,) = layer.outgoing()
    assert sent.data.startswith(b"SIP/2.0 503 ")
    assert b"\r\nRetry-After: 5\r\n" in sent.data
    with pytest.raises(CapacityError):
        layer.send(request("OPTIONS", **hop(5)), UDP, 0.0)
    assert len(layer) == 2


def hop(number: int) -> dict[str, str]:
    """A branch of its own."""
    return {"via": f"SIP/2.0/UDP 192.0.2.1:5066;branch=z9hG4bK{number}"}


def test_a_flood_leaves_nothing_behind():
    """Ten thousand requests, answered or not: after their time all is empty."""
    layer = Transactions(limits=Limits(transactions=500))
    for number in range(10_000):
        now = number / 1000
        layer.receive(request("OPTIONS", cseq=f"{number} OPTIONS", **hop(number)), UDP, now)
        for event in layer.events():
            if isinstance(event, Asked) and number % 3:
                layer.respond(event.id, build_response(event.request, 200), now)
        layer.outgoing()
        assert len(layer) <= 500
    while (due := layer.wake_at()) is not None:
        layer.wake(due)
    assert (len(layer), len(layer._found), len(layer._finished), len(layer._wakes)) == (0, 0, 0, 0)


def test_events_that_nobody_drains_are_limited():
    """The bounded law, for events and for datagrams."""
    layer = Transactions(limits=Limits(undrained=50))
    numbers = iter(range(1000))

    def feed() -> None:
        layer.receive(
            request("OPTIONS", cseq=f"{next(numbers)} OPTIONS", **hop(next(numbers))), UDP, 0
        )

    keeps_bounded_law(layer, feed, limit=50)
    keeps_quiet_law(layer)


def test_misuse_is_told():
    """A branch twice, an ACK as a transaction, an answer to ourselves, one that is over."""
    layer = Transactions()
    number = layer.send(request("OPTIONS"), UDP, 0.0)
    with pytest.raises(LocalError):
        layer.send(request("OPTIONS"), UDP, 0.0)
    with pytest.raises(LocalError):
        layer.send(request("ACK"), UDP, 0.0)
    with pytest.raises(LocalError):
        layer.respond(number, build_response(request("OPTIONS"), 200), 0.0)
    assert not layer.respond(number + 1, build_response(request("OPTIONS"), 200), 0.0)
    assert not layer.cancel(number, 0.0)


def test_a_lost_connection_ends_what_waits_for_it():
    """And nothing else."""
    layer = Transactions()
    lost = layer.send(request("OPTIONS"), TCP, 0.0)
    layer.send(request("OPTIONS", **hop(2)), UDP, 0.0)
    layer.receive_failure(TCP, 0.0)
    assert layer.events() == [Undelivered(lost), Ended(lost)]
    assert len(layer) == 1


# --- the pair law


@pytest.mark.parametrize("block", range(8))
def test_two_sides_come_to_an_end_through_any_link(block: int):
    """Loss, repetition, delay, reordering: each side concludes once, in the RFC's time, and is empty."""
    for seed in range(block * 150, block * 150 + 150):
        settle(seed)


def test_a_message_of_the_corpus_is_a_transaction_too():
    """Whatever is well-formed is carried."""
    layer = Transactions()
    invite = parse_message(case("wsinv"))
    assert not isinstance(invite, Response)
    layer.receive(invite, UDP, 0.0)
    (asked,) = layer.events()
    assert layer.respond(asked.id, build_response(invite, 404, tag="x"), 0.0)
    assert plain() != layer.outgoing()[0].data


def test_mutated_messages_bring_nothing_but_the_rooms_error():
    """A moment of `python -m tests.fuzz.sip`, which is run for a million."""
    tried, accepted = run(3000, 30.0, 7)
    assert tried == 3000
    assert accepted > 300
