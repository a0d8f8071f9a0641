"""
Settings: options of the command line, over the environment, over the settings file, over the defaults.

Every option ``--client-ca`` is also ``client_ca`` in the settings file (TOML) and ``OSQTWIST_CLIENT_CA`` in the
environment.  What is a table (identity rules, deadlines) stands in the settings file only.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from osqtwist.access import OperatorRules
from osqtwist.distributed import MAX_HOLD, QUERY_BURST
from osqtwist.ease import EaseRule
from osqtwist.expression import BadExpression
from osqtwist.fleetevents import EventSettings
from osqtwist.identity import IdentityRule, TagRule
from osqtwist.liverules import LiveRules
from osqtwist.loginterfaces import Budgets
from osqtwist.namedpeers import BadPeer, NamedPeers
from osqtwist.ocsp import OcspMode
from osqtwist.passedheaders import TrustedProxy
from osqtwist.ports import PLAIN
from osqtwist.storage.redis_durability import DurabilityLevel
from osqtwist.targeting import parsed
from osqtwist.web.site import Deadlines, Limits

_MIB = 2**20
MAX_WORKERS = 64
ENVIRONMENT_PREFIX = "OSQTWIST_"

ClientAuth = Literal["required", "optional", "none"]
StaleCrl = Literal["accept", "refuse"]
Role = Literal["all", "nodes", "delivery"]


class BadSetting(Exception):
    """A setting cannot be used; one sentence that names it and where it comes from."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything that can be set.  What each means stands in :data:`HELP`."""

    port: tuple[str, ...] = ("ssl:8443",)
    cert: str = ""
    key: str = ""
    client_ca: str = ""
    client_crl: str = ""
    stale_crl: StaleCrl = "accept"
    ocsp: OcspMode = "off"
    ocsp_url: str = ""
    client_auth: ClientAuth = "optional"
    enroll_secret_path: str = ""
    enroll_secret_name: str = "enroll_secret"  # noqa: S105
    enroll_by_certificate: bool = True
    approve_nodes: str = ""
    config: str = ""
    proxy_protocol: tuple[str, ...] = ()
    redis: str = ""
    log_redis: tuple[str, ...] = ()
    redis_prefix: str = "osqtwist:"
    state: str = "state"
    admin: str = ""
    admin_port: str = ""
    admin_cert: str = ""
    admin_key: str = ""
    admin_ca: str = ""
    admin_crl: str = ""
    role: Role = "all"
    workers: int | Literal["auto"] = 1
    hold: float = 10.0
    query_burst: int = QUERY_BURST
    ease: bool = True
    keep_connections: bool = False
    route_prefix: tuple[str, ...] = ()
    log_budget_mib: int = 1024
    dead_letter_budget_mib: int = 64
    log_retention_hours: float = 72.0
    node_log_kib: int = 1024
    durability: DurabilityLevel = "append"
    max_log_body_mib: int = 64
    max_carve_mib: int = 4096
    carve_min_free_mib: int = 1024
    request_log: bool = True
    traces: str = ""
    identity: tuple[IdentityRule, ...] = (IdentityRule(),)
    certificate_tags: tuple[TagRule, ...] = ()
    deadlines: Deadlines = Deadlines()
    limits: Limits = Limits()
    live: LiveRules = LiveRules()
    sink: dict[str, dict[str, Any]] = {}
    alert: dict[str, dict[str, Any]] = {}
    events: EventSettings | None = None
    operators: OperatorRules = OperatorRules()
    easing: EaseRule = EaseRule()
    trusted_proxy: TrustedProxy | None = None

    @property
    def budgets(self) -> Budgets:
        """The budgets of the log buffer."""
        return Budgets(live=self.log_budget_mib * _MIB, dead=self.dead_letter_budget_mib * _MIB)

    @property
    def worker_count(self) -> int:
        """How many processes serve nodes; ``auto`` is one for each processor that this process may use."""
        return len(os.sched_getaffinity(0)) if self.workers == "auto" else self.workers

    @property
    def makes_development_set_up(self) -> bool:
        """Whether nothing says which certificates to use, so that development ones are made."""
        return not (self.cert or self.key or self.client_ca or self.is_plain)

    @property
    def is_plain(self) -> bool:
        """Whether proxies end TLS on every port, so that nodes see no certificate of ours."""
        return all(port.startswith(PLAIN) for port in self.port)

    @property
    def admin_socket(self) -> Path:
        """The path of the admin socket."""
        path = self.admin.removeprefix("unix:").partition(":mode=")[0]
        return Path(path) if path else Path(self.state) / "admin.sock"

    @property
    def admin_socket_mode(self) -> int:
        """Who may open it, as ``chmod`` has it."""
        return int(self.admin.partition(":mode=")[2] or "600", 8)


