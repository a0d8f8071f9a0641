"""
A fleet of simulated nodes: a faithful client of osquery's TLS protocol, written from the client's side.

It shares no code with the server, so that what both get wrong shows.  From the bottom: ``transport`` (one request
over one connection), ``rules`` (what the client makes of an answer), ``tables`` (what queries read), ``logbuffer``
(lines until they are acknowledged), ``node`` (one node's threads), ``certificates``, ``fleet`` and ``command``.

What it leaves out: redirects, proxies, ``tls_node_api``, the watchdog, and real tables.
"""
