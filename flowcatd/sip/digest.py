"""Digest authentication for SIP, both sides (RFC 7616, RFC 8760, RFC 3261 §22).

`Answerer` is the client: of the challenges in a 401 or 407 it answers the strongest it allows, once
(the same challenge again means a wrong password, unless the nonce was only stale), and repeats the
credentials with a rising nonce count in later requests.

`Gate` is the server: its nonces are the time, random bytes and a keyed hash over both, so it remembers
none that was never used. Used ones are kept with the counts seen, in a window, because UDP reorders;
the oldest are forgotten at a limit, and from then on count as stale: a replay never passes. A peer
without qop (RFC 2069) is let in only on demand, with each nonce once.

A password never leaves the two functions that hash it; digests are compared in constant time, and a
user that does not exist costs the same as one with a wrong password.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from flowcatd.sip.credentials import Credentials, parse_credentials, write_credentials
from flowcatd.sip.message import Message, Request, Response
from flowcatd.sip.trouble import SipError
from flowcatd.sip.uri import parse_uri

STRENGTH: Final = (
    *("SHA-512-256-sess", "SHA-512-256", "SHA-256-sess", "SHA-256", "MD5-sess", "MD5"),
)
"""The strongest first; a session variant before its plain one, as the password is hashed once."""

_HASHES: Final = {"MD5": "md5", "SHA-256": "sha256", "SHA-512-256": "sha512_256"}
_CANONICAL: Final = {name.lower(): name for name in STRENGTH}

NONCE_SECONDS = 300.0
"""How long a nonce lives: a registration's refresh costs at most one more round trip."""
NONCES_MAX = 10_000
"""Used nonces that are remembered: 33 a second for their whole life; about 200 bytes each."""
COUNT_WINDOW = 64
"""How far a nonce count may lag behind the highest: more requests at once than a phone has."""
_NONCE_BYTES: Final = 8 + 8 + 16
_OFFERED_MAX = 16
"""Challenges that are looked at in one response."""


class Flavour(Enum):
    """Who asks: a user agent (401) or a proxy (407), and in which fields."""

    USER = (401, "www-authenticate", "authorization")
    PROXY = (407, "proxy-authenticate", "proxy-authorization")

    @property
    def status(self) -> int:
        """The response's status."""
        return self.value[0]

    @property
    def asks(self) -> str:
        """The challenge's field."""
        return self.value[1]

    @property
    def answers(self) -> str:
        """The credentials' field."""
        return self.value[2]


@dataclass(frozen=True, slots=True)
class Secret:
    """A user and a password; neither is ever shown."""

    user: str = field(repr=False)
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Proof:
    """What a response is computed from (RFC 7616 §3.4.1)."""

    algorithm: str
    realm: str
    nonce: str
    uri: str
    method: str
    """Empty for Authentication-Info."""
    qop: str = ""
    count: str = ""
    """Eight hexadecimal digits."""
    cnonce: str = ""
    body: bytes = b""

    def response(self, secret: Secret) -> str:
        """The digest, in hexadecimal."""
        inner = digest(self.algorithm, f"{secret.user}:{self.realm}:{secret.password}")
        if self.algorithm.endswith("-sess"):
            inner = digest(self.algorithm, f"{inner}:{self.nonce}:{self.cnonce}")
        about = f"{self.method}:{self.uri}"
        if self.qop == "auth-int":
            about += ":" + digest(self.algorithm, self.body)
        about = digest(self.algorithm, about)
        if not self.qop:
            return digest(self.algorithm, f"{inner}:{self.nonce}:{about}")
        middle = f"{self.nonce}:{self.count}:{self.cnonce}:{self.qop}"
        return digest(self.algorithm, f"{inner}:{middle}:{about}")


def digest(algorithm: str, data: str | bytes) -> str:
    """H(data) in hexadecimal, by the RFC's name of an algorithm."""
    raw = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data
    name = _HASHES[algorithm.removesuffix("-sess")]
    return hashlib.new(name, raw, usedforsecurity=False).hexdigest()


def algorithm_of(parameters: dict[str, str]) -> str | None:
    """The algorithm that is named, MD5 where none is, or None where we have none of that name."""
    return _CANONICAL.get(parameters.get("algorithm", "MD5").lower())


# --- the client -----------------------------------------------------------------------------------


@dataclass(slots=True)
class _Session:
    """One realm's nonce, and how often it was used."""

    flavour: Flavour
    algorithm: str
    challenge: dict[str, str]
    count: int = 0


