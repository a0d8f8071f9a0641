"""Saved queries for people: kept, looked up, forgotten."""

from __future__ import annotations

from typing import TypedDict

import attrs
import msgspec
from twisted.internet.interfaces import IReactorTime

from osqtwist.interfaces import NoSuchThing
from osqtwist.livequery import refuse_bad_sql
from osqtwist.savedquery import SavedQuery
from osqtwist.savedqueryinterfaces import MOST_SAVED, ISavedQueryStore, Kept
from osqtwist.targeting import Target


class SavedRow(TypedDict):
    """A query that operators keep, and who changed it last."""

    name: str
    sql: str
    description: str
    discovery: str
    target: Target
    saved_by: str
    saved_at: float


class SavedForgotten(TypedDict):
    """That it is."""

    name: str
    forgotten: bool


class NotSaved(Exception):
    """A query cannot be kept: its name is taken, or there are too many; says which."""


@attrs.frozen
class SavedQueries:
    """Queries that operators share, by name."""

    clock: IReactorTime
    store: ISavedQueryStore

    async def rows(self) -> list[SavedRow]:
        """All of them, by name, ready to be JSON."""
        return [_row(saved) for saved in await self.store.all()]

    async def row(self, name: str) -> SavedRow:
        """
        One of them.

        :raise NoSuchThing: there is none of that name.
        """
        saved: SavedQuery | None = await self.store.get(name)
        if saved is None:
            raise _none(name)
        return _row(saved)

    async def save(self, saved: SavedQuery, by: str, *, replace: bool, check: bool = True) -> SavedRow:
        """
        Keep a query under its name.

        :raise BadQuery: no node could run it.
        :raise NotSaved: there is one of that name and it is not to be replaced, or there are too many.
        """
        if check:
            refuse_bad_sql(saved.target, *filter(None, (saved.sql, saved.discovery)))
        saved = msgspec.structs.replace(saved, saved_by=by, saved_at=round(self.clock.seconds(), 3))
        match await self.store.keep(saved, replace):
            case Kept.TAKEN:
                raise NotSaved(f"there is a saved query {saved.name!r}; say so if it is to be replaced")
            case Kept.FULL:
                raise NotSaved(f"there are {MOST_SAVED} saved queries; forget some")
        return _row(saved)

    async def forget(self, name: str) -> SavedForgotten:
        """
        Keep a query no more.

        :raise NoSuchThing: there is none of that name.
        """
        if not await self.store.forget(name):
            raise _none(name)
        return {"name": name, "forgotten": True}


def _none(name: str) -> NoSuchThing:
    return NoSuchThing(f"there is no saved query {name[:100]!r}")


def _row(saved: SavedQuery) -> SavedRow:
    return {
        "name": saved.name,
        "sql": saved.sql,
        "description": saved.description,
        "discovery": saved.discovery,
        "target": saved.target,
        "saved_by": saved.saved_by,
        "saved_at": saved.saved_at,
    }
