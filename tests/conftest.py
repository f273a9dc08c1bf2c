"""What all tests share: property tests are judged by their answer, not by a shared machine's pace."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "flowcatd", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("flowcatd")
