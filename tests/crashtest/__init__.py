"""
The crash test: simulated nodes post numbered lines while processes are killed and sinks misbehave.

``python -m tests.crashtest`` (or ``make crashtest``).  At the end every line that was acknowledged must be in every
sink.  From the bottom: ``receiver`` (an HTTP server that can be made to misbehave), ``machine`` (twistd, its
processes and its sinks), ``crew`` (the nodes), ``mischief`` (what goes wrong, and when), ``verdict`` (what was lost).
"""
