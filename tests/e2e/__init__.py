"""End to end: the service in its real processes, with a real store, over real sockets."""