class Answerer:
    """Answers challenges for one trunk or dialog; `cnonce` gives fresh unguessable text."""

    def __init__(
        self, secret: Secret, cnonce: Callable[[], str], allowed: Iterable[str] = STRENGTH
    ) -> None:
        """`allowed` are the algorithms that may be used; weaker ones are left out of it to forbid them."""
        self._secret = secret
        self._cnonce = cnonce
        self._allowed = tuple(allowed)
        self._sessions: dict[tuple[Flavour, str], _Session] = {}

    def accept(self, request: Request, response: Response) -> bool:
        """Takes the challenges of the 401 or 407 to `request`; whether asking again makes sense.

        It does not when nothing we allow is offered, or when credentials for a fresh nonce were
        refused. `authorize` the next request then; its CSeq rises, its Call-ID stays (§22.2).
        """
        flavour = Flavour.PROXY if response.status == Flavour.PROXY.status else Flavour.USER
        chosen = self._choose(response, flavour)
        if chosen is None:
            return False
        key = (flavour, chosen.challenge["realm"])
        if key not in self._sessions and len(self._sessions) >= _OFFERED_MAX:
            return False
        if _was_wrong(request, chosen):
            self._sessions.pop(key, None)
            return False
        self._sessions[key] = chosen
        return True

    def authorize(self, request: Message, method: str, uri: str) -> None:
        """Writes the credentials for every realm that has asked into a request about to be sent.

        `uri` is the Request-URI's text. The fields are replaced, so a request may be sent again.
        """
        written: dict[str, list[str]] = {}
        for session in self._sessions.values():
            value = self._credentials(session, method, uri, request.body)
            written.setdefault(session.flavour.answers, []).append(value)
        for name, values in written.items():
            request.put(name, *values)

    def learn(self, response: Response) -> None:
        """Takes the next nonce out of a 2xx's Authentication-Info (RFC 7616 §3.5)."""
        for flavour, name in (
            (Flavour.USER, "authentication-info"),
            (Flavour.PROXY, "proxy-authentication-info"),
        ):
            text = response.first(name)
            mine = [each for each in self._sessions.values() if each.flavour is flavour]
            if text is None or len(mine) != 1:
                continue
            nonce = parse_credentials(f"Digest {text}").parameters.get("nextnonce")
            if nonce:
                mine[0].challenge["nonce"] = nonce
                mine[0].count = 0

    def _choose(self, response: Response, flavour: Flavour) -> _Session | None:
        best: _Session | None = None
        for text in response.fields.get(flavour.asks, [])[:_OFFERED_MAX]:
            challenge = parse_credentials(text)
            algorithm = algorithm_of(challenge.parameters)
            if challenge.scheme != "digest" or algorithm not in self._allowed:
                continue
            if not {"realm", "nonce"} <= challenge.parameters.keys():
                continue
            if best is None or STRENGTH.index(algorithm) < STRENGTH.index(best.algorithm):
                best = _Session(flavour, algorithm, challenge.parameters)
        return best

    def _credentials(self, session: _Session, method: str, uri: str, body: bytes) -> str:
        challenge = session.challenge
        session.count += 1
        offered = {each.strip().lower() for each in challenge.get("qop", "").split(",")}
        # auth-int breaks where a middlebox touches the body, which on SIP most do: only when asked.
        qop = "auth" if "auth" in offered else "auth-int" if "auth-int" in offered else ""
        has_cnonce = bool(qop) or session.algorithm.endswith("-sess")
        proof = Proof(
            session.algorithm,
            challenge["realm"],
            challenge["nonce"],
            uri,
            method,
            qop,
            f"{session.count:08x}" if qop else "",
            self._cnonce() if has_cnonce else "",
            body,
        )
        said = {
            "username": self._secret.user,
            "realm": proof.realm,
            "nonce": proof.nonce,
            "uri": uri,
            "response": proof.response(self._secret),
        }
        if "algorithm" in challenge:
            said["algorithm"] = session.algorithm
        if has_cnonce:
            said["cnonce"] = proof.cnonce
        if "opaque" in challenge:
            said["opaque"] = challenge["opaque"]
        if qop:
            said |= {"qop": qop, "nc": proof.count}
        return write_credentials("Digest", said)


