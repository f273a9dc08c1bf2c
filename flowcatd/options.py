"""Every setting in types: one frozen value per section of `conf/flowcatd.toml`, same order, same names.

`conf/flowcatd.toml` is the manual (what a setting does and how it can hurt); this is its shape. What
is allowed stands beside the field as data (`Between`, `OneOf`), so that `settings.py` has one loop
and no case per setting. A room is given its own section when it is made, never all of them, and
nothing reads a setting on the 20 ms path.

Times are seconds unless the name ends in `_ms`. Nothing here reads a file, the environment or a
clock: `settings.py` reads text, `environment.py` knows the process's surroundings.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated


@dataclass(frozen=True, slots=True)
class Between:
    """The range a number must lie in, both ends included."""

    low: float
    high: float

    def refusal(self, value: object) -> str:
        """What is allowed, or an empty string when `value` is."""
        fits = isinstance(value, int | float) and self.low <= value <= self.high
        return "" if fits else f"must lie between {self.low:.15g} and {self.high:.15g}"


@dataclass(frozen=True, slots=True)
class OneOf:
    """The words a setting may be."""

    words: tuple[str, ...]

    def refusal(self, value: object) -> str:
        """What is allowed, or an empty string when `value` is."""
        return "" if value in self.words else f"must be one of {', '.join(self.words)}"


@dataclass(frozen=True, slots=True)
class Secret:
    """A reference to a secret: `env:NAME`, `file:/path`, `cred:name`, or empty for none.

    The value itself is read in the worker (`environment.reveal`); no text form shows either.
    """

    reference: str = ""

    def __bool__(self) -> bool:
        return bool(self.reference)

    def __repr__(self) -> str:
        return "•••"

    __str__ = __repr__


Count = Annotated[int, Between(1, 1_000_000)]
Seconds = Annotated[float, Between(0.1, 86_400)]


@dataclass(frozen=True, slots=True)
class Server:
    """[server]: where flowcatd is reached."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[int, Between(0, 65_535)] = 6210
    """TCP port of HTTP and WebSocket, shared by all workers; 0 takes a free one."""
    public_url: str = ""
    """How the outside world reaches us, `wss://…`; empty means as the request says."""
    token: Secret = Secret()
    """What a media connection from another machine must show; loopback needs none."""


@dataclass(frozen=True, slots=True)
class Workers:
    """[workers]: how many processes, and how patient the supervisor is with them."""

    count: Annotated[int, Between(0, 256)] = 0
    """Worker processes; 0 is one per CPU this process may use."""
    most: Annotated[int, Between(1, 256)] = 32
    """The largest count that `flowcatd scale` may ask for; RTP ports are shared out by it."""
    pin_cpus: bool = False
    """Whether worker n stays on the n-th CPU."""
    bound: Annotated[float, Between(1, 100)] = 1.25
    """How many times the average load a worker may carry before its calls go to the next."""
    ready_seconds: Seconds = 20.0
    """From fork to serving; a worker that takes longer is killed and counted as crashed."""
    hung_seconds: Annotated[float, Between(1, 600)] = 5.0
    """A worker whose media timer has not rung for this long is killed and replaced."""
    retire_seconds: Seconds = 3600.0
    """What live calls of a worker that was replaced or scaled away get to finish."""
    stop_seconds: Seconds = 5.0
    """What a worker gets beyond calls.end_seconds to be gone, before it is killed."""
    restart_cap_seconds: Seconds = 30.0
    """The longest pause before a crashing worker is tried again."""


