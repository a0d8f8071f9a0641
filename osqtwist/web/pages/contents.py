"""Every page there is, in the order of the navigation."""

from __future__ import annotations

from collections.abc import Sequence

from osqtwist.web.pages import nodes
from osqtwist.web.pages.page import Action, Page

CONTENTS: Sequence[Page | Action] = (*nodes.PAGES,)
