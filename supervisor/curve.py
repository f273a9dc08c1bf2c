"""CURVE keys: who may reach the daemon from other machines, and `flowcatd keys` that makes them.

CURVE (CurveZMQ, ZeroMQ RFC 26) encrypts a connection between two long-term key pairs, each side
knowing the other's public key beforehand. Keys are 40 characters of Z85 (RFC 32) in text files of
the format `zmq.auth` reads. The layout that `flowcatd keys DIR` makes:

    DIR/server.key        the server's secret: control.curve_secret = "file:DIR/server.key"
    DIR/server.pub        give it to clients: --server-key
    DIR/NAME.key          one client's secret: take it there, --client-key, and delete it here
    DIR/clients/NAME.pub  who may connect: control.curve_clients = "DIR/clients"

Whose public key is not in that directory gets nothing: libzmq asks during the handshake (ZAP, RFC
27) and `zap_reply` answers from the set of keys. Nothing is overwritten, and a secret's file is 0600
from its first byte on.
"""

from __future__ import annotations

import argparse
import os
import re
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import zmq
from zmq.utils import z85

from flowcatd.errors import ConfigError

ZAP_DOMAIN = b"flowcatd"
KEYS_MAX = 1024
"""Public keys read from a directory; more is a wrong directory."""

_FILE_MAX = 16 * 1024
_KEY = re.compile(r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LINE = re.compile(r'^\s*(public|secret)-key\s*=\s*"([^"\n]*)"\s*$', re.MULTILINE)


# --- reading keys --------------------------------------------------------------------------------


def load_secret(path: Path) -> tuple[bytes, bytes]:
    """Public and secret key out of a *.key file, in Z85; raises ConfigError, which shows neither."""
    secret = parse_secret(_read(path), str(path))
    return zmq.curve_public(secret), secret


def load_public(path: Path) -> bytes:
    """The public key of a *.pub (or *.key) file, in Z85; raises ConfigError."""
    return _check_key(dict(_LINE.findall(_read(path))).get("public", ""), str(path), "public")


def parse_secret(text: str, where: str) -> bytes:
    """The secret key, in Z85, out of a key file's text or standing alone; raises ConfigError."""
    found = dict(_LINE.findall(text)).get("secret", text.strip())
    return _check_key(found, where, "secret")


def load_clients(directory: Path) -> frozenset[bytes]:
    """Every public key that may connect; none when there is no such directory. Raises ConfigError."""
    try:
        paths = sorted(path for path in directory.iterdir() if path.suffix == ".pub")
    except FileNotFoundError:
        return frozenset()
    except OSError as error:
        raise ConfigError(str(directory), f"cannot be read: {error.strerror}") from error
    if len(paths) > KEYS_MAX:
        raise ConfigError(str(directory), f"holds more than {KEYS_MAX} keys")
    return frozenset(load_public(path) for path in paths)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_FILE_MAX)
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror}") from error
    return data.decode(errors="replace")


def _check_key(key: str, where: str, kind: str) -> bytes:
    try:
        # Forty of the right characters may still be more than 32 bytes (RFC 32).
        if _KEY.fullmatch(key) and z85.encode(z85.decode(key)) == key.encode():
            return key.encode()
    except (ValueError, struct.error):
        pass
    raise ConfigError(where, f"holds no {kind} CURVE key (`flowcatd keys` makes one)")


# --- letting in ----------------------------------------------------------------------------------


def zap_reply(request: Sequence[bytes], allowed: frozenset[bytes]) -> list[bytes]:
    """The answer to one question of libzmq whether somebody may connect (RFC 27, version 1.0).

    `request` is version, request id, domain, address, identity, mechanism, credentials.
    """
    request_id = request[1] if len(request) > 1 else b""
    if len(request) == 7 and request[0] == b"1.0" and request[2] == ZAP_DOMAIN:
        mechanism, key = request[5], request[6]
        if mechanism == b"CURVE" and len(key) == 32 and z85.encode(key) in allowed:
            return [b"1.0", request_id, b"200", b"OK", b"", b""]
    return [b"1.0", request_id, b"400", b"not allowed", b"", b""]


