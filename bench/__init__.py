"""
What a new mutual-TLS connection with one request costs, in CPU of the server's processes.

``python -m bench`` starts osqtwist, a single-threaded ``http.server`` with ``ssl`` and nginx, if there is one, and
gives each the same connections in turn.  Bounded in time, on loopback only.
"""
