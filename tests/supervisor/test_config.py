"""Facts about which configuration is meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowcatd.options import Options
from supervisor.config import DEFAULTS, open_config


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current directory is an empty one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_without_any_file_the_defaults_hold(here):
    """And relative directories start where we are."""
    if Path("/etc/flowcatd/flowcatd.toml").exists():
        pytest.skip("this machine has a configuration of its own")
    config = open_config(None, [])
    assert (config.where, config.options) == (DEFAULTS, Options())
    assert config.agents_directory == here / "agents"


def test_the_file_beside_us_is_found(here):
    """conf/flowcatd.toml comes first."""
    (here / "conf").mkdir()
    (here / "conf/flowcatd.toml").write_text("[server]\nport = 7\n")
    config = open_config(None, [])
    assert (config.where, config.options.server.port) == ("conf/flowcatd.toml", 7)
    assert config.agents_directory == here / "conf/agents"
    assert config.providers_directory == here / "conf/providers.d"


def test_a_named_file_wins_and_its_directory_counts(here):
    """Wherever we were started."""
    (here / "elsewhere").mkdir()
    (here / "elsewhere/my.toml").write_text("[agents]\ndirectory = 'people'\n")
    config = open_config(Path("elsewhere/my.toml"), ["server.port=9"])
    assert config.options.server.port == 9
    assert config.agents_directory == here / "elsewhere/people"


@pytest.mark.usefixtures("here")
def test_an_absolute_directory_is_taken_as_it_is():
    """Relative ones only are joined."""
    config = open_config(None, ["agents.directory=/srv/agents"])
    assert config.agents_directory == Path("/srv/agents")
