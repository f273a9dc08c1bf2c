"""Lengths of time as dialog files write them: Go's notation, "15s", "1m30s", "1.5h", "300ms".

One or more decimal numbers, each with its unit; signs are left out because no wait is negative.
"0" alone needs no unit. The largest length accepted is a day: a longer silence is a mistake.

Source: Go's `time.ParseDuration` documentation (pkg.go.dev/time).
"""

from __future__ import annotations

import re

LONGEST = 86_400.0
"""Seconds."""
ALLOWED = 'a length of time such as "15s", "1m30s" or "500ms"'
"""What an error message offers instead."""

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_UNITS["μs"] = _UNITS["us"]  # the Greek letter, which Go takes beside the sign
_PART = re.compile(r"(\d{1,9}(?:\.\d{0,9})?|\.\d{1,9})(ns|us|µs|μs|ms|s|m|h)", re.ASCII)


def maybe_duration(text: str) -> float | None:
    """Give the seconds that `text` says, or None when it is no length of time up to a day."""
    text = text.strip()
    if text == "0":
        return 0.0
    seconds, at = 0.0, 0
    while found := _PART.match(text, at):
        seconds += float(found[1]) * _UNITS[found[2]]
        at = found.end()
    if at == 0 or at != len(text) or seconds > LONGEST:
        return None
    return seconds
