"""
Operations of the operators' API: declared once, served, authorized and documented from the same declaration.

A group of operations is a class whose ``operations()`` lists them.  The work of each is a coroutine method that takes
a :class:`Call`, whose parameters are decoded and checked by then, and answers with what becomes the JSON.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, Protocol, TypedDict, TypeVar, get_type_hints

import attrs
import msgspec
from twisted.web.server import Request

from osqtwist.operator import Actor, Role
from osqtwist.wire import MalformedRequest

NDJSON = "application/x-ndjson"
JSON = "application/json"
MOST_AT_ONCE = 1000

Row = TypeVar("Row")

Limit = Annotated[int, msgspec.Meta(ge=1, le=MOST_AT_ONCE, description="how many at most")]
Offset = Annotated[int, msgspec.Meta(ge=0, le=10**9, description="where to go on: next_offset of the page before")]


class Nothing(msgspec.Struct, forbid_unknown_fields=True):
    """No parameters."""


class Page(msgspec.Struct, forbid_unknown_fields=True):
    """Which part of a list."""

    limit: Limit = 100
    offset: Offset = 0


class BrokenOff(TypedDict):
    """The last line of an answer of JSON lines that could not be given whole."""

    type: Literal["error"]
    error: str


@attrs.define
class Call:
    """
    One call of an operation.

    :ivar request: over HTTP; nothing where a page asks, which takes answers of JSON only.
    :ivar path: what stands for each name in the path.
    :ivar query: the parameters, as the operation's query type.
    :ivar body: the body, as its body type.
    """

    request: Any
    actor: Actor
    path: Mapping[str, str]
    query: Any
    body: Any

    def emit(self, line: Any) -> None:
        """Write one line of an answer of JSON lines."""
        if not self.request.startedWriting:
            self.request.setHeader(b"Content-Type", NDJSON.encode())
        self.request.write(msgspec.json.encode(line) + b"\n")

    def set_header(self, name: str, value: str) -> None:
        """Set a header of the answer."""
        self.request.setHeader(name.encode(), value.encode())


@attrs.frozen
class Operation:
    """
    One thing that operators can have done.

    :ivar path: with ``{name}`` for what varies; a node's name may have slashes, others not.
    :ivar work: its first sentence is the summary, and what it answers with the type of the JSON.
    :ivar role: who may, at least; ``None`` for everybody, known or not.
    :ivar media: of the answer; :attr:`lines` are the types of its lines, where that is :data:`NDJSON`.
    :ivar more_media: other types that it answers with if it is asked to.
    :ivar has_secret: whether body or answer have secrets in them: neither is noted anywhere.
    :ivar only_asks: whether it changes nothing, though it is a POST: what is asked stands in the body.
    """

    method: Literal["GET", "POST"]
    path: str
    work: Callable[[Call], Awaitable[Any]]
    role: Role | None
    query: type[msgspec.Struct] = Nothing
    body: type[msgspec.Struct] = Nothing
    code: int = 200
    media: str = JSON
    lines: tuple[Any, ...] = ()
    more_media: tuple[str, ...] = ()
    has_secret: bool = False
    only_asks: bool = False

    @property
    def name(self) -> str:
        """Unique among all."""
        return f"{self.group}.{self.work.__name__}"

    @property
    def group(self) -> str:
        """What it is about: the first part of its path."""
        return self.path.removeprefix("/api/v1/").strip("/").split("/")[0]

    @property
    def summary(self) -> str:
        """What it does, in a line."""
        return (self.work.__doc__ or "").strip().split("\n\n")[0].replace("\n", " ")

    @property
    def answers(self) -> tuple[Any, ...]:
        """The types of what it answers: one of them, or lines of them; none for what is no JSON."""
        if self.media == JSON:
            return (get_type_hints(self.work, include_extras=True)["return"],)
        return (*self.lines, BrokenOff) if self.media == NDJSON else ()

    @property
    def is_change(self) -> bool:
        """Whether it changes anything: then it is noted before it is done."""
        return self.method == "POST" and not self.only_asks

    @property
    def names(self) -> list[str]:
        """What varies in the path."""
        return re.findall(r"\{(\w+)\}", self.path)

    def query_of(self, texts: Mapping[str, Sequence[str]]) -> Any:
        """
        The parameters, of the texts that stand for each.

        :raise MalformedRequest: they are not what the operation takes.
        """
        fields = {field.name: field for field in msgspec.structs.fields(self.query)}
        values: dict[str, Any] = {}
        for name, said in texts.items():
            field = fields.get(name)
            many = field is not None and getattr(field.type, "__origin__", None) in (tuple, list)
            if len(said) > 1 and not many:
                raise MalformedRequest(f"the parameter {name[:64]!r} stands there more than once")
            values[name] = said if many else said[0]
        try:
            return msgspec.convert(values, self.query, strict=False)
        except msgspec.ValidationError as problem:
            raise MalformedRequest(f"the parameters are not as they should be: {problem}") from None

    def body_of(self, text: bytes) -> Any:
        """
        The body, of its JSON.

        :raise MalformedRequest: it is not what the operation takes.
        """
        try:
            return msgspec.json.decode(text or b"{}", type=self.body)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as problem:
            raise MalformedRequest(f"the body is not as it should be: {problem}") from None


def body_of(request: Request) -> bytes:
    """The body as it came."""
    content: Any = request.content
    return bytes(content.getvalue())


class OperationGroup(Protocol):
    """Operations about one thing."""

    def operations(self) -> Sequence[Operation]:
        """All of them."""


def page_of(rows: Sequence[Row], page: Page) -> tuple[list[Row], int | None]:
    """
    A page of a list, and where to go on; nothing at the end.

    :param rows: from the first one on, up to the one after the page at least, if there is one.
    """
    end = page.offset + page.limit
    return list(rows[page.offset : end]), end if len(rows) > end else None


def arguments_of(request: Request) -> dict[str, list[str]]:
    """
    What the URL of a request says after its question mark.

    :raise MalformedRequest: it is not UTF-8.
    """
    try:
        return {
            name.decode("utf-8"): [value.decode("utf-8") for value in values]
            for name, values in (request.args or {}).items()
        }
    except UnicodeDecodeError:
        raise MalformedRequest("the parameters are not UTF-8") from None
