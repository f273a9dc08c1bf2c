"""Every carrier by name: what a media socket's address may say, and the core that answers it.

Rows of `table.py` and the plain socket of `raw.py` are found alike. A carrier that frames in another
way (Genesys, Vonage, Asterisk) gets its own core file with the same methods, and its line here.
"""

from __future__ import annotations

from collections.abc import Mapping

from flowcatd.carriers.json_media import JsonMedia
from flowcatd.carriers.raw import RAW, from_query
from flowcatd.carriers.table import ROWS, Row
from flowcatd.errors import CarrierError, nearest

_ROWS = {row.name: row for row in sorted((*ROWS, RAW), key=lambda row: row.name)}


def carrier_names() -> tuple[str, ...]:
    """Every name, sorted."""
    return tuple(_ROWS)


def find_row(name: str) -> Row:
    """The row of that name; CarrierError names the known ones and the nearest."""
    row = _ROWS.get(name)
    if row is None:
        known = ", ".join(_ROWS)
        raise CarrierError(f"the carrier must be one of {known}{nearest(name[:20], _ROWS)}", 1008)
    return row


def open_carrier(name: str, query: Mapping[str, str], call_id: str = "") -> JsonMedia:
    """A fresh core for one call's socket; `query` is the address's, `call_id` ours.

    Only the plain socket reads them: `encoding`, `rate`, and our id since it has none of its own.
    CarrierError, to be answered before the handshake, when name or query is not understood.
    """
    row = find_row(name)
    if row is RAW:
        return from_query(query.get("encoding"), query.get("rate"), call_id)
    return JsonMedia(row)
