"""What all tests share: quiet logs, and property tests that are judged by their answer, not their pace."""

from hypothesis import HealthCheck, settings

from flowcatd import log
from flowcatd.options import Log

log.configure(Log(level="warning", format="json"), slot=None)

settings.register_profile(
    "flowcatd", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("flowcatd")
