"""Facts about reading a configuration again: everything wrong is one ConfigError with its reasons."""

from __future__ import annotations

import os

import pytest

from flowcatd.errors import ConfigError
from supervisor.config import open_config
from supervisor.reload import changed, fixed, read_again

GOOD = '[agents]\ndefault = "echo"\n'


@pytest.fixture
def file(tmp_path):
    """A good configuration."""
    path = tmp_path / "flowcatd.toml"
    path.write_text(GOOD)
    return path


def test_what_can_change_is_taken(file):
    """Calls per worker, say."""
    old = open_config(file, [])
    file.write_text(f"{GOOD}[calls]\nper_worker = 7\n")
    assert read_again(file, [], old).options.calls.per_worker == 7


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        ("[server]\nport = 7000", "server.port"),
        ("[workers]\nmost = 9", "workers.most"),
        ('[control]\ncurve_secret = "env:OTHER"', "control.curve_secret"),
    ],
)
def test_what_cannot_change_is_named(file, setting, key):
    """Also where a secret is kept, without showing it."""
    old = open_config(file, [])
    file.write_text(f"{GOOD}{setting}\n")
    with pytest.raises(ConfigError, match=rf"{key}: cannot change") as caught:
        read_again(file, [], old)
    assert "OTHER" not in str(caught.value)


def test_another_programs_settings_are_compared_where_both_know_them(file):
    """A version may know more or fewer of them."""
    config = open_config(file, [])
    assert changed(config, {}) == []
    assert changed(config, fixed(config) | {"future.key": "1"}) == []
    assert len(changed(config, {"workers.most": "9"})) == 1


@pytest.mark.parametrize("text", ["[", "[server]\nport = 'x'\n", "\udcff"])
def test_nonsense_is_a_config_error(file, text):
    """Whatever somebody saved there."""
    old = open_config(file, [])
    file.write_bytes(os.fsencode(text))
    with pytest.raises(ConfigError, match="flowcatd"):
        read_again(file, [], old)


@pytest.mark.parametrize("what", ["loop", "directory", "gone"])
def test_a_file_that_cannot_be_read_is_a_config_error(file, what):
    """And no reason for the daemon to die."""
    old = open_config(file, [])
    file.unlink()
    if what == "loop":
        file.symlink_to(file)
    elif what == "directory":
        file.mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        read_again(file, [], old)


def test_agents_that_cannot_be_listed_are_a_config_error(file):
    """A directory name that is too long stands for every error of the file system."""
    old = open_config(file, [])
    name = "x" * 300
    file.write_text(f'[agents]\ndefault = "echo"\ndirectory = "{name}"\n')
    with pytest.raises(ConfigError, match="cannot be read"):
        read_again(file, [], old)
