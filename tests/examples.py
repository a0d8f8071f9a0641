"""How many examples property tests try: fewer in the fast ring, for the slow ring runs them again with all."""

from __future__ import annotations

import os

FEWER = "TESTS_FEWER_EXAMPLES"
"""Set in the environment of the fast ring."""


def examples(count: int) -> int:
    """So many, or a sixth of them in the fast ring."""
    return max(10, count // 6) if os.environ.get(FEWER) else count
