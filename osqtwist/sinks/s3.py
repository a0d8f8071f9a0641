"""
Log lines to S3, or to what speaks its protocol: each delivery becomes one object of gzipped JSON lines.

boto3 blocks, so it runs in the reactor's thread pool, in one thread at a time for each sink: what is given up goes on
there until its sockets time out, and the next delivery waits for that.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

import attrs
import msgspec
from twisted.internet.defer import Deferred, TimeoutError
from zope.interface import implementer

from osqtwist.logevent import LogEvent
from osqtwist.sinkinterfaces import BadSinkSetting, ILogSink, ISinkKind, Outcome, RefusedEvent, SinkUnavailable
from osqtwist.sinks.httpsettings import one_line, secret_in
from osqtwist.sinks.singlefile import SingleFile

_T = TypeVar("_T")
_LONGEST_CONNECT = 10.0
# A key may have 1024 bytes; the name needs 54.
_LONGEST_PREFIX = 900
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]|arn:[a-z-]+:s3[a-z-]*:[A-Za-z0-9:/._-]+")
_TOO_LARGE = ("EntityTooLarge", "MaxMessageLengthExceeded")
# Operators mend these; the codes alone say little.
_PLAINLY = {
    "NoSuchBucket": "there is no such bucket",
    "AccessDenied": "the credentials do not allow s3:PutObject there",
    "InvalidAccessKeyId": "the access key is not known there",
    "SignatureDoesNotMatch": "the secret access key is not the one of the access key",
    "ExpiredToken": "the temporary credentials have expired",
    "RequestTimeTooSkewed": "the clock of this machine is wrong",
}


class S3Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    Where to write to, and how.

    :ivar bucket: its name, or the ARN of an access point.  It must exist.
    :ivar prefix: what the keys of objects begin with; ``%Y %m %d %H %M %j`` stand for the UTC time at which the server
        took the first line of the object.
    :ivar region: of the bucket; if empty, what AWS's own settings say.
    :ivar endpoint_url: a server that is not AWS, as in ``https://minio.example.org:9000``.
    :ivar access_key_id: with ``secret_access_key`` or ``secret_access_key_file``; without them boto3 looks where it
        always does: environment, ``~/.aws``, web identity, container, instance role.
    :ivar secret_access_key_file: a file with the secret, read whenever a client is made.
    :ivar profile: of ``~/.aws/config``, in the place of keys here.
    :ivar ca: a PEM file with the CA certificates to trust; if empty, those of ``AWS_CA_BUNDLE`` or boto3's own.
    :ivar cert: a PEM file with a client certificate and its chain; needs ``key``.
    :ivar path_style: the bucket in the path of the URL, not in the host's name; if unset, only with ``endpoint_url``.
    :ivar storage_class: as in ``STANDARD_IA``; the bucket's default if empty.
    :ivar server_side_encryption: how the server encrypts; the bucket's default if empty.
    :ivar kms_key_id: the key for ``aws:kms``.
    :ivar checksum: how the server can tell that what arrived is what was sent.  Every server knows ``md5``; directory
        buckets of AWS do not take it.
    :ivar gzip_level: from 1, fast, to 9, small.
    :ivar timeout: seconds that a delivery may take.
    """

    bucket: str = ""
    prefix: str = "osquery/%Y/%m/%d/%H/"
    region: str = ""
    endpoint_url: str = ""
    access_key_id: str = ""
    secret_access_key: str = ""
    secret_access_key_file: str = ""
    profile: str = ""
    ca: str = ""
    cert: str = ""
    key: str = ""
    path_style: bool | None = None
    storage_class: str = ""
    server_side_encryption: Literal["", "AES256", "aws:kms", "aws:kms:dsse"] = ""
    kms_key_id: str = ""
    checksum: Literal["md5", "crc32", "sha256"] = "md5"
    gzip_level: int = 6
    timeout: float = 30.0

    def __repr__(self) -> str:
        """Without the secret."""
        return f"S3Settings({self.place!r})"

    @property
    def place(self) -> str:
        """The destination, for messages."""
        at = urlsplit(self.endpoint_url).netloc or self.region
        return f"s3 bucket {self.bucket}{at and ' at '}{at}"

    def key_of(self, events: Sequence[LogEvent]) -> str:
        """The object that events go to: always the same one for the same events."""
        when = datetime.fromtimestamp(events[0].received_at, UTC)
        digest = hashlib.sha256("".join(event.event_id for event in events).encode()).hexdigest()[:16]
        time = f"{when:%Y%m%dT%H%M%S}.{when.microsecond // 1000:03}Z"
        return f"{when.strftime(self.prefix)}{time}-{len(events)}-{digest}.jsonl.gz"