HELP: dict[str, tuple[str, str]] = {
    "port": (
        "ENDPOINT",
        "where nodes connect: ssl:PORT[:interface=ADDRESS] or systemd:name=NAME; for proxies that end TLS "
        "tcp:PORT[:interface=ADDRESS] or unix:PATH[:mode=660]; repeatable",
    ),
    "proxy_protocol": (
        "ADDRESS|CIDR",
        "proxies that pass TCP through and begin each connection with the PROXY protocol, version 2; repeatable",
    ),
    "cert": ("FILE", "the server's certificate and chain, PEM"),
    "key": ("FILE", "its private key, PEM"),
    "client_ca": ("FILE", "CA certificates that sign node certificates, PEM"),
    "client_crl": (
        "FILE|DIR",
        "revocation lists of those CAs, PEM or DER: a file, or the .pem, .crl and .der of a folder",
    ),
    "stale_crl": ("accept|refuse", "what a revocation list past its next update means: still in force, or refuse all"),
    "ocsp": (
        "off|soft|hard",
        "whether responders are asked about node certificates; where none answers, soft lets in, hard refuses for now",
    ),
    "ocsp_url": ("URL", "the responder for every certificate, http://; by default each certificate names its own"),
    "client_auth": ("required|optional|none", "whether the handshake demands a node certificate"),
    "enroll_secret_path": ("FILE", "enroll secrets, one a line: SECRET [TAG ...]"),
    "enroll_secret_name": ("NAME", "the key of the secret, where nodes run --tls_enroll_override"),
    "enroll_by_certificate": ("yes|no", "whether a certificate lets a node enroll without a secret"),
    "approve_nodes": (
        "WHERE",
        "new nodes that wait until an operator approves of them, as in not secret:ci; * for all",
    ),
    "config": ("DIR", "configuration layers"),
    "redis": ("URL", "redis://, rediss://, unix:/PATH or sentinel://; a private Valkey is started without it"),
    "log_redis": (
        "URL",
        "a server that holds log lines in place of --redis; repeatable: each node's are on one of them; one that is "
        "given as drain:URL takes no more",
    ),
    "redis_prefix": ("TEXT", "begins every key in Redis"),
    "state": ("DIR", "embedded store, admin socket, carves, signing keys"),
    "admin": (
        "ENDPOINT",
        "the operators' socket: unix:PATH[:mode=600] or systemd:name=NAME; by default admin.sock in the state folder",
    ),
    "admin_port": (
        "ENDPOINT",
        "the operators' port, with the pages: ssl:PORT[:interface=ADDRESS], or tcp:PORT:interface=127.0.0.1 without "
        "TLS for this machine",
    ),
    "admin_cert": ("FILE", "the server's certificate and chain towards operators, PEM; by default that of --cert"),
    "admin_key": ("FILE", "its private key, PEM"),
    "admin_ca": ("FILE", "CA certificates that sign operators' certificates, PEM; without it only tokens count"),
    "admin_crl": ("FILE|DIR", "revocation lists of those CAs, as with --client-crl"),
    "role": (
        "all|nodes|delivery",
        "serve nodes and deliver logs to the sinks, or one of the two; delivery alone needs --redis",
    ),
    "workers": ("N|auto", "processes that serve nodes, sharing the ports; auto: one for each processor"),
    "hold": ("SECONDS", "how long a distributed read is held at most, 0 to 12; chance ends some up to a tenth earlier"),
    "query_burst": (
        "N",
        "nodes that each worker may hand a live query to before they come back; more reach a large fleet sooner, and "
        "keep others waiting longer",
    ),
    "ease": ("yes|no", "whether nodes are told to come less often while the server is busy"),
    "keep_connections": ("yes|no", "keep connections for further requests; osqueryd never makes any"),
    "route_prefix": ("PATH", "a prefix that every route answers under too, such as /public/osquery; repeatable"),
    "log_budget_mib": ("N", "size of the log buffer in MiB; past it nodes are told to keep their lines; 0: no limit"),
    "dead_letter_budget_mib": ("N", "size of the dead letters in MiB, and again of each sink's; the oldest make room"),
    "log_retention_hours": ("N", "batches that every sink has are kept so long, if there is room; 0: while there is"),
    "node_log_kib": ("N", "KiB of logs that one node may post a second, on average; 0: no limit"),
    "durability": (
        "append|fsync|replica|fsync+replica",
        "when a node may forget its lines: once Redis has them, once they are on its disk, on a replica, or on both",
    ),
    "max_log_body_mib": ("N", "largest log and distributed write body, as it comes and inflated, in MiB"),
    "max_carve_mib": ("N", "largest carve, in MiB"),
    "carve_min_free_mib": ("N", "MiB of disk that carves leave free: those that would not are refused"),
    "request_log": ("yes|no", "one log line for each request; refusals and failures get one anyway"),
    "traces": (
        "URL|otel",
        "where OpenTelemetry traces go, OTLP over HTTP: http://127.0.0.1:4318, or otel: where OTEL_... of the "
        "environment say; nowhere if not given",
    ),
}
"""For each option what stands for its value, and what it means."""

