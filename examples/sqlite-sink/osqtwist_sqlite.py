"""A log sink that keeps lines in a SQLite file, each once."""

import sqlite3
from contextlib import closing

import msgspec
from twisted.internet.threads import deferToThreadPool
from zope.interface import implementer

from osqtwist.sinkinterfaces import BadSinkSetting, ILogSink, ISinkKind, Outcome, SinkUnavailable


class SQLiteSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    path: str = ""


@implementer(ISinkKind)
class SQLiteKind:
    kind = "sqlite"
    settings = SQLiteSettings

    def make(self, reactor, name, settings):
        if not settings.path:
            raise BadSinkSetting('path is missing, as in path = "/var/lib/osquery/lines.sqlite"')
        return SQLiteSink(reactor, settings.path)


@implementer(ILogSink)
class SQLiteSink:
    def __init__(self, reactor, path):
        self.reactor = reactor
        self.path = path

    async def open(self):
        await self._insert([])

    async def deliver(self, events):
        await self._insert([(event.event_id, event.document.decode()) for event in events])
        return Outcome()

    async def close(self):
        pass

    async def _insert(self, rows):
        try:
            await deferToThreadPool(self.reactor, self.reactor.getThreadPool(), self._insert_now, rows)
        except sqlite3.Error as problem:
            raise SinkUnavailable(f"{self.path}: {problem}") from None

    def _insert_now(self, rows):
        with closing(sqlite3.connect(self.path, timeout=10)) as database, database:
            database.execute("create table if not exists lines (event_id text primary key, line text)")
            database.executemany("insert or ignore into lines values (?, ?)", rows)