@dataclass(frozen=True, slots=True)
class Calls:
    """[calls]: how many, how long, and how they end."""

    per_worker: Count = 200
    """Live calls per worker; one more is refused."""
    start_seconds: Seconds = 10.0
    """From the socket's opening to the carrier's start message."""
    silence_seconds: Seconds = 20.0
    """How long no media at all may come while a call is up."""
    max_seconds: Seconds = 3600.0
    """The longest call."""
    drain_seconds: Seconds = 60.0
    """What live calls get to finish once the daemon was told to drain."""
    goodbye: str = "I'm sorry, we have to end this call now. Please call again. Goodbye."
    """What a call hears that is ended because the daemon stops; empty ends it without a word."""
    goodbye_seconds: Annotated[float, Between(0, 60)] = 10.0
    """What that line gets to be heard."""
    end_seconds: Seconds = 5.0
    """The deadline for a call's teardown."""
    ring_seconds: Annotated[float, Between(5, 600)] = 60.0
    """How long a call of ours may ring before it is given up."""
    resume_seconds: Annotated[float, Between(0, 3600)] = 20.0
    """How long a call whose worker died waits for its carrier to come back; 0 closes it at once."""
    lag_limit_ms: Annotated[int, Between(5, 10_000)] = 60
    """Loop lag at which a worker takes no new calls, in ms."""
    retry_after_seconds: Annotated[int, Between(1, 3600)] = 5
    """What a refused caller is told to wait; whole seconds, as Retry-After wants it."""


@dataclass(frozen=True, slots=True)
class Agents:
    """[agents]: who answers."""

    directory: str = "agents"
    """Where the agent files are, relative to the configuration file."""
    default: str = "appointment"
    """The agent of a call that names none: a file's name without its ending, or `echo`."""


@dataclass(frozen=True, slots=True)
class Speech:
    """[speech]: hearing and speaking."""

    hearing: str = "auto"
    """`auto`, `none`, or the name of a speech-to-text row."""
    voice: str = "auto"
    """`auto`, `none`, or the name of a text-to-speech row."""
    hearing_helpers: Annotated[int, Between(1, 64)] = 1
    """Recogniser processes per worker, for rows that run on this machine."""
    speaking_helpers: Annotated[int, Between(1, 64)] = 1
    """Synthesiser processes per worker, for rows that run on this machine."""
    voice_cache_mb: Annotated[int, Between(0, 4096)] = 32
    """Spoken lines kept per worker, in MiB; 0 keeps none."""


@dataclass(frozen=True, slots=True)
class Turns:
    """[turns]: who has the floor."""

    start_ms: Annotated[int, Between(20, 1000)] = 60
    """Voice that makes an utterance, in ms."""
    stop_ms: Annotated[int, Between(100, 5000)] = 450
    """Silence that ends an utterance, in ms."""
    longest_seconds: Annotated[float, Between(1, 600)] = 30.0
    """The longest turn of a caller; it is taken as ended then."""
    barge_in: bool = True
    """Whether a caller may talk over the agent."""
    barge_in_ms: Annotated[int, Between(20, 5000)] = 240
    """Voice over the agent that takes the floor, in ms."""
    pre_roll_ms: Annotated[int, Between(0, 2000)] = 300
    """Audio from before the utterance was noticed that is recognised too, in ms."""


@dataclass(frozen=True, slots=True)
class Playout:
    """[playout]: agent audio on its way to the caller."""

    lead_ms: Annotated[int, Between(20, 10_000)] = 240
    """How far ahead of being heard audio is sent, in ms."""
    queue_seconds: Annotated[float, Between(1, 3600)] = 120.0
    """Unsent agent audio a call may hold, in seconds of audio."""


@dataclass(frozen=True, slots=True)
class Records:
    """[records]: what remains of a call."""

    directory: str = ""
    """Where; empty is systemd's state directory, or else `var/records` beside the current one."""
    recording: bool = True
    """Whether the audio of both sides is kept."""
    transcript: bool = True
    """Whether the words of both sides are kept."""
    record: bool = True
    """Whether the call's figures and outcome are kept."""
    journal: bool = True
    """Whether a live call's state is kept at every turn, so that it survives its worker."""


