"""What all tests share: quiet logs, and property tests that are judged by their answer, not their pace."""

import pytest
from hypothesis import HealthCheck, settings

from flowcatd import log
from flowcatd.options import Log

log.configure(Log(level="warning", format="json"), slot=None)


@pytest.fixture(autouse=True)
def _log_is_as_at_the_start():
    """Whatever the test before it made of the log."""
    log.configure(Log(level="warning", format="json"), slot=None)


settings.register_profile(
    "flowcatd", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("flowcatd")
