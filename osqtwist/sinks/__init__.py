"""Log sinks: each module is one kind of destination."""