@implementer(ISinkKind)
class S3Kind:
    """``kind = "s3"``."""

    kind = "s3"
    settings = S3Settings

    def make(self, reactor: Any, name: str, settings: S3Settings) -> S3Sink:
        """See :class:`osqtwist.sinkinterfaces.ISinkKind`."""
        try:
            import boto3  # noqa: F401, PLC0415 - an optional package
        except ImportError:
            raise BadSinkSetting("kind s3 needs the package boto3: pip install 'osqtwist[s3]'") from None
        _check(settings)
        return S3Sink(reactor, settings)


def _check(settings: S3Settings) -> None:
    if not settings.bucket:
        raise BadSinkSetting('bucket is missing, as in bucket = "osquery-logs"')
    if not _BUCKET.fullmatch(settings.bucket):
        raise BadSinkSetting(f"bucket is {settings.bucket!r}; that is no name for a bucket")
    prefix = settings.prefix
    if re.search(r"%(?![YmdHMj])", prefix):
        raise BadSinkSetting(f"prefix is {prefix!r}; after a % may stand Y, m, d, H, M or j")
    if re.search(r"(^|/)(\.{0,2}/|\.{1,2}$)", prefix) or not prefix.isprintable():
        raise BadSinkSetting(f"prefix is {prefix!r}; it must not begin with '/', nor have '//', '.' or '..' in it")
    if len(prefix.encode()) > _LONGEST_PREFIX:
        raise BadSinkSetting(f"prefix has {len(prefix.encode())} bytes; it must have at most {_LONGEST_PREFIX}")
    if not re.fullmatch(r"[A-Za-z0-9-]{0,63}", settings.region):
        raise BadSinkSetting(f"region is {settings.region!r}; it must be like eu-central-1")
    if not re.fullmatch(r"[A-Z_]*", settings.storage_class):
        raise BadSinkSetting(f"storage_class is {settings.storage_class!r}; it must be like STANDARD_IA")
    if settings.kms_key_id and not settings.server_side_encryption.startswith("aws:kms"):
        raise BadSinkSetting('kms_key_id is given, but server_side_encryption is not "aws:kms"')
    if not 1 <= settings.gzip_level <= 9:
        raise BadSinkSetting(f"gzip_level is {settings.gzip_level}; it must be from 1 to 9")
    if not 0.1 <= settings.timeout <= 3600:
        raise BadSinkSetting(f"timeout is {settings.timeout:g}; it must be from 0.1 to 3600 seconds")
    _check_endpoint(settings)
    _check_credentials(settings)


