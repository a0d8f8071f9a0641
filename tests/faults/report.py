"""The matrix as text for a terminal, and as a table for the documentation."""

from __future__ import annotations

from collections.abc import Sequence

from tests.faults.catalog import CATALOG, ROUTES
from tests.faults.ledger import Balance
from tests.faults.matrix import Row
from tests.faults.soak import Tally

_COLUMNS = ("fault", *ROUTES, "back after", "query again after", "acknowledged", "lost")


def cells_of(row: Row) -> list[str]:
    """A row in words."""
    words = [str(row.cells[route]) for route in ROUTES]
    return [
        row.fault.name,
        *words,
        f"{row.back_after:.1f} s",
        f"{row.given_after:.1f} s",
        str(row.acknowledged),
        str(row.lost),
    ]


def as_text(rows: Sequence[Row]) -> str:
    """In columns."""
    table = [list(_COLUMNS), *map(cells_of, rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(_COLUMNS))]
    return "\n".join("  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)) for row in table)


def as_markdown(rows: Sequence[Row], before: str = "") -> str:
    """
    For a page.

    :param before: the table that is there; its rows of faults that were not made now stay.
    """
    found = {line.split(" | ")[0].removeprefix("| "): line for line in before.splitlines() if line.startswith("| ")}
    found |= {row.fault.name: "| " + " | ".join(cells_of(row)) + " |" for row in rows}
    head = ["| " + " | ".join(_COLUMNS) + " |", "|" + "---|" * len(_COLUMNS)]
    return "\n".join([*head, *(found[fault.name] for fault in CATALOG if fault.name in found)]) + "\n"


def soak_as_text(tally: Tally, balance: Balance, starts: int, troubles: Sequence[str]) -> str:
    """What came of a soak."""
    made = ", ".join(f"{name} {count}" for name, count in sorted(tally.faults.items()))
    lines = [
        f"faults: {sum(tally.faults.values())} ({made})",
        f"answers: {', '.join(f'{word} {n}' for word, n in sorted(tally.seen.items()))}; server starts: {starts}",
        f"acknowledged: {', '.join(f'{name} {n}' for name, n in balance.acknowledged.items())}",
        *(f"BROKEN: {each}" for each in tally.broken),
        *(f"LOST: {each}" for each in balance.lost),
        *(f"unexpected in the server's log: {each}" for each in troubles),
        f"promises broken: {len(tally.broken)}; lost: {len(balance.lost)}; lines twice: {balance.twice};"
        f" unexpected errors: {len(troubles)}",
    ]
    return "\n".join(lines)
