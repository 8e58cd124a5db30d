"""`python -m gateway.cli` is `columba`."""

from gateway.cli.commands import main

if __name__ == "__main__":
    main()
