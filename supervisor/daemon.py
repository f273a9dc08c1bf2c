"""The loop of the supervisor: drain events, let the fleet decide, do it.

It waits for signals, for children, for the switchboard's line, for the fleet's next wake and for its
own second, in which it looks for workers that stopped ticking, tells everybody how the daemon is and
strokes systemd's watchdog. It never touches a call. Should it die, its workers notice, drain and end.

Operators' wishes arrive by signal or over the switchboard and become the fleet's events; what the
fleet tells about them goes back to whoever asked.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, field, replace

from flowcatd import __version__
from flowcatd.control import (
    Answer,
    Ask,
    AskDrain,
    AskLogLevel,
    AskReload,
    AskScale,
    AskUpgrade,
)
from flowcatd.environment import notify_socket
from flowcatd.errors import ConfigError, LocalError
from flowcatd.log import configure as configure_log
from flowcatd.log import get_logger, set_level
from supervisor import systemd
from supervisor.config import Config
from supervisor.exchange import Exchange
from supervisor.fleet import Fleet
from supervisor.forking import Forking
from supervisor.holdings import Holdings
from supervisor.orders import (
    Action,
    Asked,
    CloseDoor,
    Exited,
    Finished,
    Fork,
    GiveUp,
    Gone,
    Hung,
    Lost,
    OpenDoor,
    Progress,
    ReadTrunks,
    Ready,
    Reload,
    Reloaded,
    Resize,
    Resized,
    Serving,
    Signal,
    Started,
    Stopped,
)
from supervisor.process import Readable, Told, now
from supervisor.program import Program
from supervisor.reload import fixed, only_trunks, render_difference
from supervisor.telling import Said, describe, report, serving
from supervisor.upgrade import ASKING_SECONDS, Asking, Handed, become
from supervisor.wish import SIGNALS, Wish

PULSE_SECONDS = 1.0
"""How often the supervisor looks around without being told."""
DOOR_CLOSE_SECONDS = 4.0
"""After a slot was given up: its worker has taken what waited in the queue long before."""
AWAY_SECONDS = 0.5
"""From this pause on, callers are not left waiting for a slot's next worker."""
log = get_logger()


@dataclass(slots=True)
class _Second:
    """What is due once in a while."""

    pulse_at: float
    doors: dict[int, float] = field(default_factory=dict)
    """Slots given up, to when their sockets are closed."""
    away: set[int] = field(default_factory=set)
    """Slots whose worker cannot be had for a while: the kernel gives them no new connection."""


