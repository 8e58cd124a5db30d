"""`columba serve`: the whole service on one machine, as a tree of processes.

tree.py starts and stops them in order, keepers.py keeps each running, roles.py is what a role's
process runs, storeside.py is the supervisor's own business in the store.
"""

from gateway.supervisor.tree import Programs, Supervisor, free_address, serve

__all__ = ["Programs", "Supervisor", "free_address", "serve"]
