"""Operations about results of distributed queries."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Annotated

import attrs
import msgspec

from osqtwist.interfaces import StoreUnavailable
from osqtwist.liveresults import Line, LiveResults, ResultsEnd, ResultsPage
from osqtwist.operator import Role
from osqtwist.resultexport import MEDIA, ExportFormat, ResultLine
from osqtwist.web.operations import NDJSON, Call, Limit, Operation
from osqtwist.web.pacing import PacedAnswer
from osqtwist.wire import MalformedRequest

EVENTS = "text/event-stream"
_ResultId = Annotated[str, msgspec.Meta(pattern=r"^([0-9]{1,20}(-[0-9]{1,20})?)?$")]


class ResultsQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Which results, and how."""

    follow: Annotated[bool, msgspec.Meta(description="1: also those that come, until none will")] = False
    after: Annotated[_ResultId, msgspec.Meta(description="the id of the result after which to begin")] = ""
    format: Annotated[ExportFormat, msgspec.Meta(description="as a file")] = "ndjson"


class ResultsPageWanted(msgspec.Struct, forbid_unknown_fields=True):
    """Which results."""

    after: Annotated[_ResultId, msgspec.Meta(description="the id of the result after which to begin")] = ""
    limit: Limit = 100


@attrs.frozen
class ResultOperations:
    """Results: so far, as they come, as files."""

    results: LiveResults

    def operations(self) -> Sequence[Operation]:
        """See :class:`osqtwist.web.operations.OperationGroup`."""
        path = "/api/v1/queries/{query}/results"
        lines = (ResultLine, ResultsEnd)
        others = (EVENTS, *(media for media in MEDIA.values() if media != NDJSON))
        return (
            Operation(
                "GET",
                path,
                self.read,
                Role.VIEWER,
                query=ResultsQuery,
                media=NDJSON,
                lines=lines,
                more_media=others,
            ),
            Operation("GET", f"{path}/page", self.page, Role.VIEWER, query=ResultsPageWanted),
        )

    async def page(self, call: Call) -> ResultsPage:
        """Some of its results so far; go on with `after`."""
        return await self.results.page(call.path["query"], call.query.after, call.query.limit)

    async def read(self, call: Call) -> None:
        """
        Its results so far; `follow=1`: those that come too, as events if `text/event-stream` is accepted; `format=csv`.

        A line, or event, that says nothing comes every 15 s.
        """
        await self.results.query(call.path["query"])
        if EVENTS in (call.request.getHeader("Accept") or ""):
            await self._events(call)
        elif call.query.follow:
            await self._lines(call)
        else:
            await self._file(call)

    async def _file(self, call: Call) -> None:
        query_id, form = call.path["query"], call.query.format
        call.set_header("Content-Type", MEDIA[form])
        if form != "ndjson":
            call.set_header("Content-Disposition", f'attachment; filename="{query_id}.{form}"')
        with PacedAnswer(self.results.clock, call.request) as answer:
            try:
                await self.results.export(query_id, form, answer.write, call.query.after)
            except StoreUnavailable:
                if form != "ndjson" and call.request.startedWriting:
                    await answer.break_off()
                raise

    async def _lines(self, call: Call) -> None:
        with PacedAnswer(self.results.clock, call.request) as answer:

            async def emit(line: Line) -> None:
                await answer.write(b"\n" if line["type"] == "beat" else msgspec.json.encode(line) + b"\n")

            call.set_header("Content-Type", NDJSON)
            await self.results.follow(call.path["query"], emit, call.query.after)

    async def _events(self, call: Call) -> None:
        after = call.query.after
        if last := call.request.getHeader("Last-Event-ID"):
            try:
                after = msgspec.convert(last, _ResultId)
            except msgspec.ValidationError:
                raise MalformedRequest("Last-Event-ID is not the id of a result") from None
        if after and await self.results.is_settled(call.path["query"], after):
            # What ends an EventSource, which comes again whenever an answer ends.
            call.request.setResponseCode(HTTPStatus.NO_CONTENT)
            return
        with PacedAnswer(self.results.clock, call.request) as answer:

            async def emit(line: Line) -> None:
                if line["type"] == "beat":
                    await answer.write(b": beat\n\n")
                    return
                head = f"event: {line['type']}\n" + (f"id: {line['id']}\n" if line["type"] == "result" else "")
                await answer.write(head.encode() + b"data: " + msgspec.json.encode(line) + b"\n\n")

            call.set_header("Content-Type", EVENTS)
            call.set_header("Cache-Control", "no-store")
            call.set_header("X-Accel-Buffering", "no")
            await answer.write(b": results\n\n")
            await self.results.follow(call.path["query"], emit, after)