class Daemon:
    """The loop around the fleet."""

    def __init__(
        self,
        config: Config,
        holdings: Holdings,
        exchange: Exchange,
        program: Program,
        handed: Handed | None = None,
    ) -> None:
        """`handed` is what a former program image left to this one."""
        self._program = program
        self._holdings = holdings
        self._exchange = exchange
        self._forking = Forking(holdings, program.work, program.prepare)
        self._systemd = notify_socket()
        self._wish: Wish | None = None
        self._asking: tuple[Asking, str] | None = None
        self._successor: str | None = None
        """The operator's id, once the installed program has said that it would start."""
        self._last_reload = ""
        self._ending = ""
        self._second = _Second(now() + PULSE_SECONDS)
        first = 1 if handed is None else handed.generation
        self._configs = {first: config}
        self._newest = first
        if handed is None:
            self._fleet = Fleet(self._count(config), config.options, now())
        else:
            self._fleet = self._restore(config, handed)

    def run(self) -> int:
        """Until the last worker is gone; the result is the exit code."""
        self._fleet.wake(now())
        while True:
            if self._exchange.wake(now()):
                self._state()  # its first answer shall not be that it knows nothing
            while actions := self._fleet.actions():
                for action in actions:
                    self._act(action)
                    if isinstance(action, Finished):
                        self._state()
                        self._exchange.end()
                        return action.code
            if self._successor is not None:
                self._become(self._successor)
            for news in self._holdings.children.wait(self._patience()):
                self._tell(news)
            self._fleet.wake(now())
            self._pulse()

    # --- waiting ----------------------------------------------------------------------------------

    def _patience(self) -> float:
        """Seconds until there is something to do without being told."""
        dues = [self._fleet.wake_at(), self._exchange.wake_at(), self._second.pulse_at]
        return max(0.0, min(due for due in dues if due is not None) - now())

    def _pulse(self) -> None:
        at = now()
        if at < self._second.pulse_at:
            return
        self._second.pulse_at = at + PULSE_SECONDS
        hung_seconds = self._config.options.workers.hung_seconds
        for pid in self._holdings.seats.hung(at, hung_seconds, PULSE_SECONDS):
            self._fleet.receive(Hung(pid), at)
        for slot, due in list(self._second.doors.items()):
            if at >= due:
                del self._second.doors[slot]
                self._holdings.close_doors(slot)
        if self._asking is not None and at >= self._asking[0].due:
            self._asking[0].overdue()
        systemd.alive(self._systemd)
        self._state()

    # --- being told -------------------------------------------------------------------------------

    def _tell(self, news: Exited | Ready | Told | Readable) -> None:
        match news:
            case Told(number):
                self._told(signal.Signals(number))
            case Readable():
                for ask in self._exchange.read():
                    self._asked(ask)
            case Exited(pid, code, number):
                self._exited(pid, code, number, news)
            case Ready(pid) if pid == self._exchange.pid:
                self._exchange.serves = True
            case _:
                self._fleet.receive(news, now())

    def _exited(self, pid: int, code: int, number: int, news: Exited) -> None:
        if pid == self._exchange.pid:
            self._exchange.reaped(f"signal {number}" if number else f"exit code {code}", now())
        elif self._asking is not None and pid == self._asking[0].pid:
            self._answered(well=code == 0 and number == 0)
        else:
            last = self._holdings.seats.gone(pid)
            if last is not None and last.calls:
                log.warning("worker.calls_lost", worker=last.slot, pid=pid, calls=last.calls)
            self._fleet.receive(news, now())

    def _told(self, number: signal.Signals) -> None:
        wish = SIGNALS.get(number)
        if number is signal.SIGHUP and self._program.on_terminal:
            wish = Asked.STOP
        name = wish.name.lower() if isinstance(wish, Asked) else (wish or "nothing")
        log.info("fleet.told", signal=number.name, command=name)
        if isinstance(wish, Asked):
            self._end(wish, f"by {number.name}")
        elif wish == "reload":
            self._reload("")
        elif wish == "upgrade":
            self._upgrade("")

    def _asked(self, ask: Ask) -> None:
        match ask:
            case AskDrain(id=id_):
                self._end(Asked.DRAIN, "by an operator")
                self._answer(id_, "draining: new calls are refused, live ones may finish")
            case AskReload(id=id_):
                self._reload(id_)
            case AskUpgrade(id=id_):
                self._upgrade(id_)
            case AskScale(id=id_, count=count):
                self._scale(id_, count)
            case AskLogLevel(id=id_, level=level):
                set_level(level)
                self._answer(id_, f"lines from {level} up are written")
            case _:
                self._answer(ask.id, "this is not for the supervisor", ok=False)

    def _answer(self, ask: str, text: str, *, done: bool = True, ok: bool = True) -> None:
        if done:
            self._state()  # whoever asks next what came of it must not hear of the time before
        if ask:
            self._exchange.answer(Answer(id=ask, text=text, done=done, ok=ok))

    # --- what operators wish ----------------------------------------------------------------------

    def _end(self, wish: Asked, how: str) -> None:
        if self._ending != "stop":
            self._ending = wish.name.lower()
        self._say_stopping(f"{self._ending} {how}", drains=self._ending == "drain")
        self._fleet.receive(wish, now())

    def _say_stopping(self, status: str, *, drains: bool) -> None:
        calls, workers = self._config.options.calls, self._config.options.workers
        seconds = calls.goodbye_seconds + calls.end_seconds + 2 * workers.stop_seconds + 5
        seconds += calls.drain_seconds if drains else 0
        if self._wish is not None:  # systemd hears of no end while it waits for a reload's
            systemd.ready(self._systemd, status, pid=os.getpid())
        systemd.stopping(self._systemd, status, seconds)

    def _reload(self, ask: str, *, is_upgrade: bool = False, before: int = 0) -> None:
        """`before` is the number of workers that a former program image's settings wanted."""
        try:
            config = self._program.read_again(self._config)
        except ConfigError as error:
            self._refuse(ask, str(error))
            return
        if not is_upgrade and self._read_trunks(ask, config):
            return
        count = self._count(config)
        then_count = count if count != (before or self._count(self._config)) else 0
        if problem := self._begin(Wish(ask, is_upgrade, then_count)):
            self._refuse(ask, problem)
            return
        self._newest += 1
        self._configs[self._newest] = config
        systemd.reloading(self._systemd, now())
        self._answer(ask, f"the configuration is good: {config.where}", done=False)
        self._fleet.receive(Reload(self._newest, config.options), now())

    def _read_trunks(self, ask: str, config: Config) -> bool:
        """Whether trunks are all that was changed; then every worker goes on, with the new ones.

        Not where an aborted reload left workers of several configurations: they shall be of one again.
        """
        generation, difference = self._fleet.generation, only_trunks(self._config, config)
        if difference is None or self._fleet.generations != {generation}:
            return False
        if problem := self._begin(Wish(ask)):
            self._refuse(ask, problem)
            return True
        systemd.reloading(self._systemd, now())
        old = self._configs[generation]
        self._configs[generation] = replace(
            old, trunks=config.trunks, fingerprint=config.fingerprint
        )
        self._forking.enlist(config.trunks)  # before anybody counts them
        self._fleet.receive(ReadTrunks(), now())
        text = self._last_reload = render_difference(difference)
        log.info("trunks.changed", trunks=len(config.trunks), what=text)
        self._over(text, ok=True)
        systemd.ready(self._systemd, serving(self._fleet.wanted), pid=os.getpid())
        return True

    def _scale(self, ask: str, count: int) -> None:
        most = self._config.options.workers.most
        if count > most:
            self._answer(ask, f"at most {most} workers (workers.most)", ok=False)
        elif problem := self._begin(Wish(ask)):
            self._answer(ask, problem, ok=False)
        else:
            self._fleet.receive(Resize(count), now())

    def _upgrade(self, ask: str) -> None:
        if problem := self._begin(Wish(ask, is_upgrade=True)):
            self._refuse(ask, problem)
            return
        try:
            asking = Asking(self._program.words, self._handed(ask), now() + ASKING_SECONDS)
        except OSError as error:
            self._wish = None
            self._refuse(ask, f"the installed flowcatd cannot be asked: {error.strerror}")
            return
        self._asking = (asking, ask)
        self._answer(ask, "asking the installed flowcatd whether it would start", done=False)

    def _begin(self, wish: Wish) -> str:
        """Start something that takes a while; what is in its way, or nothing."""
        if self._ending:
            return "the daemon is ending"
        if self._wish is not None or self._asking is not None or self._fleet.busy:
            return "another reload, scale or upgrade is under way"
        self._wish = wish
        return ""

    def _refuse(self, ask: str, problem: str) -> None:
        self._last_reload = problem
        log.error("fleet.reload_refused", why=problem)
        self._answer(ask, problem, ok=False)

    def _answered(self, *, well: bool) -> None:
        """The installed program said whether it would take over."""
        assert self._asking is not None
        (asking, ask), self._asking = self._asking, None
        said = asking.said()
        if well:
            self._successor = ask
            self._answer(ask, f"becoming {said}", done=False)
        else:
            self._wish = None
            self._refuse(ask, f"the installed flowcatd would not start: {said}")

    def _become(self, ask: str) -> None:
        """Become what is installed now; nothing that was told before may be lost on the way."""
        if news := self._holdings.children.hush():
            self._holdings.children.listen()
            for each in news:
                self._tell(each)
            self._second.pulse_at = now()
            return
        self._successor = self._wish = None
        try:
            self._fleet.save()  # raises unless the fleet is at rest
            handed = self._handed(ask)
            log.info("fleet.upgraded", pid=os.getpid())
            become(handed, self._program.words)
        except LocalError:  # the daemon ends meanwhile
            self._refuse(ask, "the fleet is busy; try again")
        except OSError as error:
            self._refuse(ask, f"exec failed: {error.strerror}")
        finally:
            self._holdings.children.listen()

    def _handed(self, ask: str) -> Handed:
        return Handed(
            kept=self._holdings.save(),
            lives=self._fleet.lines(),
            generation=self._fleet.generation,
            restarts=self._fleet.restarts,
            begun=self._program.begun,
            ask=ask,
            switchboard=(self._exchange.pid, self._exchange.line()),
            fixed=fixed(self._config),
            count=self._count(self._config),
        )

    def _restore(self, config: Config, handed: Handed) -> Fleet:
        options = config.options
        fleet = Fleet.restore(handed.lives, handed.generation, options, now())
        fleet.restarts = handed.restarts
        self._holdings.seats.adopt()
        self._newest = max(life.generation for life in handed.lives)
        self._fleet = fleet
        self._reload(handed.ask, is_upgrade=True, before=handed.count)
        return fleet

    # --- acting -----------------------------------------------------------------------------------

    def _act(self, action: Action) -> None:
        match action:
            case Fork(slot, generation):
                config = self._configs[generation]
                self._fleet.receive(self._forking.fork(config, slot, generation), now())
                self._steer()
            case Signal(pid, number):
                self._holdings.children.send(pid, number)
            case OpenDoor(slot):
                self._second.doors.pop(slot, None)
                self._second.away.discard(slot)
            case CloseDoor(slot):
                self._holdings.unlist(slot)
                self._second.doors[slot] = now() + DOOR_CLOSE_SECONDS
            case Serving():
                self._serving()
            case Reloaded(generation, problem):
                self._reloaded(generation, problem)
            case Resized(slots, problem):
                self._over(problem or serving(slots), ok=not problem)
            case Progress(text):
                log.info("fleet.progressed", what=text)
                self._answer(self._wish.ask if self._wish else "", text, done=False)
            case GiveUp(reason):
                self._ending = "stop"
                self._say_stopping(reason, drains=True)
                report(action)
            case _:
                self._came_or_went(action)
        self._second.pulse_at = min(self._second.pulse_at, now() + 0.05)

    def _came_or_went(self, action: Started | Lost | Gone | Stopped | Finished) -> None:
        match action:
            case Stopped(slot) if self._ending:
                # Nobody will accept there any more: better refused at once than left waiting.
                self._holdings.unlist(slot)
                self._holdings.close_doors(slot)
            case Lost(slot, again_seconds=pause) if pause >= AWAY_SECONDS:
                self._second.away.add(slot)
                self._steer()
            case Started(slot) if slot in self._second.away:
                self._second.away.discard(slot)
                self._holdings.open_doors(slot)
                self._steer()
        report(action)  # last: who reads that a worker is away may rely on it

    def _steer(self) -> None:
        """Connections go to who is there; a fork lists its slot, and the last one stays listed."""
        for slot in self._second.away:
            self._holdings.unlist(slot)

    def _reloaded(self, generation: int, problem: str) -> None:
        self._last_reload = problem or "done"
        if problem:
            log.error("fleet.reload_failed", why=problem)
            self._over(problem, ok=False)
        else:
            configure_log(self._config.options.log, slot=None)
            log.info("fleet.reloaded", generation=generation)
            self._over(f"all workers run the new configuration (generation {generation})", ok=True)
        # Also after a failure: some slots may have been replaced, and stay so.
        used = self._fleet.generations
        self._configs = {each: self._configs[each] for each in self._configs if each in used}
        self._forking.keep(used)
        if not self._ending:
            systemd.ready(self._systemd, serving(self._fleet.wanted), pid=os.getpid())

    def _over(self, text: str, *, ok: bool) -> None:
        """What an operator wished for is done, or failed; what the new settings want comes next."""
        wish, self._wish = self._wish, None
        if wish is None:
            return
        if wish.is_upgrade:
            text = f"{text}; flowcatd {__version__}"
        self._answer(wish.ask, text, ok=ok)
        if wish.is_upgrade:
            self._exchange.renew(now())
        if ok and wish.then_count and wish.then_count != self._fleet.wanted:
            self._scale("", wish.then_count)

    def _serving(self) -> None:
        log.info("fleet.served", workers=self._fleet.wanted, port=self._holdings.port)
        self._program.say_ready(self._config, self._fleet.wanted, now() - self._program.begun)
        systemd.ready(self._systemd, serving(self._fleet.wanted), pid=os.getpid())

    # --- telling ----------------------------------------------------------------------------------

    def _state(self) -> None:
        """Tell everybody how the daemon is."""
        if self._ending:
            word = {"drain": "draining"}.get(self._ending, "stopping")
        elif self._wish is not None:
            word = "reloading"
        else:
            word = "serving" if self._fleet.serves else "starting"
        said = Said(state=word, last_reload=self._last_reload, seconds=now() - self._program.begun)
        self._exchange.tell(describe(self._fleet, self._holdings, self._config, said))

    @property
    def _config(self) -> Config:
        return self._configs.get(self._fleet.generation) or self._configs[min(self._configs)]

    def _count(self, config: Config) -> int:
        return config.options.workers.count or len(self._forking.cpus)
