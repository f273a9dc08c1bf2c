"""Facts about `flowcatd install`: what it would do as data, and what it does in a directory.

The plans are pure, so every case is a dictionary. The files are real, under a staging root; with
systemd's tools the staged system is also verified as systemd would read it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcatd.errors import ConfigError, LocalError
from supervisor import install
from supervisor.install import (
    MARK,
    SETTINGS,
    SYSCTL,
    SYSUSERS,
    UNIT,
    Act,
    Step,
    System,
    Wanted,
    fresh,
    hidden_from_service,
    is_change,
    plan_install,
    plan_remove,
    read_shipped,
    shipped_directory,
    wanted,
)

SHIPPED = read_shipped(shipped_directory())
COMMAND = Path("/srv/flowcatd/bin/flowcatd")
WANT = wanted(SHIPPED, COMMAND)
TOML = SETTINGS / "flowcatd.toml"
FULL = System(has_systemd=True, has_user=True, sysusers="/bin/sysusers", sysctl="/bin/sysctl")


def done(found, steps):
    """What is so after the steps, without any disk."""
    after = dict(found)
    for step in steps:
        if step.act in {Act.MAKE, Act.CHANGE}:
            after[step.path] = step.text
        elif step.act is Act.DELETE:
            del after[step.path]
    return after


def commands(steps):
    """The first words of what is run."""
    return [step.words[0] for step in steps if step.act is Act.RUN]


def main(root, *words):
    """`flowcatd install` under a staging root; the exit code."""
    parser = argparse.ArgumentParser()
    install.add_arguments(parser)
    return install.run(parser.parse_args(["--root", str(root), "--command", str(COMMAND), *words]))


def tree(root):
    """Every file under a directory, with what it holds."""
    return {path.relative_to(root): path.read_text() for path in root.rglob("*") if path.is_file()}


# --- deciding ------------------------------------------------------------------------------------


def test_on_a_bare_machine_everything_is_made_and_systemd_is_told():
    """User before kernel before manager, and all of them after the files."""
    steps = plan_install(WANT, {}, FULL)
    assert {step.path for step in steps if step.act is Act.MAKE} == {*WANT.ours, *WANT.yours}
    assert commands(steps) == ["/bin/sysusers", "/bin/sysctl", "systemctl"]
    assert [step.act for step in steps][-3:] == [Act.RUN] * 3


def test_without_systemd_nothing_is_run():
    """In a container build or on another init the files are all there is to do."""
    assert commands(plan_install(WANT, {}, System())) == []


def test_a_user_that_is_missing_is_made_though_no_file_changed():
    """An install that was interrupted after its files is finished by the next one."""
    found = {**WANT.ours, **WANT.yours}
    system = System(has_systemd=True, has_user=False, sysusers="/bin/sysusers")
    assert commands(plan_install(WANT, found, system)) == ["/bin/sysusers"]


def test_the_unit_runs_the_flowcatd_that_was_asked_and_nothing_of_the_template_is_left():
    """Both commands move together."""
    unit = WANT.ours[UNIT]
    assert f"ExecStart={COMMAND} serve --config {TOML}" in unit
    assert f"ExecReload={COMMAND} reload " in unit
    assert "/opt/" not in unit


@pytest.mark.parametrize(
    "path", ["/with space/flowcatd", "/per%cent/flowcatd", "relative/flowcatd"]
)
def test_a_path_that_systemd_would_read_otherwise_is_refused(path):
    """systemd.service(5): blanks split words, and a percent sign begins a specifier."""
    with pytest.raises(ConfigError, match="absolute path of plain letters"):
        wanted(SHIPPED, Path(path))


def test_somebody_elses_unit_stops_everything():
    """A unit written by hand is not overwritten, and nothing is half done."""
    with pytest.raises(ConfigError, match=r"flowcatd\.service: was not written by flowcatd"):
        plan_install(WANT, {UNIT: "[Unit]\n"}, FULL)


def test_settings_that_differ_are_kept_and_the_new_ones_lie_beside():
    """Once: the second time the text beside is the same."""
    found = {**WANT.ours, **WANT.yours, TOML: "[server]\nport = 7000\n"}
    steps = plan_install(WANT, found, FULL)
    assert [(step.act, step.path) for step in steps] == [
        (Act.KEEP, TOML),
        (Act.MAKE, fresh(TOML)),
    ]
    assert steps[1].text == SHIPPED["conf/flowcatd.toml"]
    assert plan_install(WANT, done(found, steps), FULL) == []


def test_removing_takes_the_service_down_first_and_leaves_what_is_yours():
    """Settings, agents, and a copy beside that somebody edited, all stay."""
    edited = next(path for path in WANT.yours if path != TOML)
    found = {**WANT.ours, **WANT.yours, fresh(TOML): WANT.yours[TOML], fresh(edited): "mine\n"}
    steps = plan_remove(WANT, found, FULL)
    assert steps[0].words == ("systemctl", "disable", "--now", "flowcatd")
    assert steps[-1].words == ("systemctl", "daemon-reload")
    assert done(found, steps) == {**WANT.yours, fresh(edited): "mine\n"}


def test_removing_leaves_somebody_elses_unit():
    """Nor is it stopped: it is not ours."""
    steps = plan_remove(WANT, {UNIT: "[Unit]\n"}, FULL)
    assert [(step.act, step.path) for step in steps] == [(Act.KEEP, UNIT)]


@st.composite
def disks(draw):
    """Any state of the files that matter in which ours are ours."""
    found = {}
    for path in WANT.paths():
        shipped = {**WANT.ours, **WANT.yours}.get(path, SHIPPED["conf/flowcatd.toml"])
        mark = f"{MARK}\nold\n"
        choices = [None, shipped, mark] if path in WANT.ours else [None, shipped, "", "one\n"]
        if (text := draw(st.sampled_from(choices))) is not None:
            found[path] = text
    return found


@given(disks())
def test_a_second_install_has_nothing_to_change(found):
    """From any state, and the files of yours that were there are as they were."""
    after = done(found, plan_install(WANT, found, FULL))
    assert [step for step in plan_install(WANT, after, FULL) if is_change(step)] == []
    assert {path: after[path] for path in WANT.yours if path in found} == {
        path: found[path] for path in WANT.yours if path in found
    }


@given(disks())
def test_a_second_removal_has_nothing_to_change(found):
    """From any state, and no file of ours is left."""
    after = done(found, plan_remove(WANT, found, FULL))
    assert [step for step in plan_remove(WANT, after, FULL) if is_change(step)] == []
    assert set(after).isdisjoint(WANT.ours)


@pytest.mark.parametrize(
    ("step", "line"),
    [
        (Step(Act.MAKE, UNIT, "x"), f"+ {UNIT}"),
        (Step(Act.KEEP, TOML, why="yours"), f"= {TOML}   (yours)"),
        (Step(Act.RUN, words=("systemctl", "daemon-reload")), "! systemctl daemon-reload"),
    ],
)
def test_a_step_is_told_in_one_line(step, line):
    """What `--dry-run` shows is what is done."""
    assert str(step) == line


# --- doing ---------------------------------------------------------------------------------------


def test_staging_writes_every_file_readable_and_a_second_run_nothing(tmp_path, capsys):
    """Files are 0644 whatever the umask, and no temporary file is left."""
    before = os.umask(0o077)
    try:
        assert main(tmp_path) == 0
    finally:
        os.umask(before)
    assert tree(tmp_path) == {
        path.relative_to("/"): text for path, text in {**WANT.ours, **WANT.yours}.items()
    }
    modes = {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*") if path.is_file()}
    assert modes == {0o644}
    assert "nothing to change" not in capsys.readouterr().out
    assert main(tmp_path) == 0
    assert "nothing to change" in capsys.readouterr().out


def test_a_dry_run_tells_the_plan_and_touches_nothing(tmp_path, capsys):
    """One line per step."""
    assert main(tmp_path, "--dry-run") == 0
    said = capsys.readouterr().out.splitlines()
    assert [f"+ {path}" for path in (UNIT, SYSUSERS, SYSCTL, TOML)] == [
        line
        for line in said
        if line.startswith("+ ") and "/agents/" not in line and "/trunks.d/" not in line
    ]
    assert list(tmp_path.iterdir()) == []


def test_what_was_installed_is_removed_and_nothing_else(tmp_path):
    """Settings stay, and so does what somebody put beside."""
    main(tmp_path)
    drop_in = tmp_path / "etc/systemd/system/flowcatd.service.d/limits.conf"
    drop_in.parent.mkdir()
    drop_in.write_text("[Service]\n")
    assert main(tmp_path, "--remove") == 0
    yours = {path.relative_to("/"): text for path, text in WANT.yours.items()}
    assert tree(tmp_path) == {**yours, drop_in.relative_to(tmp_path): "[Service]\n"}


def test_a_file_that_cannot_be_written_is_named_with_the_reason(tmp_path):
    """A plain file stands where a directory must be."""
    (tmp_path / "etc").write_text("")
    with pytest.raises(ConfigError, match=r"etc/systemd/system/flowcatd\.service: cannot be"):
        main(tmp_path)


def test_a_file_that_cannot_be_read_is_named_with_the_reason(tmp_path):
    """What ships is text; something else under its name is not guessed at."""
    path = tmp_path / TOML.relative_to("/")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"flowcatd\.toml: is not UTF-8"):
        main(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody")
def test_whoever_is_not_root_is_told_the_ways_out():
    """Before anything is read or written."""
    code = "import argparse, os, sys; from supervisor import install\n"
    code += "p = argparse.ArgumentParser(); install.add_arguments(p); os.setuid(65534)\n"
    code += "try: install.run(p.parse_args([]))\nexcept Exception as e: print(type(e).__name__, e)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.startswith("LocalError install needs root (sudo); or stage with --root DIR")


@pytest.mark.parametrize(
    ("words", "reason"),
    [(("false",), "failed with exit code 1"), (("/nowhere/at/all",), "No such file")],
)
def test_a_command_that_fails_is_named(words, reason):
    """The files are in place by then; what is left to do is said."""
    with pytest.raises(LocalError, match=f"'{words[0]}'.*{reason}"):
        install._do(Step(Act.RUN, words=words), Path("/"))


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/root/x/bin/flowcatd", "hides from the service"),
        ("/home/me/.venv/bin/flowcatd", "hides from the service"),
        ("/tmp/x/flowcatd", "hides from the service"),
        ("/nowhere/at/all/flowcatd", "No such file"),
        ("/usr/bin/env", ""),
    ],
)
def test_a_command_that_the_service_cannot_reach_is_warned_about(path, reason):
    """ProtectHome and PrivateTmp make a virtual environment vanish that root can see."""
    said = hidden_from_service(Path(path))
    assert reason in said
    assert bool(said) == bool(reason)


def test_what_is_shipped_is_found_in_the_source_tree():
    """An installed package has the same files inside; see [tool.hatch] in pyproject.toml."""
    assert {
        "systemd/flowcatd.service",
        "conf/flowcatd.toml",
        "conf/agents/appointment.yaml",
    } <= set(SHIPPED)
    assert isinstance(WANT, Wanted)
    assert all(text.startswith(MARK) for text in WANT.ours.values())


def test_systemd_reads_the_staged_system(tmp_path):
    """`systemd-analyze verify --root` finds the unit, its command and nothing to say."""
    verify = shutil.which("systemd-analyze")
    if verify is None:
        pytest.skip("systemd-analyze is not installed here")
    main(tmp_path)
    command = tmp_path / COMMAND.relative_to("/")
    command.parent.mkdir(parents=True)
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    around = tmp_path / "usr/lib/systemd/system"
    around.mkdir(parents=True)
    for name in ("sysinit", "basic", "shutdown", "multi-user", "network-online"):
        (around / f"{name}.target").write_text("[Unit]\nDescription=a target\n")
    words = [verify, "verify", "--man=no", f"--root={tmp_path}", "flowcatd.service"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
