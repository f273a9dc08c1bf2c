"""Facts about what is found wrong with SIP before a daemon runs."""

from __future__ import annotations

import errno
import os
import subprocess

import pytest

from supervisor.check_sip import check_sip, remark_on_sip
from supervisor.config import open_config, with_trunks

AGENTS = ("echo", "appointment")
EPHEMERAL = "32768 60999\n"


@pytest.fixture
def etc(tmp_path):
    """A configuration's directory."""
    (tmp_path / "trunks.d").mkdir()
    (tmp_path / "my.toml").write_text("[agents]\ndefault = 'echo'\n")
    return tmp_path


def said(etc, *overrides):
    """All problems as lines, without the directory."""
    problems = check_sip(open_config(etc / "my.toml", list(overrides)), AGENTS)
    return [str(problem).replace(f"{etc}/", "") for problem in problems]


def remarks(etc, *overrides, local_ports=EPHEMERAL):
    """All remarks."""
    config = with_trunks(open_config(etc / "my.toml", list(overrides)))
    return list(remark_on_sip(config, local_ports))


def make_pair(etc, name):
    """A throw-away certificate and its key."""
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "1", "-subj", f"/CN={name}"),
            *("-keyout", str(etc / f"{name}.key"), "-out", str(etc / f"{name}.pem")),
        ],
        check=True,
        capture_output=True,
    )


def test_an_agent_that_does_not_exist_is_named_with_its_line(etc):
    """File, line, route and the nearest name; empty is the default agent."""
    (etc / "trunks.d/a.toml").write_text(
        '[trunk]\nname = "a"\n[[route]]\nnumber = "1"\n\n[[ route ]]\nagent = "appointmant"\n'
    )
    assert said(etc) == [
        "trunks.d/a.toml:7: route[2].agent: 'appointmant' is not an agent, did you mean 'appointment'?"
    ]


def test_a_secret_that_cannot_be_revealed_is_named_with_its_line(etc):
    """By its reference; a trunk that is switched off needs none."""
    text = (
        '[trunk]\nname = "a"\n[account]\nuser = "u"\npassword = "env:NOT_SET_HERE"\n'
        '[inbound]\ndigest = true\nuser = "u"\npassword = "file:/not/there"\n'
    )
    (etc / "trunks.d/a.toml").write_text(text)
    missing = os.strerror(errno.ENOENT)
    assert said(etc) == [
        "trunks.d/a.toml:5: account.password: env:NOT_SET_HERE is empty or not set",
        f"trunks.d/a.toml:9: inbound.password: file:/not/there cannot be read: {missing}",
    ]
    (etc / "trunks.d/a.toml").write_text(text.replace("\n", "\nenabled = false\n", 1))
    assert said(etc) == []


def test_every_wrong_trunk_file_is_told_beside_wrong_certificates(etc):
    """Nothing hides anything else."""
    (etc / "trunks.d/a.toml").write_text("[")
    (etc / "trunks.d/b.toml").write_text('[trunk]\nname = "b"\nenabld = true\n')
    lines = said(etc, "sip.client_ca=nowhere.pem")
    assert lines[0].startswith("trunks.d/a.toml:1: is not TOML")
    assert lines[1].startswith("trunks.d/b.toml:3: trunk.enabld: is not a setting")
    assert lines[2] == "my.toml: sip.client_ca: nowhere.pem: No such file or directory"


def test_a_certificate_and_its_key_must_be_a_pair(etc):
    """A good pair beside the configuration is good, another's key is not, nor is what is no PEM."""
    make_pair(etc, "one")
    make_pair(etc, "two")
    (etc / "no.pem").write_text("nonsense\n")
    pair = ("sip.certificate=one.pem", "sip.certificate_key=one.key", "sip.client_ca=two.pem")
    assert said(etc, *pair) == []
    assert said(etc, pair[0], "sip.certificate_key=two.key") == [
        "my.toml: sip.certificate_key: is not the key of sip.certificate"
    ]
    for overrides in (("sip.trusted_ca=no.pem",), ("sip.certificate=no.pem", pair[1])):
        (line,) = said(etc, *overrides)
        assert "cannot be loaded as PEM" in line


def test_a_key_with_a_passphrase_is_a_problem_and_no_question(etc):
    """Nobody is there to type it when a worker starts."""
    make_pair(etc, "one")
    command = ["openssl", "ec", "-in", "one.key", "-aes128", "-passout", "pass:secret"]
    subprocess.run([*command, "-out", "locked.key"], cwd=etc, check=True, capture_output=True)
    (line,) = said(etc, "sip.certificate=one.pem", "sip.certificate_key=locked.key")
    assert line.startswith("my.toml: sip.certificate_key: cannot be loaded as PEM")


def test_ports_that_need_a_right_or_belong_to_the_kernel_are_remarked_on(etc):
    """Once each, by their setting; the usual ones are neither."""
    assert remarks(etc) == []
    (low,) = remarks(etc, "sip.port=506", "sip.host6=::1")
    assert low.startswith("sip.port: 506 needs CAP_NET_BIND_SERVICE")
    (taken,) = remarks(etc, "sip.port=40000")
    assert taken.startswith("sip.port: ports 40000-40000 are also the kernel's")


def test_a_trunk_that_cannot_reach_us_is_remarked_on(etc):
    """Sources elsewhere, and a door on this machine only."""
    source = '[trunk]\nname = "{0}"\n[inbound]\nsources = ["{1}"]\n'
    (etc / "trunks.d/a.toml").write_text(source.format("a", "192.0.2.1"))
    (etc / "trunks.d/b.toml").write_text(source.format("b", "127.0.0.1"))
    assert remarks(etc) == [
        "trunk a: its sources cannot reach sip.host, which is this machine only"
    ]
    assert remarks(etc, "sip.host=0.0.0.0") == []
    assert remarks(etc, "sip.port=0") == []
