"""Facts about the operator's end: it finds the daemon, is let in or told why not, and asks."""

import argparse
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import zmq
import zmq.auth
from zmq.auth.thread import ThreadAuthenticator

from flowcatd.control import (
    VERSION,
    Answer,
    AskCalls,
    AskReload,
    AskScale,
    AskStatus,
    Calls,
    Refused,
    Status,
)
from flowcatd.errors import ConfigError, ControlError, LinkClosed, LinkRefused, LinkTimeout
from supervisor.client import (
    Operator,
    Where,
    add_client_arguments,
    find_runtime,
    load_keys,
    locate,
)
from tests.supervisor.toy_switchboard import fleet, runtime, toy

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def directory():
    """A runtime directory's place, with a short path."""
    with runtime() as path:
        yield path


def listen(path):
    """A Unix socket in its place, as a daemon leaves it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    return path.parent


def arguments(*words):
    """What argparse makes of them."""
    parser = argparse.ArgumentParser()
    add_client_arguments(parser)
    return parser.parse_args(words)


# --- finding it ----------------------------------------------------------------------------------


def test_the_first_directory_where_somebody_listens_is_taken(directory):
    """A directory alone is a daemon that was, a plain file is none, and a dead socket is the last hope."""
    (directory / "empty").mkdir()
    (directory / "file").mkdir()
    (directory / "file" / "control.sock").touch()
    dead = listen(directory / "dead" / "control.sock")
    nowhere = [directory / "none", directory / "empty", directory / "file"]
    assert find_runtime(nowhere) is None
    assert find_runtime([*nowhere, dead]) == dead
    with toy() as board:
        assert find_runtime([*nowhere, dead, board.directory]) == board.directory


def test_a_strangers_directory_in_a_public_place_is_not_believed(directory):
    """In /tmp anybody can make a directory of our name before we do."""
    if os.getuid() != 0:
        pytest.skip("only root can give a directory away")
    directory.chmod(0o1777)
    made = listen(directory / "flowcatd-6210" / "control.sock")
    assert find_runtime([made]) == made
    os.chown(made, 12_345, 12_345)
    assert find_runtime([made]) is None


def test_the_configuration_leads_to_the_socket(directory):
    """Without --connect, control.directory and server.port say where."""
    listen(directory / "control.sock")
    where = locate(arguments("--set", f"control.directory={directory}"))
    assert where == Where(f"ipc://{directory}/control.sock")


def test_a_daemon_on_a_free_port_is_found_when_there_is_only_one(directory):
    """Port 0 is no port that its directory could be named after; two are named to choose from."""

    def told():
        code = "import sys; from supervisor.cli import main; sys.exit(main())"
        done = subprocess.run(
            [sys.executable, "-c", code, "status", "--set", "server.port=0"],
            cwd=Path(__file__).parents[2],
            env={"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": directory, "TMPDIR": directory},
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        assert done.returncode == 69
        return done.stderr

    first = listen(directory / "flowcatd-40001" / "control.sock")
    assert f"no flowcatd answers at ipc://{first}/control.sock" in told()
    second = listen(directory / "flowcatd-40002" / "control.sock")
    assert f"there is ipc://{first}/control.sock, ipc://{second}/control.sock" in told()


@pytest.mark.parametrize(
    "mistake", ["[calls]\nper_wroker = 3\n", "[workers]\ncount = 'two'\n", "[sevrer]\nhost = ''\n"]
)
def test_a_mistake_in_the_file_does_not_hide_the_daemon_that_runs(directory, mistake, capsys):
    """Whoever has just spoiled it can still look, hang up and drain; the mistake is told."""
    listen(directory / "control.sock")
    file = directory / "flowcatd.toml"
    file.write_text(f"[control]\ndirectory = '{directory}'\n{mistake}")
    where = locate(arguments("--config", str(file)))
    assert where == Where(f"ipc://{directory}/control.sock")
    assert f"flowcatd: remark: {file}:" in capsys.readouterr().err


def test_a_mistake_in_the_file_is_the_answer_when_nobody_is_found(directory):
    """Then it may be the very reason."""
    file = directory / "flowcatd.toml"
    for text in ("[control]\ndirectory = 3\n", f"control.directory = '{directory}'\nserver = 1\n"):
        file.write_text(text)
        with pytest.raises(ConfigError, match=str(file)):
            locate(arguments("--config", str(file)))
    with pytest.raises(ConfigError, match="prot"):
        locate(arguments("--config", str(file), "--set", "server.prot=3"))


def test_nobody_there_says_where_was_looked_and_what_to_do(directory):
    """The likeliest mistakes are another configuration and another port."""
    with pytest.raises(LinkRefused) as told:
        locate(arguments("--set", f"control.directory={directory}"))
    assert f"no flowcatd answers at ipc://{directory}/control.sock; is it running?" in str(
        told.value
    )
    assert "--connect" in str(told.value)


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (("--connect", "udp://x"), "neither ipc://PATH nor tcp://HOST:PORT"),
        (("--connect", "ipc://"), "neither"),
        (("--connect", "tcp://127.0.0.1:1"), "--server-key FILE is missing"),
        (("--connect", "tcp://127.0.0.1:1", "--server-key", "x"), "--client-key FILE is missing"),
        (("--server-key", "x"), "--connect tcp://"),
        (("--set", "server.port=x"), "server.port"),
    ],
)
def test_an_endpoint_that_cannot_be_one_is_refused(words, wrong):
    """In one line, before anything is tried."""
    with pytest.raises(ConfigError, match=wrong):
        locate(arguments(*words))


@pytest.mark.parametrize("word", ["0", "-1", "9999", "nan", "soon"])
def test_a_timeout_is_seconds_within_reason(word, capsys):
    """Never none at all."""
    with pytest.raises(SystemExit):
        arguments("--timeout", word)
    assert "--timeout" in capsys.readouterr().err


# --- being let in --------------------------------------------------------------------------------


def test_a_socket_file_that_nobody_listens_on_is_told_as_nobody(directory):
    """A daemon that was killed leaves its file behind; a second of patience, and no more."""
    listen(directory / "control.sock")
    start = time.monotonic()
    with (
        pytest.raises(LinkRefused, match="no flowcatd answers at ipc://"),
        Operator(Where(f"ipc://{directory}/control.sock")),
    ):
        pass
    assert 0.5 < time.monotonic() - start < 3


def test_a_socket_that_is_gone_is_not_told_as_somebody_elses(directory):
    """A daemon that ended well leaves its directory, and takes the socket away."""
    with (
        pytest.raises(LinkRefused, match="is it running"),
        Operator(Where(f"ipc://{directory}/control.sock")),
    ):
        pass


def test_a_switchboard_that_comes_back_within_a_second_is_waited_for(directory):
    """It is forked again when it dies, and an operator should not notice."""
    listen(directory / "control.sock")
    context = zmq.Context()
    router = context.socket(zmq.ROUTER)
    later = threading.Timer(0.3, lambda: router.bind(f"ipc://{directory}/control.sock"))
    later.start()
    try:
        with Operator(Where(f"ipc://{directory}/control.sock")) as operator:
            operator.send(AskStatus(id="1"))
            assert router.poll(2000)
    finally:
        later.join()
        router.close(linger=0)
        context.term()


def test_something_else_that_listens_is_told_as_no_flowcatd(directory):
    """A listener that says nothing is not waited for beyond the timeout."""
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(f"{directory}/control.sock")
        silent.listen()
        operator = Operator(Where(f"ipc://{directory}/control.sock"), timeout=0.3)
        with pytest.raises(LinkTimeout, match="does not answer as a flowcatd"), operator:
            pass


@pytest.fixture
def certificates(directory):
    """Key files: the server's, a client's it knows, and one it does not."""
    for name in ("server", "client", "stranger"):
        zmq.auth.create_certificates(directory, name)
    (directory / "known").mkdir()
    (directory / "client.key").rename(directory / "known" / "client.key")
    return directory


@pytest.fixture
def guarded(certificates):
    """A switchboard on tcp that lets only the known client in."""
    context = zmq.Context()
    guard = ThreadAuthenticator(context)
    guard.start()
    guard.configure_curve(domain="*", location=str(certificates / "known"))
    router = context.socket(zmq.ROUTER)
    router.curve_server = True
    router.curve_publickey, router.curve_secretkey = zmq.auth.load_certificate(
        certificates / "server.key_secret"
    )
    port = router.bind_to_random_port("tcp://127.0.0.1")
    yield f"tcp://127.0.0.1:{port}", router
    router.close(linger=0)
    guard.stop()
    context.term()


def test_with_the_right_keys_tcp_is_open(certificates, guarded):
    """Encrypted, and both sides known."""
    endpoint, router = guarded
    keys = load_keys(certificates / "server.key", certificates / "client.key_secret")
    with Operator(Where(endpoint, keys)) as operator:
        operator.send(AskStatus(id="1"))
        assert router.poll(2000)


@pytest.mark.parametrize(
    ("server", "client", "told"),
    [
        ("server.key", "stranger.key_secret", "did not let us in"),
        ("stranger.key", "client.key_secret", "the keys do not fit"),
    ],
)
def test_wrong_keys_are_told_as_such(certificates, guarded, server, client, told):
    """At once, not as a timeout."""
    keys = load_keys(certificates / server, certificates / client)
    with pytest.raises(ConfigError, match=told), Operator(Where(guarded[0], keys)):
        pass


def test_no_keys_for_a_guarded_endpoint_are_told_as_such(guarded):
    """ZeroMQ itself would go on trying without a word."""
    with pytest.raises(ConfigError, match="it wants keys"), Operator(Where(guarded[0])):
        pass


def test_keys_are_never_shown(certificates):
    """A traceback may end in a log."""
    keys = load_keys(certificates / "server.key", certificates / "client.key_secret")
    assert keys.secret.decode() not in repr(Where("tcp://x:1", keys))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "No such file"),
        ("", "no public CURVE key"),
        ('public-key = "short"\n', "no public CURVE key"),
        ("\x00\xff", "no public CURVE key"),
    ],
)
def test_a_file_that_is_no_key_is_named(certificates, text, told):
    """With the reason, and without what stands in it."""
    path = certificates / "mine"
    if text is not None:
        path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=told) as raised:
        load_keys(path, certificates / "client.key_secret")
    assert raised.value.where == str(path)


def test_a_public_file_in_place_of_the_secret_one_is_named(certificates):
    """The two files differ by an ending only."""
    with pytest.raises(ConfigError, match="no secret CURVE key"):
        load_keys(certificates / "server.key", certificates / "known" / "client.key")


# --- asking --------------------------------------------------------------------------------------


def test_an_answer_belongs_to_its_question():
    """Somebody else's id, late answers of an earlier question say, are passed over."""

    def answers(ask):
        return [Status(id="another"), Calls(id=ask.id, calls=[])]

    with toy({AskCalls: answers}) as board, Operator(Where(board.endpoint)) as operator:
        reply = operator.ask(AskCalls(id=operator.next_id()))
    assert isinstance(reply, Calls)
    assert board.asked[0].id == reply.id


