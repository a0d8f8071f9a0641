"""Results of distributed queries for people: as they come, afterwards, as files, and what they cost."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Literal, TypedDict

import attrs
import msgspec
from twisted.internet.interfaces import IReactorTime

from osqtwist.interfaces import IStores, NoSuchThing, StoredResult
from osqtwist.lookagain import LookAgain
from osqtwist.query import DistributedQuery, QueryProgress, QueryState
from osqtwist.resultexport import ExportFormat, ResultLine, columns_of, csv_head, csv_lines, result_line

BEAT = 15.0
"""Seconds without a result after which whoever follows a query gets a sign of life."""
_FIRST_PAGE, _LARGEST_PAGE, _PAGE_BYTES = 8, 256, 2**20
_MOST_PAGE_BYTES = 4 * 2**20


class Beat(TypedDict):
    """A sign of life."""

    type: Literal["beat"]


class ResultsEnd(TypedDict):
    """That no result will come any more, and how many nodes answered."""

    type: Literal["end"]
    state: QueryState | Literal["deleted"]
    answered: int


class ResultsPage(TypedDict):
    """Some results, in the order in which they came; `next_after` is the id to go on from, nothing at the end."""

    results: list[ResultLine]
    next_after: str | None


Line = ResultLine | Beat | ResultsEnd
Emit = Callable[[Line], Awaitable[None]]
"""Hands a line on; fires when the reader can take the next."""
Write = Callable[[bytes], Awaitable[None]]
"""The same for bytes."""


@attrs.frozen
class LiveResults:
    """
    What nodes answered.

    Results are read from the store some at a time, a megabyte or so, and the next only when the reader has taken those.
    """

    clock: IReactorTime
    stores: IStores

    async def follow(self, query_id: str, emit: Emit, after: str = "") -> None:
        """
        Hand on the results that are in and those that come, until none will.

        That is when the query is over and everybody who took it has answered, or had the time to.  Emits ``result``
        for each, ``beat`` when nothing came for a while, and ``end``.

        :raise NoSuchThing: there is no such query.
        """
        look = LookAgain(self.clock)
        forgets = [
            self.stores.signals.subscribe(topic, lambda payload: look.wake() if payload in ("", query_id) else None)
            for topic in ("results", "queries")
        ]
        try:
            await self.query(query_id)
            spoke_at = self.clock.seconds()
            while True:
                async for stored in self.stored(query_id, after):
                    after = stored.result_id
                    await emit(result_line(stored.result_id, stored.result))
                    spoke_at = self.clock.seconds()
                query = await self.stores.queries.get(query_id)
                progress = await self.stores.queries.progress(query_id)
                now = self.clock.seconds()
                if query is None or self._is_settled(query, progress, now):
                    # What came between the two looks.
                    async for stored in self.stored(query_id, after):
                        await emit(result_line(stored.result_id, stored.result))
                    state: QueryState | Literal["deleted"] = query.state(now) if query else "deleted"
                    await emit({"type": "end", "state": state, "answered": progress.answered})
                    return
                if now >= spoke_at + BEAT:
                    await emit({"type": "beat"})
                    spoke_at = now
                ends = [spoke_at + BEAT, query.expires_at if now < query.expires_at else now + query.lease]
                await look.wait(max(0.01, min(ends) - now))
        finally:
            for forget in forgets:
                forget()

    async def export(self, query_id: str, form: ExportFormat, write: Write, after: str = "") -> None:
        """
        Write the results that are in as a file.

        CSV has no rows of nodes whose answer was an error.

        :param after: the id of the result after which to begin; CSV is always whole.
        :raise NoSuchThing: there is no such query.
        """
        await self.query(query_id)
        if form == "csv":
            await self._export_csv(query_id, write)
            return
        is_array, count = form == "json", 0
        async for stored in self.stored(query_id, after):
            line = msgspec.json.encode(result_line(stored.result_id, stored.result))
            await write((b"[\n" if not count else b",\n") + line if is_array else line + b"\n")
            count += 1
        if is_array:
            await write(b"\n]\n" if count else b"[]\n")

    async def _export_csv(self, query_id: str, write: Write) -> None:
        # Which columns there are is known when all rows were seen; results that come meanwhile are left out.
        columns: list[str] = []
        last = ""
        async for stored in self.stored(query_id):
            columns, last = columns_of([stored.result], columns), stored.result_id
        await write(csv_head(columns).encode())
        if not last:
            return
        async for stored in self.stored(query_id):
            if lines := csv_lines(stored.result, columns):
                await write(lines.encode())
            if stored.result_id == last:
                return

    async def page(self, query_id: str, after: str, most: int) -> ResultsPage:
        """
        Results that are in, those after a certain one: so many, or fewer if these are some megabytes.

        :raise NoSuchThing: there is no such query.
        """
        await self.query(query_id)
        found: list[ResultLine] = []
        size = 0
        async for stored in self.stored(query_id, after):
            if len(found) == most or size >= _MOST_PAGE_BYTES:
                return {"results": found, "next_after": found[-1]["id"]}
            found.append(result_line(stored.result_id, stored.result))
            size += len(stored.result.rows)
        return {"results": found, "next_after": None}

    async def query(self, query_id: str) -> DistributedQuery:
        """
        The query itself.

        :raise NoSuchThing: there is no such query.
        """
        query: DistributedQuery | None = await self.stores.queries.get(query_id)
        if query is None:
            raise NoSuchThing(f"there is no query {query_id!r}")
        return query

    async def is_settled(self, query_id: str, after: str) -> bool:
        """
        Whether no result will come after a certain one.

        :raise NoSuchThing: there is no such query.
        """
        query, progress = await self.query(query_id), await self.stores.queries.progress(query_id)
        is_all = not await self.stores.queries.results(query_id, after, 1)
        return is_all and self._is_settled(query, progress, self.clock.seconds())

    def _is_settled(self, query: DistributedQuery, progress: QueryProgress, now: float) -> bool:
        if not query.is_over(now):
            return False
        over_at = min(query.expires_at, query.cancelled_at or query.expires_at)
        return progress.answered >= progress.offered or now >= over_at + query.lease

    async def stored(self, query_id: str, after: str = "") -> AsyncIterator[StoredResult]:
        """The results that are in, those after a certain one: a megabyte or so at a time."""
        count = _FIRST_PAGE
        while page := await self.stores.queries.results(query_id, after, count):
            for stored in page:
                after = stored.result_id
                yield stored
            # As many as fit, if they are as large as those before.
            size = sum(len(stored.result.rows) for stored in page) // len(page)
            count = max(1, min(_LARGEST_PAGE, _PAGE_BYTES // (size + 1), 2 * count))
