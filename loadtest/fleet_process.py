"""A fleet in a process of its own: `python -m loadtest.fleet_process FD`, and the parent's handle.

One child has 20,000 descriptors or fewer to itself; several children make a larger fleet.
"""

import base64
import gc
import time
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any, Final

from loadtest.control import Child, ChildFailed, Commands, inherited_commands
from loadtest.fleet import Fleet, Plan
from loadtest.histogram import Histogram

_TURN_S: Final = 0.25
_WAIT_STEP_S: Final = 0.25
_GARBAGE: Final = 50_000
"""Objects that gather before the collector of cycles looks at them."""


class FleetProcess(Child):
    """The parent's handle. Rows and counters are those of the fleet, see there."""

    module = "loadtest.fleet_process"
    """That the child runs."""

    def __init__(self, plan: Plan, *, wait: bool = True, **more: Any) -> None:
        """`more`: for a module that wants more than a plan. `wait`: see Child."""
        super().__init__(self.module, wait=wait, **asdict(plan), **more)
        self.plan = plan

    def dial(self, rows: range, per_s: float | None = None) -> int:
        return int(self.call("dial", rows=[rows.start, rows.stop], per_s=per_s)["dialled"])

    def set_in_flight(self, in_flight: int) -> None:
        """As plan.in_flight, from now on."""
        self.call("in_flight", in_flight=in_flight)

    def disconnect(self, rows: range) -> None:
        self.call("disconnect", rows=[rows.start, rows.stop])

    def cut(self, rows: range) -> None:
        """These lose their connection without a word and come back by themselves."""
        self.call("cut", rows=[rows.start, rows.stop])

    def set_tags(self, rows: range, choices: Sequence[Iterable[str]], which: Sequence[int]) -> int:
        """`rows[i]` has the tags `choices[which[i]]` from now on, connected or not.

        How many rows that changes. Raises ChildFailed for tags that a device may not have.
        """
        answer = self.call(
            "set_tags",
            rows=[rows.start, rows.stop],
            choices=[sorted(tags) for tags in choices],
            which=base64.b64encode(array("H", which).tobytes()).decode(),
        )
        return int(answer["changed"])

    def tags(self) -> list[frozenset[str]]:
        """By row, as the devices have them now, acknowledged or not."""
        answer = self.call("tags")
        choices = [frozenset(tags) for tags in answer["choices"]]
        return [choices[which] for which in array("H", base64.b64decode(answer["which"]))]

    def hold_receipts(self, held: bool) -> None:
        """While held, messages are shown and not reported; afterwards all reports go out at once."""
        self.call("hold", held=held)

    def mark(self) -> None:
        """Let `first_dial_at` be that of the next dial."""
        self.call("mark")

    def counters(self) -> dict[str, Any]:
        return self.call("counters")

    def wait(
        self,
        counter: str,
        at_least: int,
        timeout_s: float,
        on_progress: Callable[[dict[str, Any]], None] | None = None,
    ) -> dict[str, Any]:
        """Until the counter has come so far; then all counters. Raises ChildFailed in time."""
        deadline = time.monotonic() + timeout_s
        while True:
            step = min(_WAIT_STEP_S, max(0.0, deadline - time.monotonic()))
            counters = self.call("wait", counter=counter, at_least=at_least, step_s=step)
            if counters[counter] >= at_least:
                return counters
            if on_progress is not None:
                on_progress(counters)
            if time.monotonic() >= deadline:
                raise ChildFailed(
                    f"{counter} stands at {counters[counter]} of {at_least} after {timeout_s:g} s "
                    f"(lost {counters['lost']}, close codes {counters['goaways']})"
                )

    def device_ids(self) -> list[int]:
        """By row; meaningless for a device that never registered."""
        return array("Q", base64.b64decode(self.call("device_ids")["ids"])).tolist()

    def shown(self, pushes: Iterable[int] | None = None) -> dict[int, list[int]]:
        """Push id -> rows it was shown on, of these pushes or of all that are remembered."""
        ids = None if pushes is None else [str(push) for push in pushes]
        answer = self.call("shown", pushes=ids, timeout_s=120.0)["shown"]
        return {int(push): rows for push, rows in answer.items()}

    def shown_counts(self) -> dict[int, int]:
        """Push id -> how many devices it was shown on."""
        return {int(push): count for push, count in self.call("shown_counts")["shown"].items()}

    def journals(self) -> dict[int, list[tuple[int, float]]]:
        """Row -> (push id, time.monotonic()) of each first showing; empty without plan.journal.

        The clock is the machine's, so the times compare with those of other processes here.
        """
        answer = self.call("journals", timeout_s=120.0)["journals"]
        return {int(row): [(push, at) for push, at in lines] for row, lines in answer.items()}

    def forget_latency(self) -> None:
        """Begin the histograms anew, behind a warm-up."""
        self.call("forget_latency")

    def latency(self, *, late: bool = False) -> Histogram:
        histogram = Histogram()
        histogram.add_pairs(self.call("latency", late=late)["pairs"])
        return histogram