# The settings file itself, and what `osqtwist` reads to find the server.
_OF_THE_COMMAND = ("settings", "admin_socket", "server", "server_ca", "operator_cert", "operator_key", "token_file")
_WORDS = {"yes": True, "true": True, "on": True, "1": True, "no": False, "false": False, "off": False, "0": False}
LISTS = ("port", "log_redis", "proxy_protocol", "route_prefix")
"""Options that can be given more than once."""
_ADMIN = re.compile(r"unix:[^:]+(:mode=0?[0-7]{3})?|systemd:(name|index)=[^:]+")
_FIELDS = {field.name: field for field in msgspec.structs.fields(Settings)}


def default_of(name: str) -> str:
    """The default of an option, as a person would write it."""
    default = _FIELDS[name].default
    if name in LISTS:
        return " ".join(default)
    if isinstance(default, bool):
        return "yes" if default else "no"
    return str(default)


def gather(options: Mapping[str, Any], environment: Mapping[str, str], settings_file: str | None = None) -> Settings:
    """
    Put the settings together.

    :param options: what stood on the command line, by name with underscores.
    :param settings_file: a TOML file, or ``OSQTWIST_SETTINGS`` of the environment.
    :raise BadSetting: something cannot be used.
    """
    values: dict[str, Any] = {}
    settings_file = settings_file or environment.get(ENVIRONMENT_PREFIX + "SETTINGS") or ""
    if settings_file:
        for name, value in _read(settings_file).items():
            _put(values, name.replace("-", "_"), value, f"{name} in {settings_file}")
    for variable, text in environment.items():
        name = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
        if variable.startswith(ENVIRONMENT_PREFIX) and name not in _OF_THE_COMMAND:
            if name not in HELP:
                raise BadSetting(f"{variable} in the environment is not a setting of osqtwist")
            _put(values, name, text.split() if name in LISTS else text, variable)
    for name, value in options.items():
        _put(values, name, value, _option(name))
    settings = msgspec.convert(values, Settings, strict=False)
    _check(settings)
    return settings


