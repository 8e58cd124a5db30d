"""The one home of the store: keys, scripts, the log, leases, snapshots, the embedded server.

Nothing outside this folder speaks Redis. `Store` is one pipelined connection with our own rules:
no silent retries, no unbounded waiting, scripts by their SHA.
"""
