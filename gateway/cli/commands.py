"""`columba`: the command line. Heavy imports stand inside the commands, so that help is quick.

What the user has to mend is told in one line on standard error, with exit code 2.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.audience import audience_app
from gateway.cli.edges import edges_app
from gateway.cli.explain import explain
from gateway.cli.options import (
    Api,
    ApiKey,
    App,
    AsJson,
    ConfigFile,
    DataDir,
    Sets,
    StoreUrl,
)
from gateway.cli.pushes import pushes_app

if TYPE_CHECKING:
    from gateway.config import Config
    from gateway.config_sources import Loaded

app = typer.Typer(
    help="Columba: a self-hosted push service.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

app.add_typer(pushes_app)
app.add_typer(edges_app)
app.add_typer(audience_app, name="audience")
app.command()(explain)


@app.command()
def serve(
    *,
    config: ConfigFile = None,
    sets: Sets = None,
    data_dir: DataDir = None,
    device_listen: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Port for devices; port 0: a free one.")
    ] = None,
    api_listen: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Port for app servers.")
    ] = None,
    edges: Annotated[
        int | None, typer.Option(metavar="COUNT", help="Edge processes; 0: one a core.")
    ] = None,
    store: StoreUrl = None,
    as_json: AsJson = False,
) -> int:
    """Run the whole service on this machine: store, dispatch node, API and edges."""
    import uvloop

    from gateway import config_sources, logs, supervisor
    from gateway.cli import settings

    loaded = settings.read(
        config,
        sets,
        data_dir=data_dir,
        device_listen=device_listen,
        api_listen=api_listen,
        edges=edges,
        store=store,
    )
    config_sources.check_exposure(loaded, "edge", "api")
    logs.configure(loaded.config.service.log_level, role="supervisor")
    secrets = settings.secrets_of(loaded.config)
    announce = _print_json if as_json else _print_ready
    return uvloop.run(supervisor.serve(loaded.config, secrets, announce))


def _print_json(ready: dict[str, object]) -> None:
    typer.echo(json.dumps(ready, separators=(",", ":")))


def _print_ready(ready: dict[str, object]) -> None:
    elsewhere = "(shown where the app was made)"
    rows = {
        "devices connect to": ready["devices"],
        "app servers call": ready["api"],
        "app": ready["app"],
        "its access key, for devices": ready["access_key"] or elsewhere,
        "its API key, for app servers": ready["api_key"] or elsewhere,
    }
    typer.echo("Columba is ready.")
    for name, value in rows.items():
        typer.echo(f"  {name:<30}{value}")
    typer.echo("Ctrl-C stops it; a second one hastens.")


@app.command()
def edge(
    *,
    config: ConfigFile = None,
    sets: Sets = None,
    data_dir: DataDir = None,
    store: StoreUrl = None,
    as_json: AsJson = False,
) -> int:
    """Run one edge: it keeps device connections."""
    return _run_role("edge", _role_settings(config, sets, data_dir, store), as_json)


@app.command()
def dispatch(
    *,
    config: ConfigFile = None,
    sets: Sets = None,
    data_dir: DataDir = None,
    store: StoreUrl = None,
    as_json: AsJson = False,
) -> int:
    """Run one dispatch node: it owns partitions of the devices."""
    return _run_role("dispatch", _role_settings(config, sets, data_dir, store), as_json)


@app.command()
def api(
    *,
    config: ConfigFile = None,
    sets: Sets = None,
    data_dir: DataDir = None,
    store: StoreUrl = None,
    as_json: AsJson = False,
) -> int:
    """Run one API process for app servers."""
    return _run_role("api", _role_settings(config, sets, data_dir, store), as_json)


def _role_settings(
    file: Path | None, sets: Sequence[str] | None, data_dir: Path | None, store: str | None
) -> "Loaded":
    from gateway.cli import settings

    return settings.read(file, sets, data_dir=data_dir, store=store)


def _run_role(role: str, loaded: "Loaded", as_json: bool) -> int:
    from gateway import config_sources, logs
    from gateway.cli import settings
    from gateway.supervisor import roles

    if role != "dispatch":
        config_sources.check_exposure(loaded, role)
    logs.configure(loaded.config.service.log_level, role=role)
    secrets = settings.secrets_of(loaded.config)
    config = settings.with_store(loaded.config)

    def ready(said: dict[str, object]) -> None:
        line = {"event": "ready", "role": role, "pid": os.getpid(), **said}
        typer.echo(json.dumps(line) if as_json else f"columba {role} is ready")

    return roles.run_role(role, config, secrets, ready)


@app.command()
def device(
    *,
    state_dir: Annotated[
        Path, typer.Option(metavar="PATH", help="The installation's identity and messages.")
    ] = Path("columba-device"),
    address: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="The service's port for devices.")
    ] = None,
    app_id: App = None,
    access_key: Annotated[
        str | None, typer.Option(help="The app's access key (COLUMBA_ACCESS_KEY).")
    ] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> int:
    """Be a device in this terminal: print each message and report it as displayed."""
    from gateway.cli import device as terminal
    from gateway.cli import settings

    config = settings.read(None, None, data_dir=data_dir).config
    chosen = terminal.settings_of(config, address, app_id, access_key)
    return terminal.run(chosen, state_dir, _print_event if as_json else _print_event_plain)


def _print_event(event: dict[str, object]) -> None:
    """One line for each event: registered, message."""
    typer.echo(json.dumps(event))


def _print_event_plain(event: dict[str, object]) -> None:
    if event["event"] == "registered":
        typer.echo(f"device {event['device_id']} is connected; waiting for messages")
        return
    parts = [str(event[name]) for name in ("title", "body") if event.get(name)]
    if event["data"]:
        parts.append(json.dumps(event["data"]))
    typer.echo(f"{event['push_id']}: " + " | ".join(parts))


@app.command()
def status(
    *,
    all_partitions: Annotated[
        bool, typer.Option("--partitions", help="All partitions, not only the largest.")
    ] = False,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    api_url: Api = None,
    app_id: App = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> int:
    """Is the service ready, which processes run, how large are its partitions? Exit code 0 if it is
    ready, 1 if not."""
    from gateway.cli import partitions, settings
    from gateway.cli.client import ApiProblem, client_of, status_lines

    found = settings.read(config, None, data_dir=data_dir).config
    client = client_of(found, api=api_url, app=app_id, api_key=api_key)
    answer: dict[str, Any]
    try:
        answer = client.status()
    except ApiProblem as problem:
        answer = {"ready": False, "readyz": str(problem), "status": None}
    pids = _running_pids(found)
    if as_json:
        told = partitions.rows(answer["status"] or {})
        summed = {"partitions": told, "total": partitions.total(told)}
        typer.echo(json.dumps({"event": "status", **answer, "pids": pids, **summed}))
    else:
        typer.echo("ready" if answer["ready"] else f"not ready: {answer['readyz']}")
        most = None if all_partitions else partitions.MOST
        for line in status_lines(answer["status"] or {}, pids or {}, most):
            typer.echo(f"  {line}")
    return 0 if answer["ready"] else 1


def _running_pids(config: "Config") -> dict[str, Any] | None:
    """What the supervisor wrote, if it lives."""
    from gateway import datadir

    root = Path(config.service.data_dir).absolute()
    if datadir.holder(root) is None:
        return None
    try:
        pids: dict[str, Any] = json.loads((root / datadir.RUN / datadir.PIDS).read_text())
        return pids
    except (OSError, ValueError):
        return None  # it starts, or ends, just now


@app.command("config")
def show_config(
    *,
    config: ConfigFile = None,
    sets: Sets = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> int:
    """Show every setting, where its value comes from, and what it means."""
    from gateway import config_sources
    from gateway.cli import settings

    loaded = settings.read(config, sets, data_dir=data_dir)
    rows = [
        (key, config_sources.shown(key, value), source, reason)
        for key, value, source, reason in config_sources.rows(loaded)
    ]
    if as_json:
        typer.echo(
            json.dumps(
                {
                    key: {"value": value, "source": source, "reason": reason}
                    for key, value, source, reason in rows
                }
            )
        )
        return 0
    reason_above = ""
    for key, value, source, reason in rows:
        if reason != reason_above:
            typer.echo(f"\n# {reason}")
            reason_above = reason
        typer.echo(f"{key} = {json.dumps(value)}  ({source})")
    return 0


@app.command(
    context_settings={
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "help_option_names": [],
    }
)
def demo(context: typer.Context) -> None:
    """Show the service at work with simulated devices; takes what `loadtest demo` takes."""
    # Another program in place of this one: the service knows nothing of its load test.
    os.execv(sys.executable, [sys.executable, "-m", "loadtest", "demo", *context.args])


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code."""
    try:
        result = app(args=arguments, prog_name="columba", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except typer.Abort:
        return 130
    except typer.TyperException as error:
        text, code = error.format_message(), 2
    except Exception as error:  # passed on, unless it is the user's to mend
        from gateway.cli.client import ApiProblem
        from gateway.cli.settings import UsageProblem
        from gateway.store.start_errors import users_error

        told = str(error) if isinstance(error, (ApiProblem, UsageProblem)) else users_error(error)
        if told is None:
            raise
        text, code = told, 2
    sys.stderr.write(f"columba: {text}\n")
    return code


def main() -> None:
    sys.exit(run())
