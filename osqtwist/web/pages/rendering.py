"""From a template to HTML: everything is escaped, a name that is not there is an error."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from osqtwist.web.pages.assets import Assets
from osqtwist.web.pages.units import ago, amount, moment, size, span
from osqtwist.web.pages.visible import cell, lines

FOLDER = Path(__file__).parent / "templates"


@attrs.frozen
class Rendering:
    """Renders templates."""

    environment: Environment

    @classmethod
    def of(cls, assets: Assets, clock: Callable[[], float] = time.time) -> Rendering:
        """
        The templates of the package.

        :param clock: what time it is.
        """
        environment = Environment(
            loader=FileSystemLoader(FOLDER),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        environment.globals["static"] = assets.url
        environment.filters["ago"] = lambda value: ago(value, clock())
        environment.filters["moment"] = moment
        environment.filters["size"] = size
        environment.filters["amount"] = amount
        environment.filters["span"] = span
        environment.filters["cell"] = cell
        environment.filters["lines"] = lines
        return cls(environment)

    def render(self, template: str, values: Mapping[str, Any]) -> bytes:
        """The HTML, in UTF-8."""
        # What nodes say may have halves of surrogates in it, which UTF-8 cannot say.
        return self.environment.get_template(template).render(values).encode("utf-8", "replace")

    def part(self, template: str, values: Mapping[str, Any]) -> Markup:
        """A piece of HTML for a template that has room for one."""
        return Markup(self.environment.get_template(template).render(values))  # noqa: S704 - it is escaped in there
