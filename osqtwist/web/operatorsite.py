"""The site of operators: as bounded as that of nodes, and refusing in words of the operators' API."""

from __future__ import annotations

from http import HTTPStatus

import msgspec

from osqtwist.web.problems import PROBLEM_JSON, problem
from osqtwist.web.site import NodeSite


class OperatorSite(NodeSite):
    """See :class:`osqtwist.web.site.NodeSite`."""

    def refused(self, code: int, text: str, path: bytes) -> tuple[str, bytes]:
        """As problem details, which the OpenAPI document says of whatever is refused."""
        return PROBLEM_JSON, msgspec.json.encode(problem(HTTPStatus(code), text)) + b"\n"
