"""What an expression says already when only some of its keys are known."""

from __future__ import annotations

from collections.abc import Set

from osqtwist.expression import And, Expression, Lookup, Not, Or


def verdict(expression: Expression, lookup: Lookup, known: Set[str]) -> bool | None:
    """Whether something is meant of which only these keys are known; ``None`` if the other keys decide."""
    match expression:
        case Not(part):
            said = verdict(part, lookup, known)
            return None if said is None else not said
        case And(parts) | Or(parts):
            decides = isinstance(expression, Or)
            all_said = {verdict(part, lookup, known) for part in parts}
            return decides if decides in all_said else None if None in all_said else not decides
        case _:
            return expression.matches(lookup) if expression.keys <= known else None
