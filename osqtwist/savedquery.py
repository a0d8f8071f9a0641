"""Queries that operators keep under a name, to be asked again."""

from __future__ import annotations

import re

import msgspec

from osqtwist.targeting import Target

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


class SavedQuery(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    One of them.

    :ivar name: of :data:`NAME_PATTERN`, in one spelling of upper and lower case.
    :ivar description: for people.
    :ivar target: whom it is meant for, unless somebody says otherwise.
    :ivar saved_at: Unix time of the last change, which :attr:`saved_by` made.
    """

    name: str
    sql: str
    description: str = ""
    discovery: str = ""
    target: Target = Target()
    saved_by: str = ""
    saved_at: float = 0.0
