"""Calls with the SIP programs of others: what is quick, and what only `make interop` waits for."""

import os

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """The marks of this folder."""
    config.addinivalue_line("markers", "interop: calls a SIP program of somebody else")
    config.addinivalue_line("markers", "long: only with FLOWCATD_INTEROP=1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes minutes, or is much like another, is left to `make interop`."""
    if os.environ.get("FLOWCATD_INTEROP"):
        return
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.skip(reason="`make interop` runs it"))
