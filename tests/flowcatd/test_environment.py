"""Facts about the process's surroundings: secrets, directories, systemd, terminals."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest

from flowcatd.environment import (
    is_journal,
    notify_socket,
    records_directory,
    reveal,
    wants_colour,
)
from flowcatd.errors import ConfigError
from flowcatd.options import Secret


def test_no_reference_reveals_nothing():
    """An empty reference is an empty secret."""
    assert reveal(Secret(), environ={}) == ""


def test_a_variable_is_revealed():
    """`env:` reads the environment."""
    assert reveal(Secret("env:T"), environ={"T": "s3cret"}) == "s3cret"


def test_a_file_is_revealed_without_its_line_end(tmp_path):
    """Editors end files with a newline that is not part of the secret."""
    (tmp_path / "token").write_text(" s3cret \n")
    assert reveal(Secret(f"file:{tmp_path}/token"), environ={}) == " s3cret "


def test_a_credential_is_revealed(tmp_path):
    """`cred:` reads systemd's credentials directory."""
    (tmp_path / "token").write_text("s3cret")
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert reveal(Secret("cred:token"), environ=environ) == "s3cret"


@pytest.mark.parametrize(
    ("reference", "content", "said"),
    [
        ("env:NOT_THERE", None, "env:NOT_THERE: is empty or not set"),
        ("file:{}/none", None, "cannot be read: No such file or directory"),
        ("file:{}/token", b"\n", "is empty or not set"),
        ("file:{}/token", b"\xff\xfehunter2", "is not UTF-8"),
        ("file:{}/token", b"hunter2" * 10_000, "is longer than 65536 bytes"),
        ("cred:token", b"hunter2", "systemd gave this process no credentials"),
    ],
)
def test_a_secret_that_cannot_be_had_is_told_by_its_reference(tmp_path, reference, content, said):
    """The error names the reference and the reason, never what was found."""
    if content is not None:
        (tmp_path / "token").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        reveal(Secret(reference.format(tmp_path)), environ={})
    assert said in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "environ", "expected"),
    [
        ("/a/b", {"STATE_DIRECTORY": "/s"}, Path("/a/b")),
        ("a", {"STATE_DIRECTORY": "/s"}, Path.cwd() / "a"),
        ("", {"STATE_DIRECTORY": "/s:/t"}, Path("/s")),
        ("", {}, Path.cwd() / "var/records"),
    ],
)
def test_records_go_where_the_first_of_three_says(setting, environ, expected):
    """The setting, then systemd, then beside us."""
    assert records_directory(setting, environ=environ) == expected


def test_nobody_listens_unless_systemd_says_so():
    """$NOTIFY_SOCKET is the address."""
    assert notify_socket(environ={}) == ""
    assert notify_socket(environ={"NOTIFY_SOCKET": "@x"}) == "@x"


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "environ", "expected"),
    [
        (_Terminal(), {}, True),
        (_Terminal(), {"NO_COLOR": "1"}, False),
        (_Terminal(), {"TERM": "dumb"}, False),
        (io.StringIO(), {}, False),
    ],
)
def test_colours_are_for_terminals_that_want_them(stream, environ, expected):
    """no-color.org and dumb terminals are heeded."""
    assert wants_colour(stream, environ=environ) is expected


def test_the_journal_is_known_by_device_and_inode(tmp_path):
    """systemd.exec(5): both must be those of the stream."""
    with (tmp_path / "stream").open("w") as stream:
        status = os.fstat(stream.fileno())
        here = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        assert is_journal(stream, environ=here)
        assert not is_journal(stream, environ={})
        assert not is_journal(sys.__stdout__, environ=here)
        assert not is_journal(io.StringIO(), environ=here)
