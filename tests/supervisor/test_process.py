"""Facts about the supervisor's clock.

What forks, signals and reaping do is shown by real daemons in test_main.py.
"""

from __future__ import annotations

from supervisor.process import age, now


def test_the_age_is_that_of_the_process():
    """It grows with the clock, and this process is older than a moment and younger than a day."""
    first, at = age(), now()
    assert 0.05 < first < 86_400
    assert abs((age() - first) - (now() - at)) < 0.05
