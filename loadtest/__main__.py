"""`python -m loadtest COMMAND`: measure a service on this machine, or show it at work.

Each command starts a service of its own and ends it, unless the options before the command name
one that runs: --ready FILE with its ready line, or --devices, --api, --app and both keys.
"""

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

if TYPE_CHECKING:
    from loadtest.service import Service
    from loadtest.view import View

app: Final = typer.Typer(
    help="Fleets of simulated devices: measure a Columba service, or show it at work.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

AsJson = Annotated[bool, typer.Option("--json", help="End with one JSON object on stdout.")]
Edges = Annotated[int, typer.Option(min=1, help="Edge processes of the service it starts.")]
_FAILED: Final = 1
_UNUSABLE: Final = 2


@app.callback()
def attach(
    context: typer.Context,
    *,
    devices: Annotated[str | None, typer.Option(help="host:port of a running edge.")] = None,
    api: Annotated[str | None, typer.Option(help="http://host:port of its API.")] = None,
    app_id: Annotated[str, typer.Option("--app", help="The app to use.")] = "demo",
    access_key: Annotated[
        str, typer.Option(envvar="LOADTEST_ACCESS_KEY", help="For its devices.")
    ] = "",
    api_key: Annotated[str, typer.Option(envvar="LOADTEST_API_KEY", help="For its pushes.")] = "",
    ready: Annotated[Path | None, typer.Option(help="A file with the ready line.")] = None,
) -> None:
    """Without these options a command starts a service of its own."""
    from loadtest.service import Service, address, from_ready

    try:
        if ready is not None:
            context.obj = from_ready(json.loads(ready.read_text()))
        elif devices is not None and api is not None:
            context.obj = Service(address(devices), api, app_id, access_key, api_key)
        elif devices is not None or api is not None:
            raise ValueError("--devices and --api go together")
    except (OSError, KeyError, ValueError) as error:
        raise typer.BadParameter(f"{type(error).__name__}: {error}") from error


@app.command()
def connect(
    context: typer.Context,
    *,
    devices: Annotated[int, typer.Option(min=1, help="Devices to register.")] = 5000,
    edges: Edges = 2,
    in_flight: Annotated[int, typer.Option(min=1, help="Connects at any time.")] = 512,
    as_json: AsJson = False,
) -> None:
    """Devices a second from connect to WELCOME: new ones, then the same with their tokens."""
    with _setting(context, edges, "connect", as_json=as_json) as (service, view):
        from loadtest.connect import measure_connect

        view.finish(measure_connect(service, devices, in_flight, view))


@app.command()
def fanout(
    context: typer.Context,
    *,
    connections: Annotated[int, typer.Option(min=1, max=19_000)] = 10_000,
    rounds: Annotated[int, typer.Option(min=1, max=100)] = 5,
    as_json: AsJson = False,
) -> None:
    """CPU of one edge for a message to all its connections, against a bare loop of write(2)."""
    with _setting(context, 1, "fanout", as_json=as_json) as (service, view):
        from loadtest.fanout import measure_fanout

        view.finish(measure_fanout(service, connections, rounds, view))


@app.command()
def single(
    context: typer.Context,
    *,
    rate: Annotated[float, typer.Option(min=0.1, help="Pushes a second, for latency.")] = 1000.0,
    seconds: Annotated[float, typer.Option(min=0.1, max=3600)] = 10.0,
    devices: Annotated[int, typer.Option(min=1, help="For latency.")] = 1000,
    pushes: Annotated[int, typer.Option(min=0, help="For throughput; 0: leave it out.")] = 50_000,
    edges: Edges = 2,
    as_json: AsJson = False,
) -> None:
    """Pushes to single devices: latency above the bare hop through the store, and throughput."""
    with _setting(context, edges, "single", as_json=as_json) as (service, view):
        from loadtest.single import measure_both

        result = measure_both(service, rate, seconds, devices, pushes, view)
        view.finish(result)
        if result["lost"] or result["duplicates"] or result["strays"]:
            raise typer.Exit(_FAILED)


@app.command()
def demo(
    context: typer.Context,
    *,
    devices: Annotated[int, typer.Option(min=100, max=19_000)] = 1000,
    edges: Edges = 2,
    as_json: AsJson = False,
) -> None:
    """Devices come and go, an edge is killed, and nothing may be lost or shown twice."""
    own = context.obj is None
    with _setting(context, edges, "demo", as_json=as_json) as (service, view):
        import asyncio

        from loadtest.demo import passed, run_demo

        result = asyncio.run(run_demo(service, devices, view, kill_edge=own))
        view.finish(result)
        if not passed(result):
            raise typer.Exit(_FAILED)


@app.command()
def audience(
    context: typer.Context,
    *,
    devices: Annotated[int, typer.Option(min=100, help="All of one app.")] = 20_000,
    edges: Edges = 2,
    seed: Annotated[int, typer.Option(help="Tags and expressions are drawn from it.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Devices with tags come, go and change them; pushes to expressions reach whom they mean."""
    with _setting(context, edges, "audience", as_json=as_json) as (service, view):
        from loadtest.audience import passed, run_audience

        result = run_audience(service, devices, seed, view)
        view.finish(result)
        if not passed(result):
            raise typer.Exit(_FAILED)


@app.command()
def priority(
    context: typer.Context,
    *,
    devices: Annotated[int, typer.Option(min=10, max=18_000, help="Of the campaigns.")] = 10_000,
    rate: Annotated[float, typer.Option(min=1, help="High pushes a second.")] = 50.0,
    seconds: Annotated[float, typer.Option(min=1, max=600)] = 10.0,
    as_json: AsJson = False,
) -> None:
    """Latency of high pushes beside campaigns at full speed, against that without any."""
    with _setting(context, 1, "priority", as_json=as_json) as (service, view):
        from loadtest.priority import measure_priority

        view.finish(measure_priority(service, devices, rate, seconds, view))


@app.command()
def throughput(
    context: typer.Context,
    *,
    pushes: Annotated[int, typer.Option(min=1, help="Each to one device.")] = 50_000,
    devices: Annotated[int, typer.Option(min=1)] = 5_000,
    in_flight: Annotated[int, typer.Option(min=1, max=5_000, help="Calls open.")] = 1_000,
    edges: Edges = 2,
    as_json: AsJson = False,
) -> None:
    """Pushes to single devices a second, from the internal RPC to the receipt counted."""
    with _setting(context, edges, "throughput", as_json=as_json) as (service, view):
        from loadtest.throughput import measure_throughput

        result = measure_throughput(service, pushes, devices, in_flight, view)
        view.finish(result)
        if result["lost"] or result["duplicates"] or result["strays"]:
            raise typer.Exit(_FAILED)


@app.command()
def storm(
    context: typer.Context,
    *,
    devices: Annotated[int, typer.Option(min=100, help="Connections.")] = 100_000,
    edges: Edges = 12,
    as_json: AsJson = False,
) -> None:
    """Half of the edges are killed at once: how soon is everybody back, and is anything lost?"""
    with _setting(context, edges, "storm", as_json=as_json) as (service, view):
        from loadtest.storm import measure_storm, passed

        result = measure_storm(service, devices, view)
        view.finish(result)
        if not passed(result):
            raise typer.Exit(_FAILED)


@app.command()
def million(
    context: typer.Context,
    *,
    devices: Annotated[int, typer.Option(min=10, help="Connections.")] = 1_000_000,
    idle: Annotated[float, typer.Option(min=0, help="Seconds with heartbeats only.")] = 600.0,
    heartbeat: Annotated[int, typer.Option(min=30, max=600, help="Seconds between two.")] = 300,
    as_json: AsJson = False,
) -> None:
    """All the connections that the machine holds: connect, rest, a push to all, one to a tenth."""
    from loadtest.engine.scenario import PER_EDGE

    edges = max(2, -(-devices // PER_EDGE))
    with _setting(context, edges, "million", as_json=as_json) as (service, view):
        from loadtest.million import measure_million, passed

        result = measure_million(service, devices, idle, heartbeat, view)
        view.finish(result)
        if not passed(result):
            raise typer.Exit(_FAILED)


@app.command()
def bench(
    context: typer.Context,
    *,
    output: Annotated[Path | None, typer.Option(help="Write the result there, as JSON.")] = None,
    compare: Annotated[Path | None, typer.Option(help="Tell it beside this older one.")] = None,
    of: Annotated[
        Path | None, typer.Option(help="A result that is there already; nothing is measured.")
    ] = None,
    tolerance: Annotated[
        float, typer.Option(min=0, max=1000, help="Percent of a change that are noise.")
    ] = 10.0,
    as_json: AsJson = False,
) -> None:
    """Every measurement in its short form, in three minutes; or beside an older result."""
    if context.obj is not None:
        raise typer.BadParameter(
            "bench starts services of its own: leave out the options before the command"
        )
    with _told("bench", as_json=as_json) as view:
        from loadtest.bench import command

        code = command.bench(view, output, compare, of, tolerance / 100)
    raise typer.Exit(code)


@app.command()
def run(
    context: typer.Context,
    scenario: Annotated[
        str,
        typer.Argument(
            help="A ready scenario (connect, fanout, single, storm, million, soak) or a file."
        ),
    ],
    *,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Over the file's: fleet.devices=100."),
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write an HTML report there.")] = None,
    as_json: AsJson = False,
) -> None:
    """A load described in TOML: devices of all kinds, pushes, checks (docs/loadtest.md)."""
    from loadtest.engine import command

    with _told(f"run {scenario}", as_json=as_json) as view:
        code = command.run(scenario, settings or [], context.obj, report, view)
    raise typer.Exit(code)


@contextmanager
def _setting(
    context: typer.Context, edges: int, title: str, *, as_json: bool
) -> Iterator[tuple["Service", "View"]]:
    """A service and a view."""
    from loadtest.service import started

    with _told(title, as_json=as_json) as view:
        if context.obj is not None:
            yield context.obj, view
            return
        view.show("starting the service")
        with started(edges) as service:
            yield service, view


@contextmanager
def _told(title: str, *, as_json: bool) -> Iterator["View"]:
    """A view. What cannot be gone on with ends the command with one clear line."""
    from client_sdk import DeviceError
    from loadtest.api_client import ApiFailed
    from loadtest.control import ChildFailed
    from loadtest.engine.reading import ScenarioError
    from loadtest.service import ServiceFailed
    from loadtest.view import View

    try:
        with View(title, as_json=as_json) as view:
            yield view
    except (
        ApiFailed,
        ChildFailed,
        DeviceError,
        OSError,
        ScenarioError,
        ServiceFailed,
        ValueError,
    ) as error:
        print(f"{title}: {str(error) or type(error).__name__}", file=sys.stderr, flush=True)
        raise typer.Exit(_UNUSABLE) from error


def main() -> None:
    # As on Ctrl-C, what was started is ended and temporary files go.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    app(prog_name=_program())


def _program() -> str:
    """As it was called: there is a command of its own, too."""
    name = Path(sys.argv[0]).name
    return "python -m loadtest" if name == "__main__.py" else name


if __name__ == "__main__":
    main()
