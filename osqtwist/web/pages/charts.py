"""Small charts of figures over time: lines of SVG made here, with words for whoever cannot see them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import attrs

from osqtwist.web.pages.units import span

WIDTH, HEIGHT = 600, 100
_ROOM = 4
"""What is left free above the highest point, in pixels."""

Points = Sequence[float | None]


@attrs.frozen
class Curve:
    """
    One line of a chart.

    :ivar path: what SVG draws; :attr:`area` the same, closed along the bottom.
    :ivar now: the newest value that is known, as text; :attr:`least` and :attr:`most` likewise.
    :ivar values: every value, for scripts.
    """

    name: str
    path: str
    area: str
    now: str
    least: str
    most: str
    values: Points


@attrs.frozen
class Chart:
    """
    One or more curves on one scale.

    :ivar top: what the upper edge stands for.
    :ivar limit: how far down a line stands that must not be crossed, if there is one.
    :ivar words: what the chart says, in a sentence.
    :ivar has_data: whether anything is known at all.
    """

    title: str
    unit: str
    curves: Sequence[Curve]
    top: str
    limit: float | None
    words: str
    step: int
    at: float
    has_data: bool

    @property
    def seconds(self) -> int:
        """How far back it goes."""
        return self.step * len(self.curves[0].values)


def chart(
    title: str,
    curves: Sequence[tuple[str, Points]],
    step: int,
    at: float,
    write: Callable[[float], str],
    unit: str = "",
    least_top: float = 1.0,
    limit: float | None = None,
    rounded: Callable[[float], float] | None = None,
) -> Chart:
    """
    A chart from nothing up to a round number above the highest value.

    :param curves: name and points of each, a step apart, the last at a time.
    :param write: a value as people read it.
    :param least_top: what the upper edge stands for at least.
    :param limit: what must not be crossed; shown once something is half as high.
    :param rounded: makes a round number that is not less.
    """
    rounded = rounded or round_up
    known = [value for _, points in curves for value in points if value is not None]
    highest = max(known, default=0.0)
    shows_limit = limit is not None and limit > 0 and highest >= limit / 2
    top = rounded(max(highest, least_top, limit if shows_limit and limit else 0.0))
    lines = [_curve(name, points, top, write) for name, points in curves]
    how_long = span(step * len(curves[0][1]))
    said = [
        f"{each.name}: {each.now} now, from {each.least} to {each.most} in the last {how_long}"
        for each in lines
        if each.now
    ]
    return Chart(
        title=title,
        unit=unit,
        curves=lines,
        top=write(top),
        limit=_down(limit, top) if shows_limit and limit else None,
        words=f"{title}. " + ("; ".join(said) if said else "Nothing is known yet") + ".",
        step=step,
        at=at,
        has_data=bool(known),
    )


def round_up(value: float) -> float:
    """The next of 1, 1.5, 2, 3, 5 and 8 times a power of ten."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next((each * power for each in (1, 1.5, 2, 3, 5, 8) if each * power >= value * 0.9999), 10 * power)


def round_size(count: float) -> float:
    """The same of bytes: round in the unit that they are written in."""
    unit = 1024.0 ** max(0, int(math.log(max(count, 1.0), 1024) + 1e-9))
    return round_up(count / unit) * unit


def known_part(figures: Mapping[str, Points], least: int) -> dict[str, Points]:
    """The curves from where anything is known, but so many points at least."""
    length = max(map(len, figures.values()))
    starts = [next((at for at, value in enumerate(each) if value is not None), length) for each in figures.values()]
    start = max(0, min(*starts, length - least))
    return {name: points[start:] for name, points in figures.items()}


def _curve(name: str, points: Points, top: float, write: Callable[[float], str]) -> Curve:
    known = [value for value in points if value is not None]
    across = WIDTH / max(1, len(points) - 1)
    parts: list[list[str]] = [[]]
    for index, value in enumerate(points):
        if value is None:
            if parts[-1]:
                parts.append([])
        else:
            parts[-1].append(f"{index * across:.1f},{_down(value, top):.1f}")
    parts = [part for part in parts if part]
    # A point alone would not be seen.
    drawn = [
        part if len(part) > 1 else [part[0], f"{float(part[0].split(',')[0]) + 1:.1f},{part[0].split(',')[1]}"]
        for part in parts
    ]
    return Curve(
        name=name,
        path=" ".join("M" + " L".join(part) for part in drawn),
        area=" ".join(
            f"M{part[0].split(',')[0]},{HEIGHT} L" + " L".join(part) + f" L{part[-1].split(',')[0]},{HEIGHT}Z"
            for part in drawn
        ),
        now=write(known[-1]) if known else "",
        least=write(min(known)) if known else "",
        most=write(max(known)) if known else "",
        values=points,
    )


def _down(value: float, top: float) -> float:
    return HEIGHT - (HEIGHT - _ROOM) * min(value / top, 1.0)
