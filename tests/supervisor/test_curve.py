"""Keys: made once, private from the start, readable by zmq.auth; and who is let in by them."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

import pytest
import zmq
import zmq.auth
from hypothesis import given
from hypothesis import strategies as st
from zmq.utils import z85

from flowcatd.errors import ConfigError
from supervisor import curve
from supervisor.curve import (
    ZAP_DOMAIN,
    check_remote,
    load_clients,
    load_public,
    load_secret,
    parse_secret,
    zap_reply,
)


def keys(directory: Path, *clients: str) -> int:
    """`flowcatd keys DIR --client …`."""
    import argparse

    parser = argparse.ArgumentParser()
    curve.add_arguments(parser)
    words = [word for name in clients for word in ("--client", name)]
    return curve.run(parser.parse_args([str(directory), *words]))


def mode(path: Path) -> int:
    """The permissions."""
    return stat.S_IMODE(path.stat().st_mode)


# --- flowcatd keys -------------------------------------------------------------------------------


def test_it_makes_a_servers_and_an_operators_pair(tmp_path, capsys):
    """And says where each belongs."""
    assert keys(tmp_path / "k") == 0
    made = sorted(str(path.relative_to(tmp_path / "k")) for path in (tmp_path / "k").rglob("*.*"))
    assert made == ["clients/operator.pub", "operator.key", "server.key", "server.pub"]
    said = capsys.readouterr().out
    assert f'curve_secret = "file:{tmp_path}/k/server.key"' in said
    assert f'curve_clients = "{tmp_path}/k/clients"' in said
    assert "--server-key server.pub --client-key operator.key" in said


def test_secrets_are_for_their_owner_only_whatever_the_mask(tmp_path):
    """0600 from the first byte on; the public halves are for the daemon's user to read."""
    mask = os.umask(0)
    try:
        keys(tmp_path / "k")
    finally:
        os.umask(mask)
    assert mode(tmp_path / "k/clients/operator.pub") == 0o644
    assert mode(tmp_path / "k/server.key") == mode(tmp_path / "k/operator.key") == 0o600


def test_zmq_auth_reads_what_is_made_and_the_halves_belong_together(tmp_path):
    """The format is the one other tools of ZeroMQ use."""
    keys(tmp_path, "ann")
    for secret_path, public_path in (("server.key", "server.pub"), ("ann.key", "clients/ann.pub")):
        public, secret = zmq.auth.load_certificate(tmp_path / secret_path)
        assert load_secret(tmp_path / secret_path) == (public, secret)
        assert zmq.curve_public(secret) == public
        assert zmq.auth.load_certificate(tmp_path / public_path) == (public, None)
        assert load_public(tmp_path / public_path) == public


def test_a_client_is_added_to_keys_that_are_there(tmp_path):
    """The server's stay as they are."""
    keys(tmp_path)
    server = (tmp_path / "server.key").read_text()
    keys(tmp_path, "ann", "bob")
    assert (tmp_path / "server.key").read_text() == server
    assert len(load_clients(tmp_path / "clients")) == 3


@pytest.mark.parametrize("clients", [(), ("operator",), ("new", "operator")])
def test_nothing_is_overwritten_and_nothing_half_done(tmp_path, clients):
    """One name that is taken, and no file is written at all."""
    keys(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    with pytest.raises(ConfigError, match="is there already"):
        keys(tmp_path, *clients)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "server", "x" * 65, "a\nb"])