def _was_wrong(request: Request, chosen: _Session) -> bool:
    """Whether the refused request had credentials that nothing but a wrong password explains.

    Not every server says stale when a nonce has aged: one that had served before may have. What is
    looked at is the request itself, as other calls over the trunk use the same nonce meanwhile.
    """
    if chosen.challenge.get("stale", "").lower() == "true":
        return False
    for text in request.fields.get(chosen.flavour.answers, ()):
        said = parse_credentials(text).parameters
        if said.get("realm") == chosen.challenge["realm"]:
            is_first = said.get("nc", "00000001") == "00000001"
            return is_first or said.get("nonce") == chosen.challenge["nonce"]
    return False


# --- the server -----------------------------------------------------------------------------------


class Judgement(Enum):
    """What credentials are worth."""

    MISSING = "none for this realm: challenge"
    STALE = "right or not, the nonce is too old or used up: challenge with stale"
    WRONG = "user, password, algorithm or address do not fit: challenge or 403"
    PASSED = "the user is who he says"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judgement, who was judged, and what to say in the 2xx."""

    judgement: Judgement
    user: str = ""
    info: str = ""
    """The value of (Proxy-)Authentication-Info; empty without qop."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a Gate asks for."""

    realm: str
    algorithms: tuple[str, ...] = ("SHA-256", "MD5")
    """One challenge each, in this order: the preferred first (RFC 8760 §2.3)."""
    flavour: Flavour = Flavour.USER
    qops: tuple[str, ...] = ("auth",)
    legacy: bool = False
    """Whether a peer without qop is let in (RFC 2069)."""
    nonce_seconds: float = NONCE_SECONDS
    nonces_max: int = NONCES_MAX


class _Counts:
    """Which counts of one nonce were used: the highest, and a bit for each of those below it."""

    __slots__ = ("highest", "seen")

    def __init__(self) -> None:
        self.highest = 0
        self.seen = 0

    def use(self, count: int) -> bool:
        """Marks a count; false when it was used or lies below the window."""
        if count > self.highest:
            self.seen = (self.seen << min(count - self.highest, COUNT_WINDOW)) | 1
            self.seen &= (1 << COUNT_WINDOW) - 1
            self.highest = count
            return True
        bit = 1 << (self.highest - count)
        if self.highest - count >= COUNT_WINDOW or self.seen & bit:
            return False
        self.seen |= bit
        return True


