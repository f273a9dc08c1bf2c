"""Carriers by name."""

from __future__ import annotations

import pytest

from flowcatd.carriers.catalogue import carrier_names, find_row, open_carrier
from flowcatd.carriers.table import ROWS
from flowcatd.errors import CarrierError


def test_every_row_and_the_plain_socket_have_a_name():
    """Sorted, each once."""
    assert carrier_names() == tuple(sorted({*(row.name for row in ROWS), "raw"}))


@pytest.mark.parametrize("name", carrier_names())
def test_a_name_opens_a_fresh_core_of_its_row(name):
    """No two calls share one."""
    first, second = open_carrier(name, {}), open_carrier(name, {})
    assert first is not second
    assert first.row is find_row(name)


def test_an_unknown_name_is_told_the_nearest():
    """And all the others."""
    with pytest.raises(CarrierError, match="one of plivo, raw, twilio, did you mean 'twilio'"):
        open_carrier("twillio", {})


def test_only_the_plain_socket_reads_the_address():
    """A carrier says its format in its start message."""
    assert open_carrier("twilio", {"encoding": "nonsense"}).started is None
    with pytest.raises(CarrierError):
        open_carrier("raw", {"encoding": "nonsense"})
