"""What a page is made of: a visit, and what it is answered with."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

import attrs

from osqtwist.operator import Actor
from osqtwist.session import change_token_of
from osqtwist.web.admin import AdminAPI
from osqtwist.wire import MalformedRequest


@attrs.frozen
class Visit:
    """
    One request of a browser that is signed in.

    :ivar path: what stands for each name in the path; :attr:`here` is path and query as a link to the same page.
    :ivar query: what stands after the question mark; of a form :attr:`form`.
    :ivar session: the text of the session.
    """

    api: AdminAPI
    actor: Actor
    session: str = attrs.field(repr=False)
    here: str
    path: Mapping[str, str]
    query: Mapping[str, Sequence[str]]
    form: Mapping[str, Sequence[str]] = {}

    async def ask(self, operation: str, path: Mapping[str, str] = {}, body: Any = None, **query: Any) -> Any:
        """
        Have an operation done, as whoever looks; answers with what its JSON says.

        :param query: its parameters; lists for those that can be given more than once.
        :raise Exception: whatever the operation raises; the browser is told in the API's words.
        """
        said = {
            name: [str(each) for each in value] if isinstance(value, (list, tuple)) else [_text(value)]
            for name, value in query.items()
        }
        return await self.api.ask(self.actor, operation, path, said, body)

    def may(self, operation: str) -> bool:
        """Whether whoever looks may have an operation done."""
        found = self.api.named[operation]
        if found.role is None:
            return True
        return self.actor.role >= found.role and (not self.actor.groups or found.group in self.actor.groups)

    def asked(self, name: str, default: str = "") -> str:
        """A parameter of the page."""
        return (self.query.get(name) or [default])[0]

    def number(self, name: str, default: int = 0, most: int = 10**9) -> int:
        """The same, as a number from 0 to ``most``; what is none counts as the default."""
        text = self.asked(name)
        return min(int(text), most) if text.isascii() and text.isdecimal() and len(text) < 12 else default

    def filled(self, name: str, default: str = "") -> str:
        """A field of the form, without blanks around it."""
        return (self.form.get(name) or [default])[0].strip()

    def words(self, name: str) -> list[str]:
        """A field of the form as words, between which there may be blanks, commas and line ends."""
        return self.filled(name).replace(",", " ").split()

    def seconds(self, name: str, unit: float = 86400.0) -> float:
        """
        A field of the form as seconds, of a number in another unit; 0 where there is none.

        :raise MalformedRequest: it is no such number.
        """
        text = self.filled(name)
        try:
            found = float(text or 0) * unit
        except ValueError:
            found = math.nan
        if not 0 <= found < math.inf:
            raise MalformedRequest(f"{text[:40]!r} is not a number")
        return found

    def url(self, path: str = "", **query: Any) -> str:
        """This page, or another, with these parameters; those that say nothing are left out."""
        words = urlencode({name: value for name, value in query.items() if value not in (None, "", False)})
        return (path or self.here.partition("?")[0]) + (f"?{words}" if words else "")

    @property
    def now(self) -> float:
        """The time, by the server's clock."""
        return self.api.trail.clock.seconds()

    @property
    def change_token(self) -> str:
        """What shows that a form is ours."""
        return change_token_of(self.session)


@attrs.frozen
class Shown:
    """A page, made of a template and what that asks for."""

    template: str
    values: Mapping[str, Any] = {}
    code: int = 200


@attrs.frozen
class Done:
    """
    Something was done.

    :ivar said: is shown on the page where the browser goes next.
    :ivar where: a path of ours; empty for where it came from.
    :ivar is_bad: it was not done, and :attr:`said` is why.
    """

    said: str
    where: str = ""
    is_bad: bool = False


@attrs.frozen
class Page:
    """
    A page.

    :ivar path: with ``{name}`` for what varies, as in :class:`osqtwist.web.operations.Operation`.
    :ivar needs: operations that whoever looks must be allowed to call.
    :ivar nav: how it is called in the navigation; empty for a page that is not in there.
    """

    path: str
    show: Callable[[Visit], Awaitable[Shown]]
    needs: Sequence[str] = ()
    nav: str = ""


@attrs.frozen
class Action:
    """
    What a form posts to.

    :ivar do: answers with what was done; with a page only if that shows what must not be kept anywhere, as a secret.
    """

    path: str
    do: Callable[[Visit], Awaitable[Done | Shown]]


def _text(value: Any) -> str:
    return "true" if value is True else "false" if value is False else str(value)
