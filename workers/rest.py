"""Calls of ours over HTTP: who may ask for one, and how the answer reads.

    POST /v1/calls   {"to": "+49…", "agent": "…", "trunk": "…", "caller_id": "+49…", "variables": {…}}
         202 {"call_id": "…"}    it rings; how it went stands in the record of that name
         400 not understood · 403 not allowed · 404 no such agent or trunk · 413 more than 64 KiB
         415 no JSON
         503 no room, or the trunk does not answer: Retry-After

Only `to` is needed. From this machine nobody needs a token, elsewhere `Authorization: Bearer …` (the one
of [server]). Whoever can make us call can cost us money, so a page in somebody's browser may not: JSON is
asked for, which a foreign page cannot send without asking first (Fetch §3.3), and what names an origin
must name ours. A page may have its own name lead to us, and then names the same as the request; so an
origin with another name than an address or localhost needs the token, wherever it comes from.
"""

from __future__ import annotations

import hmac
from ipaddress import ip_address
from typing import Annotated, Final
from urllib.parse import urlsplit

import msgspec
from aiohttp import web

from flowcatd.errors import CapacityError
from flowcatd.log import get_logger
from flowcatd.settings import is_loopback
from workers.dialling import DialError, Dialling, Wish

log = get_logger()


VARIABLES_MAX: Final = 100

Short = Annotated[str, msgspec.Meta(max_length=128)]
Name = Annotated[str, msgspec.Meta(max_length=64)]
Value = Annotated[str, msgspec.Meta(max_length=500)]


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body."""

    to: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    agent: Name = ""
    trunk: Name = ""
    caller_id: Short = ""
    variables: Annotated[dict[Name, Value], msgspec.Meta(max_length=VARIABLES_MAX)] = {}


_read = msgspec.json.Decoder(Order)
_HTTP: Final = {400: 400, 404: 404, 484: 400, 503: 503}


class Rest:
    """The requests of /v1 on one worker."""

    def __init__(self, dialling: Dialling, token: str, retry_after: int) -> None:
        """`token` is the secret revealed, `retry_after` in seconds."""
        self._dialling = dialling
        self._token = token
        self._retry_after = retry_after

    async def place(self, request: web.Request) -> web.Response:
        """POST /v1/calls."""
        problem = self._objection(request)
        if problem is not None:
            return problem
        try:
            order = _read.decode(await request.read())
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            # What is wrong may repeat a field's name: for the one who sent it, not for the log.
            told = "the body is not understood"
            return _refuse(400, f"{told}: {_safe(error)}", told=told)
        wish = Wish(order.to, order.agent, order.trunk, order.caller_id, order.variables)
        try:
            call_id = await self._dialling.place(wish)
        except DialError as error:
            status = _HTTP.get(error.status, 403)
            return _refuse(status, error.problem, self._retry_after if status == 503 else 0)
        except CapacityError as error:
            return _refuse(503, str(error), error.retry_after)
        return web.json_response({"call_id": call_id}, status=202)

    def _objection(self, request: web.Request) -> web.Response | None:
        """Why this one may not ask, or None."""
        origin = request.headers.get("Origin")
        is_near = is_loopback(request.remote or "") and (origin is None or _is_plain(request.host))
        if not (is_near or self._is_known(request.headers.get("Authorization", ""))):
            return _refuse(403, "a token is needed: Authorization: Bearer …")
        if origin is not None and _host_of(origin) != request.host:
            return _refuse(403, "a page from elsewhere may not place calls")
        if request.content_type != "application/json":
            return _refuse(415, "the body must be application/json")
        return None

    def _is_known(self, authorization: str) -> bool:
        """Whether it has our token (RFC 6750 §2.1; the scheme in any case, RFC 9110 §11.1)."""
        scheme, _, given = authorization.partition(" ")
        token = self._token.encode()
        # A header may hold what is no text.
        said = given.strip().encode(errors="surrogateescape")
        return bool(token) and scheme.lower() == "bearer" and hmac.compare_digest(said, token)


def _host_of(origin: str) -> str:
    """Host and port of an origin; empty for what is none."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def _is_plain(host: str) -> bool:
    """Whether a Host cannot be a name that somebody else gives away: an address, or localhost."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
    if name == "localhost":
        return True
    try:
        ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def _safe(error: Exception) -> str:
    """What was expected where; msgspec repeats no values, but for unknown fields' names."""
    return str(error)[:200] if isinstance(error, msgspec.ValidationError) else "it is not JSON"


def _refuse(status: int, problem: str, retry_after: int = 0, told: str = "") -> web.Response:
    """`told` is what the log hears, where that is less."""
    log.info("connection.refused", status=status, why=told or problem)
    headers = {"Retry-After": str(retry_after)} if retry_after else None
    return web.json_response({"error": problem}, status=status, headers=headers)
