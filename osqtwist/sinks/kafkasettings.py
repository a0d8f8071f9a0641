"""What a Kafka sink is told, and what that means to librdkafka."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import msgspec

from osqtwist.sinkinterfaces import BadSinkSetting

_QUEUE_KIB = 32 * 1024
_TOPIC = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,249}")
_OURS = frozenset(
    [
        "bootstrap.servers",
        "metadata.broker.list",
        "enable.idempotence",
        "acks",
        "request.required.acks",
        "transactional.id",
        "compression.type",
        "compression.codec",
        "message.timeout.ms",
        "delivery.timeout.ms",
        "topic.metadata.propagation.max.ms",
        "queue.buffering.max.kbytes",
        "delivery.report.only.error",
        "enabled_events",
        "log.queue",
        "security.protocol",
        "ssl.ca.location",
        "ssl.certificate.location",
        "ssl.key.location",
        "sasl.username",
        "sasl.password",
        "sasl.mechanism",
        "sasl.mechanisms",
    ]
)


class KafkaSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    Where to write to, and how.

    :ivar brokers: some of the cluster's brokers, each as HOST:PORT; they name the others.
    :ivar topic: the topic for what ``topic_by_type`` does not name.
    :ivar topic_by_type: a topic for ``result``, for ``status``, or for both.
    :ivar compression: of batches on the wire and at the broker.
    :ivar tls: speak TLS and verify the broker; off by default, since inside a network most brokers speak plainly.
    :ivar ca: a PEM file with the CA certificates to trust; the system's if empty.
    :ivar cert: a PEM file with a client certificate, and its chain.
    :ivar key: a PEM file with its private key; ``cert`` if empty.
    :ivar username: log in with SASL.
    :ivar password: for ``username``; or ``password_file``, read at each opening.
    :ivar mechanism: of SASL; with ``PLAIN`` and without ``tls`` the password can be read on the wire.
    :ivar timeout: seconds that a delivery may take.
    :ivar properties: more configuration properties of librdkafka, except those that these keys stand for.
    """

    brokers: tuple[str, ...] = ()
    topic: str = ""
    topic_by_type: dict[Literal["result", "status"], str] = {}
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = "zstd"
    tls: bool = False
    ca: str = ""
    cert: str = ""
    key: str = ""
    username: str = ""
    password: str = ""
    password_file: str = ""
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    timeout: float = 30.0
    properties: dict[str, str] = {}

    def __repr__(self) -> str:
        """Without the password, and without properties, which may hold another."""
        return f"KafkaSettings(brokers={self.brokers!r}, topic={self.topic!r})"

    def topic_of(self, log_type: str) -> str:
        """The topic for lines of a type."""
        return self.topic_by_type.get(log_type, self.topic)  # type: ignore[call-overload, no-any-return]

    def configuration(self, password: str) -> dict[str, Any]:
        """The same for librdkafka."""
        security = ("SASL_" if self.username else "") + ("SSL" if self.tls else "PLAINTEXT")
        found: dict[str, Any] = {
            "bootstrap.servers": ",".join(self.brokers),
            "client.id": "osqtwist",
            "enable.idempotence": True,
            "acks": "all",
            "compression.type": self.compression,
            # The delivery's own deadline comes first.
            "message.timeout.ms": int(self.timeout * 1000) + 1000,
            # A topic that is not there is said to be so before the deadline; it may be created on the way.
            "topic.metadata.propagation.max.ms": int(self.timeout * 500),
            "queue.buffering.max.kbytes": _QUEUE_KIB,
            "security.protocol": security,
        }
        if self.ca:
            found["ssl.ca.location"] = self.ca
        if self.cert:
            found |= {"ssl.certificate.location": self.cert, "ssl.key.location": self.key or self.cert}
        if self.username:
            found |= {"sasl.mechanism": self.mechanism, "sasl.username": self.username, "sasl.password": password}
        return found | self.properties


def check(settings: KafkaSettings) -> None:
    """
    See whether the keys can work together.

    :raise BadSinkSetting: they cannot.
    """
    if not settings.brokers:
        raise BadSinkSetting('brokers is missing, as in brokers = ["kafka.example.org:9092"]')
    for broker in settings.brokers:
        host, _, port = broker.rpartition(":")
        if not host or "," in broker or "/" in broker or not (port.isascii() and port.isdecimal()):
            raise BadSinkSetting(f"brokers: {broker!r} is not HOST:PORT")
    for log_type in ("result", "status"):
        if not (topic := settings.topic_of(log_type)):
            raise BadSinkSetting('topic is missing, as in topic = "osquery"')
        if not _TOPIC.fullmatch(topic):
            raise BadSinkSetting(f"topic: {topic!r} is no name for a topic (letters, digits, '.', '_' and '-' only)")
    _check_security(settings)
    if not settings.timeout >= 0.01:
        raise BadSinkSetting(f"timeout is {settings.timeout:g}; it must be at least 0.01")
    if taken := sorted(_OURS & settings.properties.keys()):
        raise BadSinkSetting(f"properties: {taken[0]} is not for you to set; other keys of the sink stand for it")


def _check_security(settings: KafkaSettings) -> None:
    if settings.password and settings.password_file:
        raise BadSinkSetting("password and password_file are both given")
    if bool(settings.username) != bool(settings.password or settings.password_file):
        raise BadSinkSetting("username and password (or password_file) go together")
    for key in ("ca", "cert", "key"):
        if getattr(settings, key) and not settings.tls:
            raise BadSinkSetting(f"{key} is given, but tls is not true")
        if getattr(settings, key) and not Path(getattr(settings, key)).is_file():
            raise BadSinkSetting(f"{key}: there is no file {getattr(settings, key)}")
    if settings.key and not settings.cert:
        raise BadSinkSetting("key is given, but cert is not")
