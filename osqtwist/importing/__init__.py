"""
Configurations of osquery itself and of other servers, made into layers and packs of ours.

Nothing is dropped in silence: a reader accounts for every key it meets, and what has no counterpart is noted with its
file and its line or name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from osqtwist.importing import doorman, fleet, osquery, zentral
from osqtwist.importing.draft import Draft
from osqtwist.importing.sources import Sources

READERS: Mapping[str, Callable[[Sources, Draft], None]] = {
    "osquery": osquery.read,
    "fleet": fleet.read,
    "doorman": doorman.read,
    "zentral": zentral.read,
}
"""What can be imported, and what reads it."""


def draft_of(kind: str, sources: Sources) -> Draft:
    """The folder that some files of this kind make."""
    draft = Draft(kind)
    READERS[kind](sources, draft)
    draft.settle()
    return draft
