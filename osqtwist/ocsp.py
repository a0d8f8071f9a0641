"""
OCSP: asking issuers whether certificates of nodes are still good.

An answer is kept as long as it says, and asked for again in good time, behind the back of the request that happens to
come then.  Each process has answers of its own; they are lost when it ends.  What happens to a certificate of which
nobody says anything is the operator's decision: ``soft`` lets it in, ``hard`` refuses it for now, with an answer on
which osquery keeps its logs and its node key.
"""

from __future__ import annotations

import random
import secrets
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore, TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from osqtwist.identity import CertificateIdentity
from osqtwist.metrics import Metrics
from osqtwist.ocspanswer import Answer, BadAnswer, Issuer, Question, read_answer, responders_of
from osqtwist.ocspclient import NoAnswer

OcspMode = Literal["off", "soft", "hard"]

DEADLINE = 4.0
"""Seconds that a request waits for an answer, of the 16 that osquery waits for everything (tls.cpp)."""
MOST_AT_ONCE = 16
"""Requests to responders under way at one time."""
MOST_KNOWN = 100_000
"""Certificates whose answers are kept, some 700 bytes each; the one asked about longest ago makes room."""
LONGEST_AGE = 3600.0
"""Seconds after which an answer is asked for again though it is good for longer."""
AGAIN_AFTER = 30.0
"""Seconds after which a certificate without an answer is asked about again."""
TIRED_AFTER = 3
"""Failures in a row after which a responder is left alone, for :data:`REST` seconds."""
REST = 15.0
_SAID_EVERY = 60.0


class Unchecked(Exception):
    """Nobody says whether a certificate is good, and then it is to be refused for now."""


class Client(Protocol):
    """Posts requests to responders."""

    async def post(self, url: str, body: bytes) -> bytes:
        """
        What a responder answers.

        :raise NoAnswer: nothing that could be an answer.
        """


@attrs.define(eq=False)
class _Known:
    """What is known of a certificate; it is good without a further look up to :attr:`good_until`."""

    question: Question | None
    name: str
    answer: Answer | None = None
    good_until: float = 0.0
    look_at: float = 0.0
    is_asking: bool = False
    waiting: list[Deferred[None]] = attrs.field(factory=list)


@attrs.define
class _Health:
    """How a responder does."""

    failures: int = 0
    rests_until: float = 0.0

    def failed(self, now: float) -> None:
        self.failures += 1
        if self.failures >= TIRED_AFTER:
            self.rests_until = now + REST