class Gate:
    """Challenges requests and judges their credentials.

    `key` signs nonces: of one worker's own, or nonces would be replayed at its neighbours. A nonce is
    signed for one Call-ID, whose requests all come to one worker: else what one worker refused as
    another's would still be good there, with another Call-ID. `random` gives eight unguessable bytes.
    `password_of` gives the password of a user of the realm, or None.
    """

    def __init__(
        self,
        terms: Terms,
        key: bytes,
        random: Callable[[], bytes],
        password_of: Callable[[str], str | None],
    ) -> None:
        self.terms = terms
        self._key = key
        self._random = random
        self._password_of = password_of
        self._used: OrderedDict[str, tuple[int, _Counts]] = OrderedDict()
        """Nonce to when it was made, in ms, and the counts used."""
        self._forgotten_ms = -1
        """Nonces made then or before are stale unless they are remembered."""

    def challenge(self, response: Response, now: float, *, stale: bool = False) -> None:
        """Writes the challenges into a 401 or 407."""
        nonce = self._mint(now, response.call_id)
        values = []
        for algorithm in self.terms.algorithms:
            said = {"realm": self.terms.realm, "nonce": nonce, "algorithm": algorithm}
            if stale:
                said["stale"] = "true"
            said["qop"] = ",".join(self.terms.qops)
            values.append(write_credentials("Digest", said, challenge=True))
        response.put(self.terms.flavour.asks, *values)

    def judge(self, request: Request, now: float) -> Verdict:
        """What a request's credentials are worth; malformed ones are SipError 400."""
        for text in request.fields.get(self.terms.flavour.answers, [])[:_OFFERED_MAX]:
            given = parse_credentials(text)
            if given.scheme == "digest" and given.parameters.get("realm") == self.terms.realm:
                return self._judge(given, request, now)
        return Verdict(Judgement.MISSING)

    def _judge(self, given: Credentials, request: Request, now: float) -> Verdict:
        said = given.parameters
        try:
            user, nonce, uri, response = (
                said[name] for name in ("username", "nonce", "uri", "response")
            )
        except KeyError:
            raise SipError("digest credentials that lack a field") from None
        algorithm = algorithm_of(said)
        qop = said.get("qop", "").lower()
        allowed = qop in self.terms.qops or (self.terms.legacy and not qop)
        if algorithm not in self.terms.algorithms or not allowed:
            return Verdict(Judgement.WRONG, user)
        made = self._made_at_ms(nonce, request.call_id)
        if made is None:
            # Of an earlier life, another worker or call, or nobody: a fresh one settles which.
            return Verdict(Judgement.STALE, user)
        count = _parse_count(said, qop)
        password = self._password_of(user)
        secret = Secret(user, password or "")
        proof = Proof(
            algorithm,
            self.terms.realm,
            nonce,
            uri,
            request.method,
            qop,
            said.get("nc", ""),
            said.get("cnonce", ""),
            request.body,
        )
        is_right = hmac.compare_digest(
            proof.response(secret).encode(), response.lower().encode("utf-8", "replace")
        )
        if password is None or not is_right or not _is_about(uri, request):
            return Verdict(Judgement.WRONG, user)
        if not self._use(nonce, made, count, now):
            return Verdict(Judgement.STALE, user)
        return Verdict(Judgement.PASSED, user, _info(proof, secret) if qop else "")

    # --- nonces

    def _mint(self, now: float, call_id: str) -> str:
        plain = round(now * 1000).to_bytes(8, "big") + self._random()[:8].ljust(8, b"\0")
        return urlsafe_b64encode(plain + self._sign(plain, call_id)).decode("ascii").rstrip("=")

    def _sign(self, plain: bytes, call_id: str) -> bytes:
        scope = f"{self.terms.realm}\0{call_id}".encode("utf-8", "surrogateescape")
        return hmac.new(self._key, plain + scope, "sha256").digest()[:16]

    def _made_at_ms(self, nonce: str, call_id: str) -> int | None:
        """When one of ours was made for this call, or None for any other text."""
        try:
            raw = urlsafe_b64decode(nonce.encode("ascii") + b"==")
        except (UnicodeEncodeError, Base64Error):
            return None
        if len(raw) != _NONCE_BYTES:
            return None
        if not hmac.compare_digest(raw[16:], self._sign(raw[:16], call_id)):
            return None
        # Base64 has several texts for the same bytes: only the one that was given out is ours.
        if urlsafe_b64encode(raw).decode("ascii").rstrip("=") != nonce:
            return None
        return int.from_bytes(raw[:8], "big")

    def _use(self, nonce: str, made_ms: int, count: int, now: float) -> bool:
        """Marks a nonce and count as used; false when that is not allowed any more."""
        if now - made_ms / 1000 > self.terms.nonce_seconds:
            return False
        known = self._used.get(nonce)
        if known is None:
            if made_ms <= self._forgotten_ms:
                return False
            known = self._used[nonce] = made_ms, _Counts()
            self._forget_oldest()
        return known[1].use(count)

    def _forget_oldest(self) -> None:
        while len(self._used) > self.terms.nonces_max:
            _, (made_ms, _) = self._used.popitem(last=False)
            self._forgotten_ms = max(self._forgotten_ms, made_ms)


def _parse_count(said: dict[str, str], qop: str) -> int:
    """The nonce count; 1 without qop, so that such a nonce serves once."""
    if not qop:
        return 1
    text = said.get("nc", "")
    if len(text) != 8 or not set(text) <= set("0123456789abcdefABCDEF") or not said.get("cnonce"):
        raise SipError("a nonce count or cnonce that is none")
    return int(text, 16)


def _is_about(uri: str, request: Request) -> bool:
    """Whether the hashed URI is the request's, as far as proxies leave it alone (RFC 7616 §3.4.6)."""
    try:
        meant = parse_uri(uri)
    except SipError:
        return False
    asked = request.uri
    same_host = meant.host.lower() == asked.host.lower()
    return same_host and meant.opaque == asked.opaque and meant.user in {asked.user, ""}


def _info(proof: Proof, secret: Secret) -> str:
    """Authentication-Info (RFC 7616 §3.5): that we know the password too."""
    ours = Proof(
        proof.algorithm,
        proof.realm,
        proof.nonce,
        proof.uri,
        "",
        proof.qop,
        proof.count,
        proof.cnonce,
    )
    said = {"rspauth": ours.response(secret), "cnonce": proof.cnonce}
    said |= {"qop": proof.qop, "nc": proof.count}
    return write_credentials("", said)