def _read(path: str) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(path).read_text("utf-8"))
    except OSError as problem:
        raise BadSetting(f"--settings {path}: {problem.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise BadSetting(f"--settings {path} is not TOML: {problem}") from None


def _put(values: dict[str, Any], name: str, value: Any, source: str) -> None:
    """Take one value, checked alone so that an error can name where it comes from."""
    if name not in _FIELDS:
        raise BadSetting(f"{source} is not a setting of osqtwist")
    if name in LISTS and isinstance(value, str):
        value = [value]
    kind = _FIELDS[name].type
    if kind is bool and isinstance(value, str):
        value = _WORDS.get(value.lower(), value)
    if kind is str and not isinstance(value, str):
        raise BadSetting(f"{source} is {value!r}; it must be text")
    try:
        msgspec.convert(value, kind, strict=kind is bool)
    except msgspec.ValidationError as problem:
        choices = [str(choice) for choice in get_args(kind) if isinstance(choice, str)]
        wish = f"one of {', '.join(choices)}" if choices else "yes or no" if kind is bool else _plainly(problem)
        raise BadSetting(f"{source} is {value!r}; it must be {wish}") from None
    except ValueError as problem:
        raise BadSetting(f"{source}: {problem}") from None
    values[name] = value


def _plainly(problem: msgspec.ValidationError) -> str:
    text = str(problem).replace("Invalid enum value", "Expected `int | str`")
    for kind, words in (
        ("`int | str`", "a whole number or auto"),
        ("`int`", "a whole number"),
        ("`float`", "a number"),
    ):
        if f"Expected {kind}" in text:
            return words
    return f"something else ({text})"


_AT_LEAST = {
    "query_burst": 64,
    "log_budget_mib": 0,
    "dead_letter_budget_mib": 1,
    "node_log_kib": 0,
    "log_retention_hours": 0,
    "max_log_body_mib": 1,
    "max_carve_mib": 1,
    "carve_min_free_mib": 0,
}


def _check(settings: Settings) -> None:
    if not settings.port:
        raise BadSetting("--port must be given at least once")
    if not 0 <= settings.hold <= MAX_HOLD:
        raise BadSetting(
            f"--hold is {settings.hold:g}; it must be from 0 to {MAX_HOLD:g}: osquery gives up on a request at 16 s"
        )
    if settings.role == "delivery" and not settings.redis:
        raise BadSetting("--role delivery needs --redis: the log buffer of the servers that it delivers from")
    if settings.role == "delivery" and not (settings.sink or settings.alert):
        raise BadSetting("--role delivery needs at least one [sink.NAME] or [alert.NAME] block in the settings file")
    if settings.alert and "alerts" in settings.sink:
        raise BadSetting("[sink.alerts]: alert rules have a sink of this name; take another")
    if not 1 <= settings.worker_count <= MAX_WORKERS:
        raise BadSetting(f"--workers is {settings.workers}; it must be from 1 to {MAX_WORKERS}, or auto")
    for prefix in settings.route_prefix:
        if not prefix.startswith("/") or prefix.endswith("/"):
            raise BadSetting(f"--route-prefix is {prefix!r}; it must begin with / and not end with it")
    for name, least in _AT_LEAST.items():
        if getattr(settings, name) < least:
            raise BadSetting(f"{_option(name)} is {getattr(settings, name):g}; it must be at least {least}")
    _check_bounds(settings)
    if settings.traces and not re.fullmatch(r"otel|https?://[^\s/@]+(/\S*)?", settings.traces):
        raise BadSetting(f"--traces is {settings.traces!r}; it must be otel, or begin with http://HOST or https://HOST")
    _check_approval(settings)
    _check_admin(settings)
    _check_proxies(settings)
    _check_credentials(settings)


def _check_bounds(settings: Settings) -> None:
    for name in Deadlines.__struct_fields__:
        if getattr(settings.deadlines, name) <= 0:
            raise BadSetting(f"deadlines.{name} must be more than 0")
    for name in Limits.__struct_fields__:
        if getattr(settings.limits, name) < 0:
            raise BadSetting(f"limits.{name} must not be negative")


def _check_approval(settings: Settings) -> None:
    try:
        parsed(settings.approve_nodes)
    except BadExpression as problem:
        raise BadSetting(f"--approve-nodes is not an expression: {problem}") from None


def _check_admin(settings: Settings) -> None:
    if settings.admin and not _ADMIN.fullmatch(settings.admin):
        raise BadSetting(
            f"--admin is {settings.admin!r}; it must be unix:PATH, unix:PATH:mode=660 or systemd:name=NAME"
        )
    for given, wanted in (("admin_cert", "admin_key"), ("admin_key", "admin_cert"), ("admin_crl", "admin_ca")):
        if getattr(settings, given) and not getattr(settings, wanted):
            raise BadSetting(f"{_option(given)} is given, but {_option(wanted)} is not")


def _check_proxies(settings: Settings) -> None:
    try:
        NamedPeers.parse(settings.proxy_protocol)
    except BadPeer as problem:
        raise BadSetting(f"--proxy-protocol: {problem}") from None
    trusted = settings.trusted_proxy
    if trusted is None:
        plain = next((port for port in settings.port if port.startswith(PLAIN)), "")
        if plain:
            raise BadSetting(
                f"--port {plain} is without TLS, so anybody could name himself: it needs [trusted_proxy] in the "
                "settings file, which says whose proxies may connect; or use ssl:"
            )
        return
    try:
        peers = NamedPeers.parse(trusted.peers)
    except BadPeer as problem:
        raise BadSetting(f"trusted_proxy.peers: {problem}") from None
    if not peers:
        raise BadSetting("trusted_proxy.peers is empty; it must name the proxies that may say who a node is")
    if settings.client_auth == "required" and trusted.headers == "none":
        raise BadSetting('--client-auth is required, but trusted_proxy.headers is "none": no certificate could come')


def _check_credentials(settings: Settings) -> None:
    named = [name for name in ("cert", "key", "client_ca") if getattr(settings, name)]
    needed = ["cert", "key"] if settings.client_auth == "none" else ["cert", "key", "client_ca"]
    if settings.ocsp_url and settings.ocsp == "off":
        raise BadSetting("--ocsp-url is given, but --ocsp is off")
    if settings.ocsp_url and not re.fullmatch(r"http://[^\s/]+(/\S*)?", settings.ocsp_url):
        raise BadSetting(f"--ocsp-url is {settings.ocsp_url!r}; it must begin with http://HOST (answers are signed)")
    if settings.is_plain:
        needed = needed[2:] if settings.trusted_proxy and settings.trusted_proxy.headers != "none" else []
        if needed and not named:
            raise BadSetting("--client-ca is not given: what [trusted_proxy] passes is verified with it")
        if settings.admin_port.startswith("ssl:") and not (settings.admin_cert or settings.cert):
            raise BadSetting("--admin-port is given, but --admin-cert is not")
    missing = [name for name in needed if name not in named]
    if named and missing:
        raise BadSetting(f"{_option(named[0])} is given, but {_option(missing[0])} is not")


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
