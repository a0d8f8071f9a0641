"""Tells twisted.plugin of the sink."""

from twisted.plugin import IPlugin
from zope.interface import classImplements

from osqtwist_sqlite import SQLiteKind

classImplements(SQLiteKind, IPlugin)

sqlite_kind = SQLiteKind()
