"""The command line `columba`."""

from gateway.cli.commands import main

__all__ = ["main"]
