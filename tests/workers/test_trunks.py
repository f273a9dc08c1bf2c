"""Facts about reading trunk files: all or nothing, with every place named."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowcatd.errors import ConfigError
from workers.trunks import check_trunks, read_trunks

SHIPPED = Path(__file__).parents[2] / "conf/trunks.d"


def write(directory, **files):
    """Trunk files."""
    for name, text in files.items():
        (directory / f"{name}.toml").write_text(text)


def trunk(name, rest=""):
    """A small one."""
    return f'[trunk]\nname = "{name}"\n{rest}'


def test_the_shipped_ones_are_good_and_only_loopback_is_there():
    """The carrier is an example that is switched off."""
    trunks = read_trunks(SHIPPED)
    assert list(trunks) == ["loopback"]
    assert [route.agent for route in trunks["loopback"].routes] == [""]
    assert check_trunks(SHIPPED) == []


def test_no_directory_is_no_trunk(tmp_path):
    """A daemon for media sockets needs none."""
    assert read_trunks(tmp_path / "trunks.d") == {}
    assert check_trunks(tmp_path / "trunks.d") == []


def test_only_toml_files_are_trunks(tmp_path):
    """What an editor or an installation leaves beside them is none."""
    write(tmp_path, a=trunk("a"))
    (tmp_path / "a.toml.new").write_text("[")
    (tmp_path / "b.toml~").write_text("[")
    assert list(read_trunks(tmp_path)) == ["a"]


def test_every_problem_of_every_file_is_named(tmp_path):
    """With file, line and key."""
    write(tmp_path, a=trunk("", "enabld = 1\n"), b="[", c=trunk("c"))
    (tmp_path / "d.toml").write_bytes(b"# \xff\n")
    said = [str(problem) for problem in check_trunks(tmp_path)]
    assert said[0].startswith(f"{tmp_path}/a.toml:2: trunk.name: is needed")
    assert any("a.toml:3: trunk.enabld" in each and "'enabled'" in each for each in said)
    assert any(each.startswith(f"{tmp_path}/b.toml:1: is not TOML") for each in said)
    assert said[-1] == f"{tmp_path}/d.toml:1: is not UTF-8"
    with pytest.raises(ConfigError):
        read_trunks(tmp_path)


def test_what_only_two_files_show_is_a_problem_too(tmp_path):
    """Twice the same name, or the same source."""
    source = '[inbound]\nsources = ["192.0.2.1"]\n'
    write(tmp_path, a=trunk("a", source), b=trunk("b", source))
    (problem,) = check_trunks(tmp_path)
    assert (problem.where, problem.key) == (f"{tmp_path}/b.toml", "inbound.sources")


@pytest.mark.parametrize("what", ["file", "loop", "long"])
def test_what_cannot_be_read_is_a_config_error(tmp_path, what):
    """And nothing else is ever raised."""
    directory = tmp_path / "trunks.d"
    if what == "file":
        directory.write_text("")
    elif what == "loop":
        directory.mkdir()
        (directory / "a.toml").symlink_to("a.toml")
    else:
        directory = tmp_path / ("x" * 300)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_trunks(directory)
    assert len(check_trunks(directory)) == 1