def test_no_answer_is_told_after_the_timeout():
    """A daemon that hangs must not hang its operator."""
    with (
        toy({AskCalls: []}) as board,
        Operator(Where(board.endpoint), timeout=0.2) as operator,
        pytest.raises(LinkTimeout, match=r"did not answer within 0\.2 s"),
    ):
        operator.ask(AskCalls(id="1"))


def test_a_refusal_of_our_version_names_both():
    """The operator's command and the daemon are of different releases."""
    refused = Refused(code="version", text="…", speaks=7)
    with (
        toy({AskCalls: [refused]}) as board,
        Operator(Where(board.endpoint)) as operator,
        pytest.raises(ControlError, match=f"speaks version 7 .* this command version {VERSION}"),
    ):
        operator.ask(AskCalls(id="1"))


def test_an_answer_of_another_version_names_both():
    """The same, where it is us who do not understand."""
    with (
        toy({AskCalls: [b'{"type":"calls_are","v":2,"id":"1"}']}) as board,
        Operator(Where(board.endpoint)) as operator,
        pytest.raises(ControlError, match="speaks version 2 ") as told,
    ):
        operator.ask(AskCalls(id="1"))
    assert told.value.code == "version"


@pytest.mark.parametrize("data", [b"", b"\xff", b"[]", b'{"v":1}', b"{" * 5000])
def test_garbage_for_an_answer_is_told_as_such(data):
    """And nothing but ControlError is raised for it."""
    with (
        toy({AskCalls: [data]}) as board,
        Operator(Where(board.endpoint)) as operator,
        pytest.raises(ControlError) as told,
    ):
        operator.ask(AskCalls(id="1"))
    assert told.value.code == "garbage"


