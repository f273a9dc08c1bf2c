"""One worker's policy: who is let in, who answers, whom we may call, and how many calls there may be.

What a call may do follows from its trunk, and its trunk from where it comes from or which password it
proved, never from what it says (`policy_door`, `route`). The way of a call that comes in:

  screen   raw bytes and a source: floods and scanners end here, before any parsing
  admit    given to the UserAgent: a request outside of calls is a trunk's, is challenged, or refused
  arrive   after Invited: the agent, the caller, how to answer; the call counts from here on
  depart   once for every call that `arrive` or `dial` counted in, however it ended

and of one that goes out: `dial` (then `depart`), where every rule against toll fraud stands before the
first packet. A call that another worker was killed with is counted in by `take_up`.

How many calls a trunk has is known to all workers (`Live`): each publishes its own call first and looks
second, so two that come at the same moment may both be refused, but never both be let in.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from flowcatd import options
from flowcatd.errors import ConfigError, LocalError
from flowcatd.sip.digest import Answerer, Secret
from flowcatd.sip.event import Hop
from flowcatd.sip.guard import Dialled, Quota, limits_of, vet_number
from flowcatd.sip.message import Request, Response
from flowcatd.sip.policy_door import Counts, Door, answer
from flowcatd.sip.policy_terms import (
    Arrived,
    Dial,
    Live,
    Problem,
    Terms,
    capabilities_of,
    media_problems,
    target_of,
    terms_of,
)
from flowcatd.sip.route import Presented, Refused, find_agent, present
from flowcatd.sip.session import Capabilities
from flowcatd.sip.trunk import Difference, Trunk, compare_trunks
from flowcatd.sip.uri import Uri

__all__ = ["ADMITTED_MAX", "Arrived", "Dial", "Live", "Policy", "Problem", "Terms"]

ADMITTED_MAX: Final = 1000
"""Calls between `admit` and `arrive`: they follow each other at once, unless we are busy."""


class Policy:
    """One worker's; the trunks are those of `change`, the first ones those of the constructor."""

    def __init__(
        self,
        trunks: Mapping[str, Trunk],
        reveal: Callable[[options.Secret], str],
        random: Callable[[], bytes],
        live: Live,
        terms: Terms | None = None,
    ) -> None:
        """`reveal` gives a secret or raises ConfigError; `random` gives 16 unguessable bytes."""
        self.terms = terms or Terms()
        self.problems: tuple[Problem, ...] = ()
        """Of the trunks as they are now: to be told after the start and after every `change`."""
        self._reveal = reveal
        self._random = random
        self._live = live
        self._trunks: Mapping[str, Trunk] = {}
        self._passwords: dict[str, str] = {}
        self._answerers: dict[str, tuple[Secret, Answerer]] = {}
        self._quotas: dict[tuple[str, bool], Quota] = {}
        self._admitted: OrderedDict[int, tuple[Request, str]] = OrderedDict()
        self._door = Door(
            self.terms.unknown_status,
            self.terms.flood,
            random() + random(),
            random,
            lambda trunk: self._passwords.get(trunk.name),
        )
        self.change(trunks)

    @property
    def trunks(self) -> Mapping[str, Trunk]:
        """The trunks as they are now."""
        return self._trunks

    @property
    def counts(self) -> Counts:
        """Who was not let in."""
        return self._door.counts

    @property
    def turned_away(self) -> int:
        """Messages that `screen` dropped because there were too many, or a scanner had been there."""
        return self._door.flood.turned_away

    # --- reload

    def change(self, trunks: Mapping[str, Trunk]) -> Difference:
        """These are the trunks from now on; what that changes.

        Secrets are revealed anew, as a password may have changed where its reference points to.
        Calls of removed trunks go on, and `depart` as any other.
        """
        difference = compare_trunks(self._trunks, trunks)
        self._trunks = dict(trunks)
        problems: list[Problem] = []
        self._passwords = {}
        kept, self._answerers = self._answerers, {}
        for trunk in trunks.values():
            self._take_secrets(trunk, kept.get(trunk.name), problems)
            problems += media_problems(trunk, self.terms)
            for inbound in (True, False):
                self._quota(trunk.name, inbound=inbound).change(*_limits(trunk, inbound=inbound))
        for name, inbound in list(self._quotas):
            self._forget(name, inbound=inbound)
        self.problems = tuple(problems)
        self._door.change(self._trunks, difference)
        return difference

    def learn(self, trunk: str, addresses: Iterable[str]) -> None:
        """The names of a trunk with `peer_is_source` resolve to these now."""
        self._door.learn(trunk, addresses)

    def _take_secrets(
        self, trunk: Trunk, kept: tuple[Secret, Answerer] | None, problems: list[Problem]
    ) -> None:
        if trunk.inbound.digest:
            password = self._secret(trunk, "inbound", trunk.inbound.password, problems)
            if password:
                self._passwords[trunk.name] = password
        account = trunk.account
        if account.password:
            password = self._secret(trunk, "account", account.password, problems)
            if password:
                secret = Secret(account.auth_user or account.user, password)
                # Its nonces and their counts go on with the same secret.
                same = kept is not None and kept[0] == secret
                made = kept if same else (secret, Answerer(secret, lambda: self._random().hex()))
                assert made is not None
                self._answerers[trunk.name] = made

    def _secret(
        self, trunk: Trunk, section: str, secret: options.Secret, problems: list[Problem]
    ) -> str:
        try:
            found = self._reveal(secret)
        except ConfigError as error:
            problems.append(Problem(trunk.name, f"{section}.password", error.problem))
            return ""
        if not found:
            problems.append(Problem(trunk.name, f"{section}.password", "is empty"))
        return found

    # --- who is let in

    def screen(self, data: bytes, source: str, now: float) -> bool:
        """Whether to read a message; `source` is an address without brackets.

        False is to forget it: no answer, no line in a log.
        """
        return self._door.screen(data, source, now)

    def is_known(self, source: str) -> bool:
        """Whether an address is a trunk's, whom the limits of strangers do not bind."""
        return self._door.is_known(source)

    def admit(self, request: Request, hop: Hop, now: float) -> Response | None:
        """Judges a request that belongs to no call (`UserAgent.admit`): the answer to give instead.

        None lets it in; an INVITE goes on to `arrive`, the very same object, because whoever has proved
        a password by it cannot do so twice.
        """
        if self._door.is_ping(request, hop):
            return None
        found = self._door.judge(request, hop, now)
        if isinstance(found, Response):
            return found
        if request.to.tag:
            return answer(request, 481)
        if request.method == "REGISTER":
            return answer(request, 405)
        if request.method == "INVITE" and found.trunk.inbound.digest:
            self._admitted[id(request)] = request, found.trunk.inbound.user
            if len(self._admitted) > ADMITTED_MAX:
                self._admitted.popitem(last=False)
        return None

    def arrive(self, request: Request, hop: Hop, now: float) -> Arrived | Refused:
        """Who answers an INVITE that was let in, and how; counts the call in.

        Refused (and then not counted) with 403, 404, 484, 488, or with 503, which wants a Retry-After.
        """
        admitted = self._admitted.pop(id(request), None)
        trunk = self._door.find(hop.host, admitted[1] if admitted is not None else None)
        if isinstance(trunk, Refused):
            return trunk
        found = find_agent(trunk, request)
        if isinstance(found, Refused):
            return found
        capabilities = self.capabilities(trunk)
        refused = _without_codecs(capabilities) or self._take(trunk, now, inbound=True)
        if refused is not None:
            return refused
        return Arrived(
            trunk,
            found.agent,
            found.called,
            found.caller,
            found.caller_name,
            found.variables,
            capabilities,
            terms_of(trunk),
        )

    # --- whom we may call

    def dial(self, to: str, *, trunk: str = "", caller_id: str = "", now: float) -> Dial | Refused:
        """How to call a number, over a trunk by name or the first one that may; counts the call in.

        The first trunk is the first that allows the number, and has the caller id where one is asked
        for; whether it has a place free does not send a call to a dearer one. Refused (and then not
        counted) with 403, 404 for a trunk that is none, 484, 488, or 503, which wants a Retry-After.
        """
        chosen = self._choose(to, trunk, caller_id)
        if isinstance(chosen, Refused):
            return chosen
        over, dialled, shown = chosen
        capabilities = self.capabilities(over)
        refused = _without_codecs(capabilities) or self._take(over, now, inbound=False)
        if refused is not None:
            return refused
        return Dial(
            trunk=over,
            number=dialled.number,
            target=target_of(over, dialled),
            caller=caller_id or over.identity.caller_id or over.account.user,
            caller_address=shown.from_,
            fields=tuple(shown.fields.items()),
            next_hops=over.next_hops or (over.registrar,),
            routes=(),
            answerer=self.answerer(over.name),
            capabilities=capabilities,
            terms=terms_of(over),
        )

    def may_dial(self, trunk: str, to: str) -> Uri | Refused:
        """Where a number is on a trunk, for transfers and redirections; counts nothing."""
        chosen = self._choose(to, trunk, "") if trunk else Refused(404, "no such trunk")
        return chosen if isinstance(chosen, Refused) else target_of(chosen[0], chosen[1])

    def _choose(
        self, to: str, name: str, caller_id: str
    ) -> tuple[Trunk, Dialled, Presented] | Refused:
        if name and name not in self._trunks:
            return Refused(404, "no such trunk")
        refusals: list[Refused] = []
        for trunk in (self._trunks[name],) if name else self._trunks.values():
            if not (name or trunk.outbound.enabled):
                continue
            found = vet_number(to, trunk.outbound)
            shown = present(trunk, caller_id)
            if isinstance(found, Dialled) and isinstance(shown, Presented):
                return trunk, found, shown
            refusals += (each for each in (found, shown) if isinstance(each, Refused))
        return refusals[0] if refusals else Refused(403, "no trunk places calls")

    # --- how

    def capabilities(self, trunk: Trunk) -> Capabilities:
        """What calls over a trunk may agree on: its codecs as far as they are installed, its secrecy."""
        return capabilities_of(trunk, self.terms)

    def answerer(self, trunk: str) -> Answerer | None:
        """What answers a trunk's challenges; None where there is no password. One for all its calls."""
        found = self._answerers.get(trunk)
        return found[1] if found is not None else None

    # --- how many

    def depart(self, trunk: str, *, inbound: bool) -> None:
        """A call that was counted in is over; once for each, also after its trunk was removed."""
        quota = self._quotas.get((trunk, inbound))
        if quota is None:
            raise LocalError("a call departs from a trunk that has none")
        quota.give_back()
        self._live.add(trunk, inbound=inbound, change=-1)
        self._forget(trunk, inbound=inbound)

    def take_up(self, trunk: str, *, inbound: bool) -> None:
        """A call goes on here that another worker was killed with: it counts, whatever the limits."""
        self._quota(trunk, inbound=inbound).live += 1
        self._live.add(trunk, inbound=inbound, change=1)

    def live(self, trunk: str, *, inbound: bool) -> int:
        """The calls of all workers over a trunk."""
        return self._live.total(trunk, inbound=inbound)

    def _take(self, trunk: Trunk, now: float, *, inbound: bool) -> Refused | None:
        quota = self._quota(trunk.name, inbound=inbound)
        total = self._live.add(trunk.name, inbound=inbound, change=1)
        refused = quota.take(now, elsewhere=total - 1 - quota.live)
        if refused is not None:
            self._live.add(trunk.name, inbound=inbound, change=-1)
        return refused

    def _quota(self, name: str, *, inbound: bool) -> Quota:
        found = self._quotas.get((name, inbound))
        if found is None:
            trunk = self._trunks.get(name)
            limits = _limits(trunk, inbound=inbound) if trunk is not None else (0, 0.0)
            found = self._quotas[name, inbound] = Quota(*limits)
        return found

    def _forget(self, name: str, *, inbound: bool) -> None:
        if name not in self._trunks and not self._quotas[name, inbound].live:
            del self._quotas[name, inbound]


def _without_codecs(capabilities: Capabilities) -> Refused | None:
    return None if capabilities.codecs else Refused(488, "no codec of the trunk is installed")


def _limits(trunk: Trunk, *, inbound: bool) -> tuple[int, float]:
    return limits_of(trunk.inbound if inbound else trunk.outbound)