def _check_endpoint(settings: S3Settings) -> None:
    try:
        parts = urlsplit(settings.endpoint_url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and "@" not in parts.netloc
    except ValueError:
        usable = False
    # The URL itself stays unsaid: somebody may have put a password into it.
    if settings.endpoint_url and not (usable and re.fullmatch(r"[^\s?#]+", settings.endpoint_url)):
        raise BadSinkSetting("endpoint_url must be https://HOST or http://HOST, without a user")
    for key in ("ca", "cert", "key"):
        path = getattr(settings, key)
        if path and settings.endpoint_url.startswith("http://"):
            raise BadSinkSetting(f"{key} has no use for an endpoint_url that is not https://")
        if path and not Path(path).is_file():
            raise BadSinkSetting(f"{key}: there is no file {path}")
    if bool(settings.cert) != bool(settings.key):
        raise BadSinkSetting("cert and key go together; one is missing")


def _check_credentials(settings: S3Settings) -> None:
    if settings.secret_access_key and settings.secret_access_key_file:
        raise BadSinkSetting("secret_access_key and secret_access_key_file are both there; one must go")
    if bool(settings.access_key_id) != bool(settings.secret_access_key or settings.secret_access_key_file):
        raise BadSinkSetting("access_key_id and secret_access_key (or secret_access_key_file) go together")
    if settings.access_key_id and settings.profile:
        raise BadSinkSetting("access_key_id and profile are both there; one must go")


class _TooLarge(Exception):
    """The destination does not take objects of this size."""


@implementer(ILogSink)
@attrs.define(eq=False)
class S3Sink:
    """
    Puts the events of a delivery into one object, or into several if the server finds it too large.

    The same events always make the same object, byte for byte, so that a repetition replaces it.
    """

    reactor: Any
    settings: S3Settings = attrs.field(repr=False)
    _threads: SingleFile = attrs.field(init=False)
    _client: Any = attrs.field(default=None, init=False, repr=False)
    _secret: str = attrs.field(default="", init=False, repr=False)
    _is_closed: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._threads = SingleFile(self.reactor)

    async def open(self) -> None:
        """See :class:`osqtwist.sinkinterfaces.ILogSink`.  The server is asked nothing before the first delivery."""
        await self._run(self.settings.timeout, self._connect)

    async def deliver(self, events: Sequence[LogEvent]) -> Outcome:
        """Fire when the server has answered that it keeps every object; see also ``ILogSink``."""
        deadline = self.reactor.seconds() + self.settings.timeout
        refused: list[RefusedEvent] = []
        waiting = deque([range(len(events))])
        while waiting:
            numbers = waiting.popleft()
            part = [events[number] for number in numbers]
            try:
                await self._run(deadline - self.reactor.seconds(), partial(self._put, part))
            except _TooLarge as problem:
                half = len(numbers) // 2
                if half:
                    waiting.extendleft((numbers[half:], numbers[:half]))
                else:
                    refused.append(RefusedEvent(numbers[0], str(problem)))
            except SinkUnavailable as problem:
                # Parts come in order: all before this one are done.
                if not numbers[0]:
                    raise
                again = tuple(range(numbers[0], len(events)))
                return Outcome(tuple(refused), again, problem.retry_after, str(problem))
        return Outcome(tuple(refused))

    async def close(self) -> None:
        """See :class:`osqtwist.sinkinterfaces.ILogSink`.  A put under way ends in its thread, when it times out."""
        self._is_closed = True
        self._let_go()

    async def _run(self, seconds: float, work: Callable[[], _T]) -> _T:
        """Do what blocks, after what was given up has really ended; all of it within so many seconds."""
        try:
            if seconds > 0:
                return await Deferred.fromCoroutine(self._threads.run(seconds, work)).addTimeout(seconds, self.reactor)
        except TimeoutError:
            pass
        raise SinkUnavailable(f"{self.settings.place}: no answer in {self.settings.timeout:g} s")

    def _let_go(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

    # From here on: in a thread, one at a time.

    def _connect(self) -> Any:
        if self._client is None:
            settings = self.settings
            self._secret = settings.secret_access_key or secret_in(
                "secret_access_key_file", settings.secret_access_key_file
            )
            try:
                self._client = _client(settings, self._secret)
            except _failures() as problem:
                raise self._unavailable(str(problem)) from None
        return self._client

    def _put(self, events: Sequence[LogEvent]) -> None:
        settings = self.settings
        lines = b"".join(event.document + b"\n" for event in events)
        # Without a time in it, the same lines are always the same bytes.
        body = gzip.compress(lines, settings.gzip_level, mtime=0)
        optional = {
            "StorageClass": settings.storage_class,
            "ServerSideEncryption": settings.server_side_encryption,
            "SSEKMSKeyId": settings.kms_key_id,
        }
        client = self._connect()
        try:
            client.put_object(
                Bucket=settings.bucket,
                Key=settings.key_of(events),
                Body=body,
                # No Content-Encoding: some clients would unpack what is called .gz already.
                ContentType="application/x-ndjson",
                **_checksum(settings.checksum, body),
                **{name: value for name, value in optional.items() if value},
            )
        except _failures() as problem:
            self._fail(problem, len(body))
        finally:
            if self._is_closed:
                self._let_go()

    def _fail(self, problem: Exception, size: int) -> None:
        """Say what went wrong; a client that may have wrong credentials is not used again."""
        response: dict[str, Any] = getattr(problem, "response", {})
        if not response:
            text, may_stay = _without_answer(problem)
            if not may_stay:
                self._let_go()
            raise self._unavailable(text) from None
        code, message = (str(response.get("Error", {}).get(key, "")) for key in ("Code", "Message"))
        metadata = response.get("ResponseMetadata", {})
        status = metadata.get("HTTPStatusCode", 0)
        if code in _TOO_LARGE or status == 413:
            raise _TooLarge(f"{self.settings.place} does not take an object of {size} bytes ({code})") from None
        if status < 500 and status != 429:
            self._let_go()
        after = str(metadata.get("HTTPHeaders", {}).get("retry-after", ""))
        text = f"{_PLAINLY[code]} ({code}: {message})" if code in _PLAINLY else f"{code}: {message}"
        raise self._unavailable(text, float(after) if re.fullmatch("[0-9]{1,9}", after) else 0.0) from None

    def _unavailable(self, text: str, retry_after: float = 0.0) -> SinkUnavailable:
        text = text.replace(self._secret, "***") if self._secret else text
        return SinkUnavailable(f"{self.settings.place}: {one_line(text)}", retry_after)


def _client(settings: S3Settings, secret: str) -> Any:
    """A client of boto3 that neither tries again nor waits for ever."""
    import boto3  # noqa: PLC0415 - an optional package
    from botocore.config import Config  # noqa: PLC0415
    from botocore.session import get_session  # noqa: PLC0415

    limits = Config(
        connect_timeout=min(settings.timeout, _LONGEST_CONNECT),
        read_timeout=settings.timeout,
        retries={"total_max_attempts": 1, "mode": "standard"},
    )
    inner = get_session()
    # For the clients, too, that it makes itself to get credentials.
    inner.set_default_client_config(limits)
    session = boto3.Session(
        aws_access_key_id=settings.access_key_id or None,
        aws_secret_access_key=secret or None,
        profile_name=settings.profile or None,
        region_name=settings.region or None,
        botocore_session=inner,
    )
    style = {None: "auto", True: "path", False: "virtual"}[settings.path_style]
    ours = Config(
        s3={"addressing_style": style, "payload_signing_enabled": True},
        # By default boto3 appends a CRC in a chunked form that many servers other than AWS refuse.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        client_cert=(settings.cert, settings.key) if settings.cert else None,
    )
    return session.client(
        "s3",
        # Servers other than AWS seldom care; signatures need one.
        region_name=session.region_name or ("us-east-1" if settings.endpoint_url else None),
        endpoint_url=settings.endpoint_url or None,
        verify=settings.ca or None,
        config=ours,
    )


def _checksum(name: str, body: bytes) -> dict[str, str]:
    """The argument of ``put_object`` with a checksum."""
    if name == "crc32":
        key, value = "ChecksumCRC32", zlib.crc32(body).to_bytes(4, "big")
    elif name == "sha256":
        key, value = "ChecksumSHA256", hashlib.sha256(body).digest()
    else:
        key, value = "ContentMD5", hashlib.md5(body, usedforsecurity=False).digest()
    return {key: base64.b64encode(value).decode()}


def _failures() -> tuple[type[Exception], ...]:
    """What boto3 raises."""
    from boto3.exceptions import Boto3Error  # noqa: PLC0415 - an optional package
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    return BotoCoreError, ClientError, Boto3Error, OSError, ValueError


def _without_answer(problem: Exception) -> tuple[str, bool]:
    """Why there was no answer, and whether the client is not to blame."""
    from botocore import exceptions  # noqa: PLC0415 - an optional package

    cause = str(getattr(problem, "kwargs", {}).get("error", problem))
    # Python's and urllib3's errors have names of classes, addresses in memory and numbers around the reason.
    cause = re.sub(r"^.*\[Errno -?[0-9]+\] |^<[^>]*>: |\[SSL: \w+\] |( \(_ssl\.c:[0-9]+\))?['\")]*$", "", cause)
    if isinstance(problem, exceptions.ConnectTimeoutError):
        return "no connection in time", True
    if isinstance(problem, exceptions.ReadTimeoutError):
        return "no answer in time", True
    if isinstance(problem, exceptions.ConnectionClosedError):
        return "the connection was closed before an answer came", True
    if isinstance(problem, exceptions.SSLError):
        return f"TLS: {cause}", False
    if isinstance(problem, exceptions.EndpointConnectionError):
        return f"no connection: {cause}", True
    return cause, False
