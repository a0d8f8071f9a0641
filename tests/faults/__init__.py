"""
The fault matrix: what a node sees of each fault on each route, and what was lost.

``python -m tests.faults`` (or ``make faults``) makes each fault for real (processes that are killed, stopped or
starved, a network that is cut, disks that are full, a clock that is set) while nodes do with a real server all that
osqueryd does.  ``--soak SECONDS`` makes faults at random instead.  From the bottom: ``relay`` (a network that can be
cut), ``programs`` (processes), ``stage`` (a server and all that it needs), ``nodes`` (what a node sees), ``ledger``
(what was acknowledged and must not be lost), ``catalog`` (the faults), ``matrix`` and ``soak`` (how they are made),
``report``.
"""
