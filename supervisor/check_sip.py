"""What can be found wrong with SIP before a daemon runs: trunks, their secrets and agents, certificates.

Problems are for everybody who is about to serve; remarks are what is allowed and still worth knowing,
and only `flowcatd check` says them. Nothing is resolved, opened or connected to.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from flowcatd.environment import reveal
from flowcatd.errors import ConfigError, nearest
from flowcatd.links.text_file import read_text
from flowcatd.options import Options
from flowcatd.settings import is_loopback
from flowcatd.sip.trunk import Trunk
from flowcatd.sip.trunk_file import load_trunk
from supervisor.config import Config
from supervisor.sip_ports import sip_ports

FIRST_FREE_PORT = 1024
"""Ports below need a right (capabilities(7), CAP_NET_BIND_SERVICE)."""

_TABLE = re.compile(r"\s*\[")
_ROUTE = re.compile(r"\s*\[\[\s*\"?route\"?\s*\]\]")
_AGENT = re.compile(r"\s*\"?agent\"?\s*=")


def check_sip(config: Config, agents: Collection[str]) -> list[ConfigError]:
    """Everything; `agents` are the names of those there are."""
    from workers.trunks import check_trunks, trunk_files  # noqa: PLC0415

    problems = check_trunks(config.trunks_directory)
    if not problems:
        for path in trunk_files(config.trunks_directory):
            text = read_text(path)
            trunk = load_trunk(text, str(path))
            if trunk.peer.enabled:
                problems += _check_secrets(trunk, text, path)
                problems += _check_agents(trunk, text, path, agents)
    return problems + _check_certificates(config)


def remark_on_sip(config: Config, local_ports: str) -> Iterator[str]:
    """What is worth knowing; `local_ports` is the text of the kernel's ip_local_port_range."""
    from workers.ports import ephemeral_overlap  # noqa: PLC0415

    seen = set()
    for port in sip_ports(config.options.sip):
        if (port.port, port.keys.port) in seen:
            continue
        seen.add((port.port, port.keys.port))
        if port.port < FIRST_FREE_PORT:
            yield (
                f"{port.keys.port}: {port.port} needs CAP_NET_BIND_SERVICE; for systemd a drop-in with "
                "AmbientCapabilities= (see the unit)"
            )
        if said := ephemeral_overlap(port.port, port.port, local_ports):
            yield f"{port.keys.port}: {said}"
    yield from _remark_on_reach(config)


# --- private --------------------------------------------------------------------------------------


def _remark_on_reach(config: Config) -> Iterator[str]:
    """A trunk of another machine that calls an address of this machine only."""
    if not any(sip_ports(config.options.sip)) or not _is_this_machine_only(config.options):
        return
    for name, trunk in config.trunks.items():
        if any(not network.is_loopback for network in trunk.networks):
            yield f"trunk {name}: its sources cannot reach sip.host, which is this machine only"


def _is_this_machine_only(options: Options) -> bool:
    return all(is_loopback(host) for host in (options.sip.host, options.sip.host6) if host)


def _check_secrets(trunk: Trunk, text: str, path: Path) -> Iterator[ConfigError]:
    for key, secret in (
        ("account.password", trunk.account.password),
        ("inbound.password", trunk.inbound.password),
    ):
        try:
            reveal(secret)
        except ConfigError as error:
            section, _, name = key.partition(".")
            where = _place(path, _line(text, rf"\[\s*{section}\s*\]", rf"{name}\s*="))
            yield ConfigError(where, f"{error.where} {error.problem}", key=key)


def _check_agents(
    trunk: Trunk, text: str, path: Path, agents: Collection[str]
) -> Iterator[ConfigError]:
    lines = _agent_lines(text)
    for number, route in enumerate(trunk.routes, 1):
        if route.agent and route.agent not in agents:
            problem = f"'{route.agent}' is not an agent{nearest(route.agent, agents)}"
            yield ConfigError(
                _place(path, lines.get(number, 0)), problem, key=f"route[{number}].agent"
            )


def _place(path: Path, line: int) -> str:
    return f"{path}:{line}" if line else str(path)


def _line(text: str, head: str, key: str) -> int:
    """The line of a key in the table with this head; 0 where it was written otherwise."""
    inside = False
    for number, line in enumerate(text.splitlines(), 1):
        if _TABLE.match(line):
            inside = bool(re.match(rf"\s*{head}", line))
        elif inside and re.match(rf"\s*{key}", line):
            return number
    return 0


def _agent_lines(text: str) -> dict[int, int]:
    """The n-th route to the line of its agent."""
    found: dict[int, int] = {}
    route, inside = 0, False
    for number, line in enumerate(text.splitlines(), 1):
        if _TABLE.match(line):
            inside = bool(_ROUTE.match(line))
            route += inside
        elif inside and _AGENT.match(line):
            found[route] = number
    return found


def _check_certificates(config: Config) -> list[ConfigError]:
    """Whether every file of TLS is there, and the key belongs to the certificate."""
    files = config.certificates
    if not files:
        return []
    import ssl  # noqa: PLC0415 most daemons speak no TLS

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

    def load_pair() -> None:
        # Without the callback a key with a passphrase would be asked for on the terminal.
        context.load_cert_chain(files["sip.certificate"], files["sip.certificate_key"], lambda: b"")

    problems = []
    for key, path in files.items():
        try:
            path.read_bytes()
        except OSError as error:
            problems.append(ConfigError(config.where, f"{path}: {error.strerror}", key=key))
    if problems:
        return problems
    checks: list[tuple[str, Callable[[], None]]] = [
        (key, lambda path=files[key]: context.load_verify_locations(path))  # type: ignore[misc]
        for key in ("sip.client_ca", "sip.trusted_ca")
        if key in files
    ]
    if "sip.certificate" in files and "sip.certificate_key" in files:
        checks.append(("sip.certificate_key", load_pair))
    for key, check in checks:
        try:
            check()
        except (ssl.SSLError, ValueError) as error:
            problems.append(ConfigError(config.where, _what_is_wrong(error), key=key))
    return problems


def _what_is_wrong(error: Exception) -> str:
    reason = getattr(error, "reason", "") or ""
    if reason == "KEY_VALUES_MISMATCH":
        return "is not the key of sip.certificate"
    said = reason.lower().replace("_", " ")
    return f"cannot be loaded as PEM ({said})" if said else "cannot be loaded as PEM"
