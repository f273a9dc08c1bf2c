"""Which keys does a transition wait for: "1", "[0-9]{4}", "0[1-9]{3,8}#".

A pattern is a run of keys, each one of `0-9 * # A-D`, a class of them in `[ ]` (with ranges such as
`2-5`), or `.` for any; behind it `{n}` or `{n,m}` says how often. Keys come one by one, so a
pattern answers two questions about what was pressed so far: is it all, and could more follow?
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from flowcatd.errors import FlowcatdError

KEYS = "0123456789*#ABCD"
"""What a telephone can send (ITU-T Q.23)."""
MAX_KEYS = 64
"""Keys in one entry: longer than any account number."""

_ITEM = re.compile(r"(\[[^\[\]]*\]|[0-9*#A-D.])(?:\{(\d{1,2})(?:,(\d{1,2}))?\})?", re.ASCII)


class KeypadError(FlowcatdError):
    """A key pattern is wrong."""


@dataclass(frozen=True, slots=True)
class Keys:
    """A key pattern: per place the keys allowed, and whether the place may be left out."""

    places: tuple[tuple[str, bool], ...]

    def accepts(self, pressed: str) -> bool:
        """Whether `pressed` is a whole entry."""
        if len(pressed) > len(self.places):
            return False
        if len(self.places) == 1:  # a menu, by far the commonest
            return pressed != "" and pressed in self.places[0][0]
        return len(self.places) in self._reached(pressed)

    def may_grow(self, pressed: str) -> bool:
        """Whether a longer entry could still begin with `pressed`."""
        if len(pressed) >= len(self.places):
            return False
        return any(at < len(self.places) for at in self._reached(pressed))

    def _reached(self, pressed: str) -> set[int]:
        reached = self._skipping({0})
        for key in pressed:
            on = {at + 1 for at in reached if at < len(self.places) and key in self.places[at][0]}
            reached = self._skipping(on)
        return reached

    def _skipping(self, at: set[int]) -> set[int]:
        found = set(at)
        for place in range(min(at, default=0), len(self.places)):
            if place in found and self.places[place][1]:
                found.add(place + 1)
        return found


def parse_keys(text: str) -> Keys:
    """Give the pattern; raises KeypadError."""
    places: list[tuple[str, bool]] = []
    at = 0
    while found := _ITEM.match(text, at):
        least = int(found[2]) if found[2] else 1
        most = int(found[3]) if found[3] else least
        if most < max(least, 1):
            raise KeypadError(f"'{found[0]}' allows no key")
        allowed = _allowed(found[1])
        places += [(allowed, False)] * least + [(allowed, True)] * (most - least)
        at = found.end()
    if at < len(text):
        raise KeypadError(f"character {at + 1}: '{text[at]}' is no key, class or count")
    if not places or all(optional for _, optional in places) or len(places) > MAX_KEYS:
        raise KeypadError(f"an entry has 1 to {MAX_KEYS} keys")
    return Keys(tuple(places))


def _allowed(item: str) -> str:
    if item == ".":
        return KEYS
    if item[0] != "[":
        return item
    body = re.sub(r"([0-9])-([0-9])", lambda found: _range(found[1], found[2]), item[1:-1])
    if not body or set(body) - set(KEYS):
        raise KeypadError(f"'{item}' holds something else than keys")
    return body


def _range(first: str, last: str) -> str:
    return KEYS[KEYS.index(first) : KEYS.index(last) + 1]
