"""
``osqtwist``: the operators' command.

It prints a table for people, and JSON with ``--json`` for programs.  Exit status: 0 done, 1 refused or not found,
2 wrong use, 3 no server answers, 4 waits for approval, 130 broken off.
"""

from __future__ import annotations

from osqtwist.cli.main import main

__all__ = ["main"]