def test_a_name_that_is_no_file_name_is_refused(tmp_path, name):
    """Before anything is written."""
    with pytest.raises(ConfigError, match="no name"):
        keys(tmp_path / "k", name)
    assert not (tmp_path / "k").exists()


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    """The reason is the system's."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written"):
        keys(tmp_path / "file" / "k")


# --- reading -------------------------------------------------------------------------------------

BAD = ["", "x", "x" * 40 + "y", '"' * 40, "#" * 40, "public-key = 5", "é" * 40]


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_key_is_refused_and_not_shown(tmp_path, text):
    """Forty characters of Z85 can still be too much for 32 bytes."""
    path = tmp_path / "a.pub"
    path.write_text(f'public-key = "{text}"\nsecret-key = "{text}"\n')
    for load in (load_public, load_secret):
        with pytest.raises(ConfigError) as caught:
            load(path)
        assert str(path) in str(caught.value)
        assert not text or text not in str(caught.value).replace(str(path), "")


def test_a_file_that_is_not_there_is_named(tmp_path):
    """With the system's reason."""
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_public(tmp_path / "a.pub")


def test_a_public_file_is_no_secret(tmp_path):
    """The usual confusion has a message of its own."""
    keys(tmp_path)
    with pytest.raises(ConfigError, match="holds no secret CURVE key"):
        load_secret(tmp_path / "server.pub")


def test_the_secret_may_stand_alone_or_be_a_whole_file():
    """As in an environment variable, or as `file:` gives it."""
    public, secret = zmq.curve_keypair()
    text = f'metadata\ncurve\n    public-key = "{public.decode()}"\n'
    text += f'    secret-key = "{secret.decode()}"\n'
    assert parse_secret(f"{secret.decode()}\n", "w") == parse_secret(text, "w") == secret


def test_only_pub_files_are_clients_and_a_bad_one_is_no_silent_hole(tmp_path):
    """No directory is nobody."""
    assert load_clients(tmp_path / "nowhere") == frozenset()
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be read"):
        load_clients(tmp_path / "file")
    keys(tmp_path)
    (tmp_path / "clients" / "README").write_text("hello")
    assert load_clients(tmp_path / "clients") == {load_public(tmp_path / "clients/operator.pub")}
    (tmp_path / "clients" / "bad.pub").write_text("hello")
    with pytest.raises(ConfigError, match=r"bad\.pub"):
        load_clients(tmp_path / "clients")


@given(st.text(max_size=200))
def test_any_text_is_a_key_or_a_config_error(text):
    """Nothing else is raised, whatever the file holds."""
    with contextlib.suppress(ConfigError):
        assert len(parse_secret(text, "w")) == 40


def test_tcp_without_good_keys_is_a_problem_and_no_tcp_is_none(tmp_path):
    """Everything that is wrong is told at once."""
    (tmp_path / "bad.pub").write_text("x")
    assert check_remote(["", ""], "", tmp_path) == []
    problems = check_remote(["", "tcp://127.0.0.1:1"], "", tmp_path)
    assert [problem.problem[:8] for problem in problems] == ["holds no"] * 2
    _, secret = zmq.curve_keypair()
    assert check_remote(["tcp://127.0.0.1:1"], secret.decode(), tmp_path / "nobody") == []


# --- letting in ----------------------------------------------------------------------------------

PUBLIC, _ = zmq.curve_keypair()
GOOD = [b"1.0", b"id", ZAP_DOMAIN, b"127.0.0.1", b"", b"CURVE", z85.decode(PUBLIC)]


def test_a_key_of_the_set_is_let_in():
    """Under the question's own id."""
    assert zap_reply(GOOD, frozenset({PUBLIC}))[:3] == [b"1.0", b"id", b"200"]


@pytest.mark.parametrize("place", [0, 2, 5, 6])
def test_anything_else_is_not(place):
    """Another version, domain, mechanism or key."""
    question = [*GOOD]
    question[place] = bytes(32)
    assert zap_reply(question, frozenset({PUBLIC}))[2] == b"400"


def test_nobody_is_let_in_when_there_are_no_keys():
    """An empty directory is nobody, not everybody."""
    assert zap_reply(GOOD, frozenset())[2] == b"400"


@given(st.lists(st.binary(max_size=40), max_size=9))
def test_any_question_gets_an_answer_of_six_frames(frames):
    """And none of them lets anybody in."""
    reply = zap_reply(frames, frozenset({PUBLIC}))
    assert len(reply) == 6
    assert reply[2] == b"400"
