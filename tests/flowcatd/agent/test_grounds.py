"""Facts about reading phrases out of conditions."""

from __future__ import annotations

import pytest

from flowcatd.agent.grounds import maybe_grounds
from flowcatd.agent.matcher import Matcher
from flowcatd.agent.template import parse_template


@pytest.mark.parametrize(
    ("condition", "said", "unsaid"),
    [
        ('{{ eq .Event "yes" }}', "yes", "yes please"),
        ('{{ eq "yes please" .Event }}', "yes please", "yes"),
        ('{{ eq .Event "yes" "sure" }}', "sure", "no"),
        ('{{ eq (lower (trim .Event)) "Yes" }}', "yes", "no"),
        ('{{ .Event | lower | eq "yes" }}', "yes", "no"),
        ('{{ contains .Event "billing" }}', "my billing please", "my bill"),
        ('{{ contains (lower .Event) "billing" }}', "billing", "bills"),
        ('{{ hasPrefix .Event "call" }}', "call my wife", "please call"),
        ('{{ or (eq .Event "a") (contains .Event "b") }}', "x b", "a x"),
        ('{{ and (eq .Event "a") .Variables.x }}', "a", "x"),
        (' {{ eq .Event "a" }} ', "a", "b"),
    ],
)
def test_a_plain_condition_tells_what_it_waits_for(condition, said, unsaid):
    """What it would accept can be heard; something it would not, cannot."""
    grounds = maybe_grounds(parse_template(condition))
    assert grounds is not None
    matcher = Matcher([(0, tree) for tree in grounds], {})
    assert matcher.match(said.split())
    assert not matcher.match(unsaid.split())


@pytest.mark.parametrize(
    "condition",
    [
        "",
        "{{ .Event }}",
        "{{ true }}",
        '{{ ne .Event "yes" }}',
        '{{ not (eq .Event "yes") }}',
        '{{ eq .Variables.x "yes" }}',
        "{{ eq .Event .Variables.x }}",
        '{{ eq .Event "" }}',
        '{{ eq (printf "%c" .Event) "1" }}',
        '{{ contains "yes yeah" .Variables.x }}',
        '{{ or (eq .Event "a") .Variables.x }}',
        '{{ if eq .Event "a" }}x{{ end }}',
        '{{ eq .Event "a" }}{{ eq .Event "b" }}',
        "{{ eq .Event 3 }}",
    ],
)  # fmt: skip
def test_other_conditions_tell_nothing(condition):
    """There the state listens openly."""
    assert maybe_grounds(parse_template(condition)) is None
