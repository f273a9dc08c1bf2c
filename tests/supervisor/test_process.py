"""Facts about the supervisor's clock, and who listens to a signal.

What forks, signals and reaping do is shown by real daemons in test_main.py.
"""

from __future__ import annotations

import os
import signal

from supervisor.process import age, catches, now


def test_the_age_is_that_of_the_process():
    """It grows with the clock, and this process is older than a moment and younger than a day."""
    first, at = age(), now()
    assert 0.05 < first < 86_400
    assert abs((age() - first) - (now() - at)) < 0.05


def test_a_process_listens_to_a_signal_while_it_has_a_handler_for_it():
    """Neither by default, nor when it ignores it, nor when it is gone."""
    before = signal.getsignal(signal.SIGHUP)
    try:
        for handler, is_heard in (
            (lambda *_: None, True),
            (signal.SIG_IGN, False),
            (signal.SIG_DFL, False),
        ):
            signal.signal(signal.SIGHUP, handler)
            assert catches(os.getpid(), signal.SIGHUP) is is_heard
    finally:
        signal.signal(signal.SIGHUP, before)
    assert not catches(4_000_001, signal.SIGHUP)  # beyond pid_max: nobody's
