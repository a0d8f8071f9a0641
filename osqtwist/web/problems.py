"""What operators are told when something cannot be done: problem details, as in RFC 9457."""

from __future__ import annotations

from http import HTTPStatus

import msgspec

from osqtwist.access import BadToken
from osqtwist.denial import BadDenial
from osqtwist.interfaces import NoSuchThing, StoreFull, StoreUnavailable
from osqtwist.inventory import BadTag
from osqtwist.livequery import BadQuery
from osqtwist.nodechanges import BadChange
from osqtwist.operator import NotAllowed, NotKnown
from osqtwist.query import NotWaiting, OwnQuery
from osqtwist.rollout import BadRollout
from osqtwist.savedqueries import NotSaved
from osqtwist.secretbook import BadSecret
from osqtwist.signingkeys import BadKeyChange
from osqtwist.targeting import BadTarget
from osqtwist.web.repeats import KeyReused, StillUnderWay
from osqtwist.web.workers import NotReplaced
from osqtwist.wire import MalformedRequest

PROBLEM_JSON = "application/problem+json"


class Problem(msgspec.Struct):
    """
    Why something was not done.

    :ivar type: what kind of problem it is, a word that stays the same.
    :ivar title: the same for people.
    :ivar detail: what exactly is wrong.
    """

    type: str
    title: str
    status: int
    detail: str


# The first that fits counts.
_CODES: tuple[tuple[type[Exception], HTTPStatus], ...] = (
    (NotKnown, HTTPStatus.UNAUTHORIZED),
    (NotAllowed, HTTPStatus.FORBIDDEN),
    (NoSuchThing, HTTPStatus.NOT_FOUND),
    (MalformedRequest, HTTPStatus.BAD_REQUEST),
    (BadTarget, HTTPStatus.BAD_REQUEST),
    (BadTag, HTTPStatus.BAD_REQUEST),
    (BadQuery, HTTPStatus.BAD_REQUEST),
    (BadSecret, HTTPStatus.BAD_REQUEST),
    (BadToken, HTTPStatus.BAD_REQUEST),
    (BadDenial, HTTPStatus.BAD_REQUEST),
    (KeyReused, HTTPStatus.UNPROCESSABLE_ENTITY),
    (StillUnderWay, HTTPStatus.CONFLICT),
    (OwnQuery, HTTPStatus.FORBIDDEN),
    (NotWaiting, HTTPStatus.CONFLICT),
    (NotReplaced, HTTPStatus.CONFLICT),
    (BadChange, HTTPStatus.CONFLICT),
    (BadKeyChange, HTTPStatus.CONFLICT),
    (BadRollout, HTTPStatus.CONFLICT),
    (NotSaved, HTTPStatus.CONFLICT),
    (StoreUnavailable, HTTPStatus.SERVICE_UNAVAILABLE),
    (StoreFull, HTTPStatus.SERVICE_UNAVAILABLE),
)


def problem_of(failure: Exception) -> Problem | None:
    """What to say of a failure; ``None`` if nobody expected it."""
    for kind, status in _CODES:
        if isinstance(failure, kind):
            return problem(status, str(failure))
    return None


def problem(status: HTTPStatus, detail: str) -> Problem:
    """A problem with a status of HTTP."""
    return Problem(status.name.lower().replace("_", "-"), status.phrase, int(status), detail)