class Responders(Service):
    """
    What issuers say of certificates.

    :param mode: ``soft`` or ``hard``.
    :param url: of the responder for every certificate; if not given, each certificate names its own.
    :ivar on_revoked: called when a certificate turns out to be revoked: whoever is connected with it should be put out.
    """

    on_revoked: Callable[[], object] = staticmethod(lambda: None)
    _log = Logger()

    def __init__(self, clock: IReactorTime, client: Client, mode: OcspMode, url: str, metrics: Metrics) -> None:
        self.mode = mode
        self._clock = clock
        self._client = client
        self._url = url
        self._metrics = metrics
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._issuers: dict[bytes, Issuer] = {}
        self._health: dict[str, _Health] = {}
        self._slots = DeferredSemaphore(MOST_AT_ONCE)
        self._asking: set[Deferred[Any]] = set()
        self._unsaid = 0
        self._said_at = -_SAID_EVERY

    def stopService(self) -> None:
        """Ask no more; whoever waits is told that there is no answer."""
        super().stopService()
        for asking in list(self._asking):
            asking.cancel()

    def is_good(self, fingerprint: str) -> bool:
        """Whether a certificate is known to be good and nobody has to be asked; this is what most requests cost."""
        known = self._known.get(fingerprint)
        return known is not None and self._clock.seconds() < known.good_until

    def is_revoked(self, fingerprint: str) -> bool:
        """Whether the last answer was that a certificate is revoked; it stays so until there is another."""
        known = self._known.get(fingerprint)
        return known is not None and known.answer is not None and known.answer.status == "revoked"

    async def check(self, certificate: CertificateIdentity, chain: Callable[[], Sequence[x509.Certificate]]) -> None:
        """
        Make sure that all is known of a certificate that there is to know; waits for it :data:`DEADLINE` at most.

        :param chain: the certificate and those above it.
        :raise Unchecked: nobody says anything, and the mode is ``hard``.
        """
        known = self._known.get(certificate.fingerprint)
        if known is None:
            known = self._known[certificate.fingerprint] = _Known(
                self._question(chain()), f"{certificate.serial} of {certificate.issuer}"
            )
            if len(self._known) > MOST_KNOWN:
                self._known.popitem(last=False)
        self._known.move_to_end(certificate.fingerprint)
        now = self._clock.seconds()
        if now >= known.look_at:
            self._ask(known)
            if known.is_asking and not _is_valid(known.answer, now):
                waiting: Deferred[None] = Deferred()
                known.waiting.append(waiting)
                await waiting
                now = self._clock.seconds()
        if not _is_valid(known.answer, now):
            self._without_answer(known)

    def _question(self, chain: Sequence[x509.Certificate]) -> Question | None:
        """What to ask about a certificate, and whom; nothing if there is nobody."""
        if len(chain) < 2:
            return None
        urls = [self._url] if self._url else responders_of(chain[0])
        if not urls:
            return None
        key = chain[1].fingerprint(hashes.SHA256())
        issuer = self._issuers.get(key)
        if issuer is None:
            issuer = self._issuers[key] = Issuer.of(chain[1])
        return Question(chain[0].serial_number, issuer, urls[0])

    def _ask(self, known: _Known) -> None:
        """Begin to ask, unless that is under way."""
        if known.is_asking or not self.running:
            return
        known.is_asking = True
        nonce, began = secrets.token_bytes(16), self._clock.seconds()
        asking = Deferred.fromCoroutine(self._fetch(known.question, nonce))
        asking.addTimeout(DEADLINE, self._clock)
        self._asking.add(asking)
        asking.addBoth(self._has_asked, known, asking, began)

    async def _fetch(self, question: Question | None, nonce: bytes) -> Answer:
        if question is None:
            raise NoAnswer("the certificate names no http: responder, and there is no --ocsp-url")
        health = self._health.setdefault(question.url, _Health())
        slot = await self._slots.acquire()
        try:
            if self._clock.seconds() < health.rests_until:
                raise NoAnswer(f"{question.url} gave no answer lately, and is left alone for a while")
            try:
                encoded = await self._client.post(question.url, question.encoded(nonce))
            except (NoAnswer, CancelledError) as problem:
                health.failed(self._clock.seconds())
                raise NoAnswer(f"{question.url}: {problem}") from None
            health.failures, health.rests_until = 0, 0.0
            try:
                return read_answer(encoded, question, nonce, self._clock.seconds())
            except BadAnswer as problem:
                raise NoAnswer(f"{question.url}: {problem}") from None
        finally:
            slot.release()

    def _has_asked(self, result: Answer | Failure, known: _Known, asking: Deferred[Any], began: float) -> None:
        self._asking.discard(asking)
        known.is_asking = False
        now = self._clock.seconds()
        url = known.question.url if known.question else ""
        if isinstance(result, Answer):
            self._metrics.certificates.ocsp_answers.labels(answer=result.status).inc()
            self._take(known, result)
            if result.status == "unknown":
                self._say(f"{url}: it does not know certificate {known.name}")
        else:
            self._metrics.certificates.ocsp_answers.labels(answer="none").inc()
            known.look_at = now + AGAIN_AFTER
            if not result.check(NoAnswer, TimeoutError):
                self._log.failure("OCSP failed", result)
            # The client has many names for a cancellation.
            self._say(f"{url}: no answer in {DEADLINE:g} s" if now - began >= DEADLINE else str(result.value))
        waiting, known.waiting = known.waiting, []
        for each in waiting:
            if not each.called:
                each.callback(None)

    def _take(self, known: _Known, answer: Answer) -> None:
        """Keep an answer, and note until when it needs no second look."""
        now, before = self._clock.seconds(), known.answer
        was_revoked = before is not None and before.status == "revoked"
        if before is not None and was_revoked and (answer.status == "unknown" or answer.said_at < before.said_at):
            # It knew it once; or somebody plays an answer of before, or a mirror is behind.
            known.look_at = now + AGAIN_AFTER
            return
        # Not all at once, and in good time: with a fifth of it left to try.
        share = random.uniform(0.7, 0.8)  # noqa: S311
        longest = LONGEST_AGE if answer.status == "good" else AGAIN_AFTER * 2
        known.look_at = now + min((answer.valid_until - now) * share, longest * (share + 0.2))
        known.good_until = known.look_at if answer.status == "good" else 0.0
        known.answer = answer
        if answer.status == "revoked" and not was_revoked:
            self._log.warn(
                "OCSP: certificate {name} is revoked{why}",
                name=known.name,
                why=f" ({answer.reason})" if answer.reason else "",
            )
            self.on_revoked()

    def _without_answer(self, known: _Known) -> None:
        """
        Let a certificate in, or not, of which nobody says anything.

        :raise Unchecked: not.
        """
        is_refused = self.mode == "hard"
        self._metrics.certificates.ocsp_unchecked.labels(result="refused" if is_refused else "let_in").inc()
        self._unsaid += 1
        if is_refused:
            raise Unchecked("nobody says whether this certificate is still good; try again")

    def _say(self, problem: str) -> None:
        now = self._clock.seconds()
        if not self.running or now - self._said_at < _SAID_EVERY:
            return
        self._said_at = now
        unsaid, self._unsaid = self._unsaid, 0
        self._log.warn(
            "OCSP: {problem}; certificates without an answer are {fate}, {unsaid} requests since the last such line",
            problem=problem,
            fate="let in" if self.mode == "soft" else "refused for now",
            unsaid=unsaid,
        )


def _is_valid(answer: Answer | None, now: float) -> bool:
    """Whether an answer says something now: good until its end, revoked for ever, unknown nothing."""
    if answer is None or answer.status == "unknown":
        return False
    return answer.status == "revoked" or now < answer.valid_until
