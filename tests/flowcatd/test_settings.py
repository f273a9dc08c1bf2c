"""Facts about reading settings: strict, with places, and equal to the manual."""

from __future__ import annotations

import dataclasses
import itertools
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.errors import ConfigError
from flowcatd.options import Options, Secret
from flowcatd.settings import check_options, is_loopback, load_options

CONF = Path(__file__).parents[2] / "conf"
MANUAL = (CONF / "flowcatd.toml").read_text(encoding="utf-8")


def test_the_manual_is_the_defaults():
    """conf/flowcatd.toml, read, is what the code has built in."""
    assert load_options(MANUAL, "conf") == Options()


def test_the_manual_names_every_setting_in_the_order_of_the_types():
    """Nothing is missing from it, nothing is left over, and both read alike."""
    written = {name: list(table) for name, table in tomllib.loads(MANUAL).items()}
    typed = {
        section.name: [field.name for field in dataclasses.fields(section.default_factory)]
        for section in dataclasses.fields(Options)
    }
    assert written == typed
    assert list(written) == list(typed)


def test_the_manual_explains_every_setting():
    """Above each setting stands prose."""
    lines = MANUAL.splitlines()
    bare = [
        line
        for above, line in itertools.pairwise(lines)
        if line[:1].isalpha() and not above.startswith("#")
    ]
    assert bare == []


def test_bench_settings_write_nothing_per_call():
    """conf/bench.toml is loopback, echo, no records, and the default number of workers."""
    options = load_options((CONF / "bench.toml").read_text(encoding="utf-8"), "bench")
    assert is_loopback(options.server.host)
    assert options.agents.default == "echo"
    assert options.records == dataclasses.replace(
        Options().records, recording=False, transcript=False, record=False, journal=False
    )
    assert options.workers == Options().workers
    assert options.log.level == "warning"


def test_an_empty_text_is_the_defaults():
    """Leaving everything out is allowed."""
    assert load_options("", "nowhere") == Options()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[server]\nprot = 1", "c:2: server.prot: is not a setting, did you mean 'port'?"),
        ("\n[callz]\n", "c:2: callz: is not a section, did you mean 'calls'?"),
        (
            "[turns]\nxyzzy = 1",
            "c:2: turns.xyzzy: is not a setting; there are start_ms, stop_ms, longest_seconds, barge_in,",
        ),
        ("[server]\n# port\nport = '1'", "c:3: server.port: must be a whole number"),
        ("[server]\nport = true", "c:2: server.port: must be a whole number"),
        ("[server]\nport = 1.0", "c:2: server.port: must be a whole number"),
        ("[calls]\nmax_seconds = false", "c:2: calls.max_seconds: must be a number"),
        ("[calls]\nmax_seconds = nan", "c:2: calls.max_seconds: must lie between 0.1 and 86400"),
        ("[turns]\nbarge_in = 1", "c:2: turns.barge_in: must be true or false"),
        ("[server]\nhost = 1", "c:2: server.host: must be a string"),
        ("[server]\nport = 65536", "c:2: server.port: must lie between 0 and 65535"),
        (
            "[log]\nlevel = 'debgu'",
            "c:2: log.level: must be one of debug, info, warning, error, did you mean 'debug'?",
        ),
        ("server.prot = 1", "c:1: server.prot: is not a setting, did you mean 'port'?"),
        ("server = {prot = 1}", "c:1: server.prot: is not a setting, did you mean 'port'?"),
        ("log = 3", "c:1: log: is a section: write [log] and its settings below"),
        ("[log]\nlevel = ", "c:2: is not TOML: Invalid value"),
        ("[log]\nlevel = 'a' b\n", "c:2: is not TOML: Expected newline or end of document after a"),
        ("[sip]\nhost = '::1'", "c:2: sip.host: must be an IPv4 address; IPv6 has sip.host6"),
        ("[sip]\nhost = ''", "c:2: sip.host: is empty, and so is sip.host6"),
        ("[sip]\nhost6 = '[::1]'", "c:2: sip.host6: must be an IPv6 address, without brackets"),
        ("[sip]\nhost6 = '127.0.0.1'", "c:2: sip.host6: must be an IPv6 address"),
        ("[sip]\ntls_port = 5061", "c:1: sip.certificate: is needed because sip.tls_port is open"),
        ("[sip]\ncertificate_key = 'k'", "c:1: sip.certificate: is needed beside the other"),
        ("[sip]\ntls_port = 5060", "c:2: sip.tls_port: is the same as sip.port"),
        ("[sip]\npublic_host = 'a b'", "c:2: sip.public_host: must be an address or a host name"),
        ("[sip]\npublic_host = '::1'", "c:2: sip.public_host: must be an IPv4 address or a host"),
        ("[sip]\npublic_host6 = '::'", "c:2: sip.public_host6: is where nobody can be reached"),
        ("[rtp]\ndscp = 64", "c:2: rtp.dscp: must lie between 0 and 63"),
        (
            "[server]\nhost = '0.0.0.0'",
            "c:1: server.token: is needed because server.host '0.0.0.0' is reachable from other",
        ),
    ],
)
def test_a_mistake_is_told_with_its_place(text, said):
    """File, line, key, what is allowed, and the nearest name."""
    with pytest.raises(ConfigError) as caught:
        load_options(text, "c")
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    "text",
    [
        "host = ''\nhost6 = '::1'",
        "host = ''\nport = 0",
        "host = 'localhost'\npublic_host = 'sip.example.net'\npublic_host6 = '2001:db8::1'",
        "tls_port = 5061\ncertificate = 'c.pem'\ncertificate_key = 'k.pem'",
    ],
)
def test_an_address_may_be_one_family_s_or_both(text):
    """One of the two families, names, and TLS with its files."""
    assert check_options(f"[sip]\n{text}", "c") == []


