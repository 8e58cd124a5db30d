"""One role of the service as a process: dispatch node, API or a single edge.

`python -m gateway.supervisor.roles NAME [--run module:function]` is how the supervisor starts one:
configuration and secrets are the first line of its input (gateway.handover), and its one line of
output is what the role says when it serves.
"""

import argparse
import json
import os
import pkgutil
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import uvloop

from gateway import datadir, logs
from gateway.config import Config
from gateway.handover import USER_ERROR, raise_descriptor_limit, received, tell_error
from gateway.secretfiles import Secrets
from gateway.store.start_errors import users_error

Ready = Callable[[dict[str, object]], None]
Run = Callable[[Config, Secrets, str, Ready], Coroutine[Any, Any, None]]
"""run(config, secrets, store_url, ready): serves until SIGTERM or SIGINT and returns after a graceful
stop; calls ready({"number": ..., "start": ..., ...}) once it serves, and again when that changed."""

RUNS: Final = {
    "edge": "gateway.edge.process:run",
    "dispatch": "gateway.dispatch.process:run",
    "api": "gateway.api.process:run",
}


def run_role(role: str, config: Config, secrets: Secrets, ready: Ready, run: str = "") -> int:
    """Run a role to its end on a loop of its own. Returns the exit code."""
    raise_descriptor_limit()
    datadir.prepare(Path(config.service.data_dir))
    serve: Run = pkgutil.resolve_name(run or RUNS[role])
    try:
        uvloop.run(serve(config, secrets, config.store.url, ready))
    except Exception as error:  # passed on, unless it is the user's to mend
        text = users_error(error)
        if text is None:
            raise
        tell_error(f"{role}: {text}")
        return USER_ERROR
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="gateway.supervisor.roles")
    parser.add_argument("role", choices=sorted(RUNS))
    parser.add_argument("--run", default="", help="module:function to run instead of the role's")
    arguments = parser.parse_args()
    config, secrets = received(json.loads(sys.stdin.buffer.readline()))
    logs.configure(config.service.log_level, role=arguments.role)
    # The line belongs to the supervisor; a stray print must not be taken for it.
    output = os.dup(1)
    os.dup2(2, 1)

    def ready(said: dict[str, object]) -> None:
        os.write(output, json.dumps(said).encode() + b"\n")

    return run_role(arguments.role, config, secrets, ready, arguments.run)


if __name__ == "__main__":
    sys.exit(main())
