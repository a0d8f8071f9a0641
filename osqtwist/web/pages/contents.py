"""Every page there is, in the order of the navigation."""

from __future__ import annotations

from collections.abc import Sequence

from osqtwist.web.pages import (
    alerts,
    audit,
    carves,
    certificates,
    configuration,
    fleet,
    logs,
    node,
    nodes,
    queries,
    secrets,
    sinks,
    tokens,
)
from osqtwist.web.pages.page import Action, Page

CONTENTS: Sequence[Page | Action] = (
    *fleet.PAGES,
    *nodes.PAGES,
    *node.PAGES,
    *queries.PAGES,
    *configuration.PAGES,
    *logs.PAGES,
    *sinks.PAGES,
    *alerts.PAGES,
    *secrets.PAGES,
    *certificates.PAGES,
    *tokens.PAGES,
    *carves.PAGES,
    *audit.PAGES,
)
