"""
What osqtwist costs: in CPU of its processes, in time and in memory.

=========================  ===================================================================================
``python -m bench``        a new mutual-TLS connection with one request, beside ``http.server`` and nginx
``... logs``               log lines from the socket to a file, beside nothing but ``XADD`` of the same bytes
``... log-memory``         the memory of the delivery process while its sink is down, and while it is up
=========================  ===================================================================================

Everything is bounded in time, and on loopback only.
"""