class Runner:
    """The child's loop: turns of the fleet, commands between them."""

    def __init__(self, fleet: Fleet, commands: Commands) -> None:
        self._fleet = fleet
        self._commands = commands
        self._waiting: list[tuple[float, dict[str, Any]]] = []
        fleet.watch(commands.fd, self._on_commands)

    def run(self) -> None:
        """Until the parent is gone (EOFError)."""
        while True:
            self._fleet.turn(_TURN_S if not self._waiting else _TURN_S / 10)
            if self._waiting:
                self._answer_waiting()

    def _answer_waiting(self) -> None:
        now = time.monotonic()
        still = []
        for deadline, command in self._waiting:
            value = getattr(self._fleet.counters, command["counter"])
            if value >= command["at_least"] or now >= deadline:
                self._commands.answer(command, **self.counters())
            else:
                still.append((deadline, command))
        self._waiting = still

    def _on_commands(self) -> None:
        for command in self._commands.read(wait=False):
            if command["do"] == "wait":
                self._waiting.append((time.monotonic() + command["step_s"], command))
                continue
            try:
                result = self.obey(command)
            except (LookupError, TypeError, ValueError) as error:
                result = {"error": repr(error)}  # the parent's mistake: it is told, we go on
            self._commands.answer(command, **result)

    def counters(self) -> dict[str, Any]:
        return {
            **self._fleet.counters.to_dict(),
            "forgotten": self._fleet.ledger.forgotten,
            "receipts_outstanding": self._fleet.desk.outstanding(),
            "profiles_unacked": self._fleet.profiles.unacknowledged,
        }

    def obey(self, command: dict[str, Any]) -> dict[str, Any]:
        """The answer to one command. Raises LookupError, TypeError or ValueError for a wrong one."""
        fleet = self._fleet
        match command["do"]:
            case "dial":
                return {"dialled": fleet.dial(range(*command["rows"]), command["per_s"])}
            case "in_flight":
                fleet.set_in_flight(command["in_flight"])
            case "disconnect":
                fleet.disconnect(range(*command["rows"]))
            case "cut":
                fleet.cut(range(*command["rows"]))
            case "set_tags":
                return {"changed": self._set_tags(command)}
            case "tags":
                which = base64.b64encode(fleet.profiles.chosen()).decode()
                return {"choices": list(map(sorted, fleet.profiles.choices)), "which": which}
            case "hold":
                fleet.desk.held = command["held"]
            case "mark":
                fleet.counters.first_dial_at = 0.0
            case "counters":
                return self.counters()
            case "device_ids":
                return {"ids": base64.b64encode(fleet.table.device_id.tobytes()).decode()}
            case "shown":
                known = fleet.ledger.pushes
                wanted = known if command["pushes"] is None else map(int, command["pushes"])
                return {"shown": {push: known[push].rows() for push in wanted if push in known}}
            case "shown_counts":
                return {"shown": {push: shown.count for push, shown in fleet.ledger.pushes.items()}}
            case "journals":
                return {"journals": fleet.journals}
            case "forget_latency":
                fleet.latency, fleet.latency_late = Histogram(), Histogram()
            case "latency":
                histogram = fleet.latency_late if command["late"] else fleet.latency
                return {"pairs": histogram.to_pairs()}
            case other:
                return {"error": f"unknown command {other!r}"}
        return {}

    def _set_tags(self, command: dict[str, Any]) -> int:
        """How many rows that changes: none if the command is wrong anywhere."""
        desk, rows = self._fleet.profiles, range(*command["rows"])
        known = [desk.choice_of(tags) for tags in command["choices"]]
        wanted = [known[at] for at in array("H", base64.b64decode(command["which"]))]
        if len(wanted) != len(rows) or rows.stop > self._fleet.plan.devices:
            raise ValueError(f"{len(wanted)} choices for rows {rows.start} to {rows.stop}")
        return sum(map(desk.set_tags, rows, wanted))


def run_child(make: Callable[[dict[str, Any], Commands], Runner]) -> None:
    """A child's main: `make` gets the parent's first command."""
    commands = inherited_commands()
    try:
        start = commands.read(wait=True)[0]
        config = {key: value for key, value in start.items() if key not in ("id", "do")}
        config["address"] = tuple(config["address"])
        runner = make(config, commands)
        # What a fleet remembers are no cycles: collections found nothing, a tenth of its time.
        gc.freeze()
        gc.set_threshold(_GARBAGE, 5, 5)
        commands.answer(start)
        runner.run()
    except EOFError:
        pass  # the parent closed the socket or is gone: this is how a fleet ends


if __name__ == "__main__":
    run_child(lambda config, commands: Runner(Fleet(Plan(**config)), commands))