def check_remote(endpoints: Sequence[str], secret: str, clients: Path) -> list[ConfigError]:
    """What is wrong with tcp endpoints and their keys; `secret` is control.curve_secret's value."""
    problems: list[ConfigError] = []
    if not any(endpoints):
        return problems
    for work in (
        lambda: parse_secret(secret, "control.curve_secret"),
        lambda: load_clients(clients),
    ):
        try:
            work()
        except ConfigError as error:
            problems.append(error)
    return problems


# --- flowcatd keys -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    text: str
    mode: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `flowcatd keys`."""
    parser.add_argument("directory", type=Path, metavar="DIR", help="where the keys are put")
    parser.add_argument(
        "--client",
        action="append",
        default=[],
        metavar="NAME",
        help="make a key pair for this client; may be given again (default: operator)",
    )


def run(args: argparse.Namespace) -> int:
    """Make keys and say how they are used; the result is the exit code."""
    directory: Path = args.directory.absolute()
    has_server = (directory / "server.key").exists()
    if has_server and not args.client:
        raise ConfigError(
            str(directory / "server.key"), "is there already; --client NAME adds a client"
        )
    names = list(dict.fromkeys(args.client or ["operator"]))
    files = [] if has_server else _pair(directory / "server.key", directory / "server.pub")
    for name in names:
        if not _NAME.fullmatch(name) or name == "server":
            raise ConfigError("--client", f"'{name}' is no name for a file of keys")
        files += _pair(directory / f"{name}.key", directory / "clients" / f"{name}.pub")
    _write(directory, files)
    sys.stdout.write(_explain(directory, names))
    return 0


def _pair(secret_path: Path, public_path: Path) -> list[_File]:
    public, secret = (key.decode() for key in zmq.curve_keypair())
    head = "# ZeroMQ CURVE {}, made by flowcatd\nmetadata\ncurve\n"
    public_line = f'    public-key = "{public}"\n'
    secret_line = f'    secret-key = "{secret}"\n'
    return [
        _File(secret_path, head.format("SECRET key") + public_line + secret_line, 0o600),
        _File(public_path, head.format("public key") + public_line, 0o644),
    ]


def _write(directory: Path, files: Sequence[_File]) -> None:
    taken = next((file.path for file in files if file.path.exists()), None)
    if taken is not None:
        raise ConfigError(str(taken), "is there already; nothing was written")
    try:
        # Open to others, because the daemon's own user reads `clients`; each secret is closed.
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        (directory / "clients").mkdir(mode=0o755, exist_ok=True)
        for file in files:
            _create(file)
    except OSError as error:
        where = str(error.filename or directory)
        raise ConfigError(where, f"cannot be written: {error.strerror}") from error


def _create(file: _File) -> None:
    # O_EXCL: whoever made the file meanwhile keeps it, and no link of somebody else's is followed.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with os.fdopen(os.open(file.path, flags, file.mode), "w", encoding="utf-8") as stream:
        stream.write(file.text)


def _explain(directory: Path, names: Sequence[str]) -> str:
    clients = "\n".join(
        f"{directory}/{name}.key   secret of {name}: move it to that machine, delete it here"
        for name in names
    )
    return f"""\
{directory}/server.key   secret of this daemon; the user it runs as must be able to read it
{clients}

In the configuration of the daemon:

    [control]
    tcp = "tcp://0.0.0.0:6211"            # commands
    metrics_tcp = "tcp://0.0.0.0:6212"    # metrics and call events
    curve_secret = "file:{directory}/server.key"
    curve_clients = "{directory}/clients"

On the other machine, with server.pub and a client's .key file:

    flowcatd status --connect tcp://HOST:6211 --server-key server.pub --client-key {names[0]}.key

Who is in {directory}/clients may connect. Take a .pub file away and reload to shut its owner out.
"""
