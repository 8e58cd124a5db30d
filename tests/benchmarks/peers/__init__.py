"""Other servers that keep many connections, measured as Columba is: `make bench-peers`."""
