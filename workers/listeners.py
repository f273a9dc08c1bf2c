"""What a worker answers over HTTP and WebSocket, on connections that its door let in.

    GET /                                         what this is and how to call it
    GET /healthz                                  200 while the worker's loop turns
    GET /readyz                                   200 while new calls are taken, 503 while draining
    WS  /telephony/ws/{provider}/{run_id}         a carrier's media socket; ?agent= ?token= ?events=1
    WS  /sip                                      SIP over WebSocket (RFC 7118)
    POST /v1/calls                                a call of ours (workers/rest.py)

Everything that can be refused is refused before the handshake, as an HTTP answer with a JSON body
{"error": …}: an unknown carrier or agent 404, a query that is not understood 400, a missing token
403, no room 503 with Retry-After. After it, the carrier core's close code is the answer.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Final
from weakref import WeakSet

from aiohttp import web

from flowcatd import __version__
from flowcatd.call import Call
from flowcatd.carriers.catalogue import carrier_names, open_carrier
from flowcatd.carriers.json_media import JsonMedia
from flowcatd.errors import CarrierError, nearest
from flowcatd.log import get_logger
from flowcatd.record import Reason
from flowcatd.settings import is_loopback
from flowcatd.transports.carrier import CLOSE_SECONDS, CarrierSocket
from workers.agents import Agent
from workers.calls import CallTable, NoPlaceError
from workers.hand_over import HEAD_BYTES, Arrival
from workers.leftovers import Remain, descriptor_remain
from workers.parts import Parts
from workers.plan import DIAL_PATH, RUN_ID_LIMIT
from workers.wiring import Wiring, identity_of

log = get_logger()

MESSAGE_LIMIT: Final = 128 * 1024
"""aiohttp closes with 1009 beyond it; the carrier cores have a stricter limit of their own."""

SIP_PATH: Final = "/sip"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

Refused = Callable[[str], None]
"""Told of every connection that became no call, by a word of metrics.REFUSALS."""
Ended = Callable[[Call, Remain | None], None]
"""Told of every call that is over, with what was its socket."""


class Doors:
    """The HTTP side of one worker."""

    def __init__(
        self,
        token: str,
        table: CallTable,
        wiring: Wiring,
        agents: Mapping[str, Agent],
        identity: tuple[int, str],
        told: tuple[Refused, Ended],
    ) -> None:
        """`token` is the secret revealed; `identity` is the worker's slot and the default agent."""
        self._token = token
        self._table = table
        self._wiring = wiring
        self._agents = agents
        self._slot, self._default = identity
        self._refused, self._ended = told
        self._asked: WeakSet[asyncio.BaseTransport] = WeakSet()
        """Connections that were answered before: the door has not chosen who gets their next request."""
        self.pass_on: Callable[[Arrival], bool] = _nowhere
        """Whether a fellow gets this connection; set by who knows fellows."""
        self.sip: Handler | None = None
        """Serves SIP over WebSocket; None where there is no SIP."""
        self.dial: Handler | None = None
        """Places calls of ours; None where there is no SIP."""

    def application(self) -> web.Application:
        """The routes."""
        application = web.Application(client_max_size=64 * 1024)
        application.on_response_prepare.append(self._answers)
        application.router.add_get("/", self._index)
        application.router.add_get("/healthz", self._health)
        application.router.add_get("/readyz", self._ready)
        application.router.add_get("/telephony/ws/{provider}/{run_id}", self._media)
        application.router.add_get(SIP_PATH, self._sip)
        application.router.add_post(DIAL_PATH, self._dial)
        return application

    async def _sip(self, request: web.Request) -> web.StreamResponse:
        if self.sip is None:
            raise _http_error(404, "there is no SIP here: sip.port is 0")
        return await self.sip(request)

    async def _dial(self, request: web.Request) -> web.StreamResponse:
        # The door kept a place for whoever it let in; the call takes one of its own.
        self._table.release(_peer(request))
        if self.dial is None:
            raise _http_error(404, "there is no SIP here: sip.port is 0")
        return await self.dial(request)

    async def _index(self, request: web.Request) -> web.Response:
        carriers = "\n".join(
            f"  ws://{request.host}/telephony/ws/{name}/RUN_ID" for name in carrier_names()
        )
        text = (
            f"flowcatd {__version__} answers calls here.\n\n"
            f"Place one from a terminal:  flowcatd call\n\n"
            f"Media sockets:\n{carriers}\n\n"
            f"Agents: {', '.join(sorted(self._agents))} (default {self._default})\n"
        )
        return web.Response(text=text)

    async def _health(self, _request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _ready(self, _request: web.Request) -> web.Response:
        ready = not self._table.draining
        return web.json_response({"ready": ready}, status=200 if ready else 503)

    async def _media(self, request: web.Request) -> web.StreamResponse:
        """One call, from the handshake to its record."""
        try:
            core, agent = self._admit(request)
            if self._is_passed_on(request):
                return web.Response()  # to nobody: the connection is elsewhere
            with self._table.place(_peer(request)):
                return await self._serve(request, core, agent)
        except NoPlaceError as error:
            log.info("call.refused", why=str(error))
            self._refused(error.cause)
            headers = {"Retry-After": str(error.retry_after)}
            return _refusal(503, str(error), headers)
        except web.HTTPException as error:
            self._table.release(_peer(request))
            self._refused("not_allowed" if error.status == 403 else "not_understood")
            raise

    async def _answers(self, request: web.Request, _response: web.StreamResponse) -> None:
        if request.transport is not None:
            self._asked.add(request.transport)

    def _is_passed_on(self, request: web.Request) -> bool:
        """Whether another worker has this connection now, with this request still to be read.

        Only what is not the first on its connection, since the door has steered that, and once: a
        client sends nothing more before it is answered (RFC 6455 §4.1), so the head is all there is.
        """
        wire = request.transport
        if wire is None or wire not in self._asked or request.body_exists:
            return False
        head = _head_of(request)
        try:
            arrival = Arrival(fileno=os.dup(wire.get_extra_info("socket").fileno()))
        except OSError:  # no descriptors
            return False
        arrival.head = head
        arrival.setblocking(False)
        if len(head) <= HEAD_BYTES and self.pass_on(arrival):
            wire.abort()  # closes our descriptor, not the connection
            return True
        arrival.close()
        return False

    def _admit(self, request: web.Request) -> tuple[JsonMedia, Agent]:
        query = request.query
        try:
            core = open_carrier(
                request.match_info["provider"], query, request.match_info["run_id"][:RUN_ID_LIMIT]
            )
        except CarrierError as error:
            status = 404 if request.match_info["provider"] not in carrier_names() else 400
            raise _http_error(status, error.problem) from error
        if not may_enter(request.remote or "", query.get("token", ""), self._token):
            raise _http_error(403, "a media token is needed: ?token=")
        name = query.get("agent", self._default)
        agent = self._agents.get(name)
        if agent is None:
            raise _http_error(404, f"no such agent{nearest(name[:40], self._agents)}")
        return core, agent

    async def _serve(
        self, request: web.Request, core: JsonMedia, agent: Agent
    ) -> web.StreamResponse:
        response = web.WebSocketResponse(
            timeout=CLOSE_SECONDS, max_msg_size=MESSAGE_LIMIT, compress=False, decode_text=False
        )
        if not response.can_prepare(request):
            raise _http_error(426, "this is a WebSocket: connect with Upgrade: websocket")
        identity = identity_of(
            run_id=request.match_info["run_id"][:RUN_ID_LIMIT],
            carrier=core.row.name,
            agent=agent.name,
            slot=self._slot,
            token=secrets.token_hex(4),
        )
        found = await self._wiring.look(identity)
        await response.prepare(request)
        wire = request.transport
        if wire is None:
            return response  # it went away during the handshake
        carrier = CarrierSocket(response, wire, core)
        carrier.notices = request.query.get("events") == "1" and is_loopback(request.remote or "")
        parts = self._wiring.open(carrier, agent, identity, found)
        log.info("call.started", call=identity.call_id, carrier=identity.carrier, agent=agent.name)
        remain = _descriptor_of(wire)
        try:
            await self._live(parts, carrier)
        finally:
            self._ended(parts.call, remain)
        return response

    async def _live(self, parts: Parts, carrier: CarrierSocket) -> None:
        call = parts.call
        parts.listing = self._table
        self._table.add(call)
        try:
            outcome = await call.run(carrier)
            if outcome.reason is Reason.PROTOCOL_ERROR:
                log.warning("carrier.broken", call=call.id, problem=outcome.error)
            await self._wiring.keep(parts, outcome)
        finally:
            self._table.remove(call)


def _peer(request: web.Request) -> object:
    """The name under which the door promised this connection a place: its far end's address."""
    return None if request.transport is None else request.transport.get_extra_info("peername")


def _head_of(request: web.Request) -> bytes:
    """The request as it came, or as good as: its line and its fields (RFC 9112 §2.1)."""
    lines = [f"{request.method} {request.raw_path} HTTP/1.1".encode()]
    lines += [name + b": " + value for name, value in request.raw_headers]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def _nowhere(_arrival: Arrival) -> bool:
    return False


def _descriptor_of(wire: asyncio.BaseTransport) -> Remain | None:
    """Its connection's; asked while that is open, since the number is another's soon afterwards."""
    held = wire.get_extra_info("socket")
    return None if held is None else descriptor_remain("socket", held.fileno())


def may_enter(remote: str, given: str, token: str) -> bool:
    """Whether a media connection is let in: from loopback always, from elsewhere with the token.

    Compared in constant time; without a token nobody from elsewhere is.
    """
    if is_loopback(remote):
        return True
    return bool(token) and hmac.compare_digest(given.encode(), token.encode())


def _refusal(status: int, problem: str, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.json_response({"error": problem}, status=status, headers=headers)


_ERRORS: Final[dict[int, type[web.HTTPException]]] = {
    400: web.HTTPBadRequest,
    403: web.HTTPForbidden,
    404: web.HTTPNotFound,
    426: web.HTTPUpgradeRequired,
}


def _http_error(status: int, problem: str) -> web.HTTPException:
    log.info("connection.refused", status=status, why=problem)
    text = web.json_response({"error": problem}).text
    return _ERRORS[status](text=text, content_type="application/json")