def test_every_mistake_is_collected():
    """`check_options` does not stop at the first."""
    text = "[server]\nprot = 1\nport = 'x'\n[wokers]\n[calls]\nper_worker = 0\n"
    keys = [problem.key for problem in check_options(text, "c")]
    assert keys == ["server.prot", "server.port", "wokers", "calls.per_worker"]


def test_the_line_is_the_one_of_the_right_section():
    """A key that several sections have is found in the one that is wrong."""
    text = "[speech]\nvoice = 'x'\n[records]\ndirectory = 'a'\n[agents]\ndirectory = 1\n"
    (problem,) = check_options(text, "c")
    assert problem.where == "c:6"


@pytest.mark.parametrize(
    "literal", ["hunter2", "env:", "file:relative", "cred:", "cred:a/b", "x:y"]
)
def test_a_secret_in_the_text_is_refused_and_not_repeated(literal):
    """Only references are accepted; what was written instead stays out of the error."""
    (problem,) = check_options(f"[server]\ntoken = '{literal}'", "c")
    assert problem.key == "server.token"
    assert "must be a reference" in problem.problem
    assert "hunter2" not in str(problem)


@pytest.mark.parametrize("reference", ["env:TOKEN", "file:/run/token", "cred:token.1"])
def test_a_reference_is_taken(reference):
    """It is kept as it stands."""
    options = load_options(f"[server]\nhost = '::'\ntoken = '{reference}'", "c")
    assert options.server.token == Secret(reference)


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("server.port=1", 1),
        ("server.host=localhost", "localhost"),
        ("server.host=127.0.0.1", "127.0.0.1"),
        ("server.host = ::1 ", "::1"),
        ("server.public_url=1", "1"),
        ("server.public_url=a=b", "a=b"),
        ("server.token=env:T", Secret("env:T")),
        ("turns.barge_in=false", False),
        ("calls.max_seconds=90", 90.0),
        ("log.level=debug", "debug"),
    ],
)
def test_an_override_wins(override, value):
    """The value is TOML where that is meant, and otherwise the text itself."""
    section, _, key = override.partition("=")[0].strip().partition(".")
    text = "[server]\nport = 7\n[log]\nlevel = 'error'"
    assert getattr(getattr(load_options(text, "c", [override]), section), key) == value


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("port=1", "--set: must look like section.key=value"),
        ("hunter2", "--set: must look like section.key=value"),
        ("server.port", "--set: must look like section.key=value"),
        ("server.prot=1", "--set: server.prot: is not a setting, did you mean 'port'?"),
        ("serve.port=1", "--set: serve: is not a section, did you mean 'server'?"),
        ("server.port=x", "--set: server.port: must be a whole number"),
        ("server.port=1\nport = 2", "--set: server.port: must be a whole number"),
    ],
)
def test_a_wrong_override_is_told(override, said):
    """Like a mistake in the file."""
    assert [str(problem) for problem in check_options("", "c", [override])] == [said]


@given(st.text(max_size=200), st.lists(st.text(max_size=40), max_size=3))
def test_any_text_is_options_or_a_config_error(text, overrides):
    """Nothing else is ever raised."""
    if problems := check_options(text, "c", overrides):
        with pytest.raises(ConfigError) as caught:
            load_options(text, "c", overrides)
        assert str(caught.value) == str(problems[0])
    else:
        assert isinstance(load_options(text, "c", overrides), Options)


@given(
    st.sampled_from(
        [
            (section.name, field.name)
            for section in dataclasses.fields(Options)
            for field in dataclasses.fields(section.default_factory)
        ]
    ),
    st.one_of(st.integers(-5, 100_000), st.floats(0, 1e5), st.booleans(), st.sampled_from("ab")),
)
def test_a_value_is_taken_exactly_or_refused(place, value):
    """Whatever is accepted is what was written, and of the field's own type."""
    section, key = place
    written = f"'{value}'" if isinstance(value, str) else str(value).lower()
    text = f"[{section}]\n{key} = {written}"
    if not check_options(text, "c"):
        taken = getattr(getattr(load_options(text, "c"), section), key)
        assert taken == value
        assert type(taken) is type(getattr(getattr(Options(), section), key))


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("voice.example.com", False),
        ("", False),
    ],
)
def test_loopback_is_this_machine_only(host, expected):
    """Names are not looked up: an unknown one is taken for outside."""
    assert is_loopback(host) is expected