def test_any_other_refusal_carries_the_daemons_words():
    """Too busy, too long."""
    with (
        toy({AskCalls: [Refused(code="busy", text="too many questions")]}) as board,
        Operator(Where(board.endpoint)) as operator,
        pytest.raises(ControlError, match=r"\(busy\): too many questions"),
    ):
        operator.ask(AskCalls(id="1"))


def test_a_long_job_is_waited_for_while_the_daemon_lives():
    """Its answers may be far apart: the daemon is asked how it is meanwhile."""

    def slow(ask):
        return [
            Answer(id=ask.id, text="begun", done=False),
            0.5,
            Answer(id=ask.id, text="half", done=False),
            0.5,
            Answer(id=ask.id, text="done"),
        ]

    with toy({AskReload: slow}) as board, Operator(Where(board.endpoint), timeout=0.1) as operator:
        told = [answer.text for answer in operator.follow(AskReload(id="1"))]
    assert told == ["begun", "half", "done"]
    assert any(isinstance(ask, AskStatus) for ask in board.asked)


def test_a_daemon_that_falls_silent_in_a_long_job_is_given_up():
    """Two timeouts without a word, not even on how it is."""
    silent = {AskScale: lambda ask: [Answer(id=ask.id, text="begun", done=False)], AskStatus: []}
    with toy(silent) as board, Operator(Where(board.endpoint), timeout=0.15) as operator:
        answers = operator.follow(AskScale(id="1", count=2))
        assert next(answers).text == "begun"
        with pytest.raises(LinkTimeout, match="stopped answering"):
            next(answers)


def test_a_connection_that_breaks_in_a_long_job_is_noticed_at_once():
    """Its answers are lost, so waiting for them would never end."""
    begun = {AskReload: lambda ask: [Answer(id=ask.id, text="begun", done=False)]}
    with toy(begun) as board, Operator(Where(board.endpoint), timeout=30) as operator:
        answers = operator.follow(AskReload(id="1"))
        assert next(answers).text == "begun"
        board.stop()
        start = time.monotonic()
        with pytest.raises(LinkClosed):
            next(answers)
        assert time.monotonic() - start < 5


def test_nothing_is_left_open():
    """A command that fails in its handshake gives its descriptors back too."""
    with runtime() as directory, toy() as board:
        listen(directory / "control.sock")

        def once():
            with Operator(Where(board.endpoint)) as operator:
                operator.ask(AskStatus(id="1"))
            with pytest.raises(LinkRefused), Operator(Where(f"ipc://{directory}/control.sock")):
                pass

        once()
        before = len(list(Path("/proc/self/fd").iterdir()))
        once()
        assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_the_toy_is_well():
    """The fleet other tests begin with is one that is complete."""
    assert fleet().slots == len(fleet().workers) == 2