@dataclass(frozen=True, slots=True)
class Control:
    """[control]: how operators and subscribers reach the daemon over ZeroMQ."""

    directory: str = ""
    """Runtime directory of sockets; empty is systemd's, or else one per user and port."""
    tcp: str = ""
    """`tcp://host:port` for commands from other machines; empty is none. Needs CURVE."""
    metrics_tcp: str = ""
    """`tcp://host:port` for subscribers on other machines; empty is none. Needs CURVE."""
    curve_secret: Secret = Secret()
    """The server's CURVE secret key."""
    curve_clients: str = "curve"
    """Directory of the public keys that may connect, relative to the configuration file."""


@dataclass(frozen=True, slots=True)
class Metrics:
    """[metrics]: the Prometheus bridge."""

    enabled: bool = True
    """Whether the daemon serves /metrics itself."""
    host: str = "127.0.0.1"
    """Address of /metrics."""
    port: Annotated[int, Between(0, 65_535)] = 9464
    """TCP port of /metrics; 0 takes a free one."""


@dataclass(frozen=True, slots=True)
class Sip:
    """[sip]: the shared SIP ports, and the trunks."""

    host: str = "127.0.0.1"
    """IPv4 address to listen on; empty is none."""
    host6: str = ""
    """IPv6 address to listen on; empty is none."""
    port: Annotated[int, Between(0, 65_535)] = 5060
    """UDP and TCP port, shared by all workers; 0 opens none."""
    tls_port: Annotated[int, Between(0, 65_535)] = 0
    """TCP port of SIP over TLS, shared by all workers; 0 opens none."""
    certificate: str = ""
    """PEM file of our certificate and those between it and its authority; may be relative."""
    certificate_key: str = ""
    """PEM file of its private key; may be relative."""
    client_ca: str = ""
    """PEM file of the authorities that callers over TLS must have a certificate of; empty asks none."""
    trusted_ca: str = ""
    """PEM file of the authorities we believe when we connect; empty is the system's."""
    wildcards: bool = False
    """Whether `*.example.com` in the certificate of whom we connect to is `sip.example.com`."""
    public_host: str = ""
    """What we call ourselves in Via, Contact and SDP over IPv4; empty is the socket's own address."""
    public_host6: str = ""
    """The same over IPv6."""
    trunks: str = "trunks.d"
    """Where the trunk files are, relative to the configuration file."""


@dataclass(frozen=True, slots=True)
class Rtp:
    """[rtp]: the ports of media, shared out by worker slot."""

    low: Annotated[int, Between(1024, 65_535)] = 10_000
    """The first port."""
    high: Annotated[int, Between(1024, 65_535)] = 20_000
    """The last port."""
    dscp: Annotated[int, Between(0, 63)] = 46
    """The class that media packets are marked with (RFC 2474)."""


@dataclass(frozen=True, slots=True)
class Log:
    """[log]: what is written to standard error."""

    level: Annotated[str, OneOf(("debug", "info", "warning", "error"))] = "info"
    """The least important line that is written."""
    format: Annotated[str, OneOf(("auto", "text", "json"))] = "auto"
    """`auto` is text on a terminal and JSON lines elsewhere."""
    private: bool = False
    """Whether fields with callers' words, digits and numbers are shown."""


@dataclass(frozen=True, slots=True)
class Options:
    """The whole configuration."""

    server: Server = field(default_factory=Server)
    workers: Workers = field(default_factory=Workers)
    calls: Calls = field(default_factory=Calls)
    agents: Agents = field(default_factory=Agents)
    speech: Speech = field(default_factory=Speech)
    turns: Turns = field(default_factory=Turns)
    playout: Playout = field(default_factory=Playout)
    records: Records = field(default_factory=Records)
    control: Control = field(default_factory=Control)
    metrics: Metrics = field(default_factory=Metrics)
    sip: Sip = field(default_factory=Sip)
    rtp: Rtp = field(default_factory=Rtp)
    log: Log = field(default_factory=Log)
