"""Facts about what a reload takes for a change: trunks alone, or anything else."""

from __future__ import annotations

import pytest

from supervisor.config import open_config, with_trunks
from supervisor.reload import only_trunks, render_difference

TRUNK = '[trunk]\nname = "a"\n[account]\nuser = "u"\npassword = "file:{0}/password"\n'


@pytest.fixture
def etc(tmp_path):
    """Everything that a configuration may be read from."""
    for name in ("agents", "providers.d", "curve", "trunks.d"):
        (tmp_path / name).mkdir()
    for name in ("agents/a.yaml", "providers.d/a.toml", "curve/a.pub", "cert.pem", "token"):
        (tmp_path / name).write_text("before\n")
    (tmp_path / "password").write_text("one\n")
    (tmp_path / "trunks.d/a.toml").write_text(TRUNK.format(tmp_path))
    (tmp_path / "my.toml").write_text(
        f'[server]\ntoken = "file:{tmp_path}/token"\n[sip]\ntrusted_ca = "cert.pem"\n'
    )
    return tmp_path


def read(etc, *overrides):
    """The configuration as it is now."""
    return with_trunks(open_config(etc / "my.toml", list(overrides)))


def test_nothing_new_is_no_change_of_trunks(etc):
    """Who reloads then wants other workers."""
    assert only_trunks(read(etc), read(etc)) is None


def test_trunks_alone_are_compared(etc):
    """One more is told as such."""
    before = read(etc)
    (etc / "trunks.d/b.toml").write_text('[trunk]\nname = "b"\n')
    (etc / "trunks.d/note.txt").write_text("no trunk\n")
    difference = only_trunks(before, read(etc))
    assert [trunk.name for trunk in difference.added] == ["b"]
    assert (
        render_difference(difference) == "trunks: 1 added, 0 changed, 0 removed; no worker replaced"
    )


def test_a_rotated_password_of_a_trunk_is_a_change_of_trunks(etc):
    """No file of trunks.d differs, and every worker reveals it anew."""
    before = read(etc)
    (etc / "password").write_text("two\n")
    assert only_trunks(before, read(etc)) is not None


@pytest.mark.parametrize(
    "name", ["agents/a.yaml", "providers.d/a.toml", "curve/a.pub", "cert.pem", "token", "my.toml"]
)
def test_a_change_of_anything_else_is_more_than_trunks(etc, name):
    """Also where trunks were changed besides, and also of what a setting only refers to."""
    before = read(etc)
    (etc / "trunks.d/b.toml").write_text('[trunk]\nname = "b"\n')
    with (etc / name).open("a") as file:
        file.write("# after\n")
    assert only_trunks(before, read(etc)) is None


@pytest.mark.parametrize("name", ["agents/b.yaml", "providers.d/b.toml", "curve/b.pub"])
def test_a_new_or_removed_file_is_a_change_too(etc, name):
    """Not only what stands in those there are."""
    before = read(etc)
    (etc / "trunks.d/b.toml").write_text('[trunk]\nname = "b"\n')
    (etc / name).write_text("")
    with_both = read(etc)
    assert only_trunks(before, with_both) is None
    (etc / name).unlink()
    (etc / "trunks.d/b.toml").unlink()
    assert only_trunks(with_both, read(etc)) is None


def test_other_overrides_are_a_change(etc):
    """They are settings like those of the file."""
    before = read(etc)
    (etc / "trunks.d/b.toml").write_text('[trunk]\nname = "b"\n')
    assert only_trunks(before, read(etc, "calls.per_worker=7")) is None


def test_no_secret_stands_in_a_fingerprint(etc):
    """Only hashes."""
    before = str(read(etc).fingerprint)
    assert "one" not in before
    assert "before" not in before
