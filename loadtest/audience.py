"""Audiences end to end: devices with tags, pushes to expressions, and who got them.

Whom an expression means is computed here over plain sets; what became of a push is asked of the
devices. Both are held against what the service counts. While devices come and go and tags stay, a
push must reach exactly those meant. While tags change, each device is looked at as it was before,
in between or is afterwards: a push must reach whom it means in each case, and nobody it means in none.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import count, islice, product
from random import Random
from typing import Any, Final, NamedTuple

from loadtest import expressions
from loadtest.api_client import ApiClient
from loadtest.audience_checks import Checks
from loadtest.audience_verdict import states_of
from loadtest.crowd import ALL, SHARES, Crowd, Part, gathered, share
from loadtest.meaning import Tree, World, by_tag, meant
from loadtest.push_book import PushBook
from loadtest.service import Service
from loadtest.view import View

_STAGE_S: Final = 60.0
"""Longest that a stage may take until all is quiet."""
_LOOK_S: Final = 0.05
_STEP_S: Final = 0.1
"""Between two pushes, so that deliveries overlap with what the devices do."""
_CHANGES: Final = 6
"""Steps in which tags change, each time those of two shares."""
_AWAY: Final = Part(0, 2)
"""Those that do not get the push whose states are asked for; they come back while tags change."""
_HALF: Final = SHARES // 2
_BOUND: Final = 0.02
"""Part of the devices that the app server sets a tag on."""
_DRAWN: Final = 5
"""Pushes to drawn expressions in a stage."""
_COUNTED: Final = 60
"""Drawn expressions that are counted at the end."""
_NAMED: Final = 500
"""Devices that an expression may name."""
_WIDEST: Final = 0.4
"""Part of the devices that a drawn push may be for: wider ones cost time and show no more."""
_NEVER: Final = ("identity_changes", "protocol_errors", "forgotten")
"""Counters of fleets that must stay 0: with pushes forgotten the devices could not tell."""


class Moment(NamedTuple):
    """What may change for each device, and for each of the three by itself."""

    said: dict[int, frozenset[str]]
    """Device -> the tags that it says it has."""
    bound: frozenset[int]
    """Devices that the app server has set a tag on."""
    states: dict[tuple[int, str], frozenset[int]]
    """(push, state) -> devices, of pushes that other audiences may ask for."""


class _Late(TimeoutError):
    """A stage was not through in time."""

    def __init__(self, stage: str) -> None:
        super().__init__(f"{stage}: not done in {_STAGE_S:g} s")
        self.stage = stage


class AudienceRun:
    """One run: the devices, what the API accepted, and the stages."""

    def __init__(self, crowd: Crowd, api: ApiClient, view: View, seed: int) -> None:
        self._crowd = crowd
        self._api = api
        self._view = view
        self._random = Random(seed)
        self._book = PushBook(api, self._random)
        self._quiet = Moment({}, frozenset(), {})
        """The last moment at which all was quiet."""
        self._samples: dict[tuple[float, str], frozenset[int]] = {}
        self._tag_changes = 0

    def run(self) -> dict[str, Any]:
        """Raises ApiFailed, ChildFailed, TimeoutError for devices that do not connect or do
        not get their tags across, and ValueError for an app that has devices of others."""
        began = time.monotonic()
        late = None
        self._register()
        try:
            self._push_while_devices_come_and_go()
            first = self._push_to_states()
            self._push_while_tags_change(first)
            self._push_in_the_end()
        except _Late as error:
            late = error.stage  # the rest would mean nothing; what there is shows what is missing
        self._view.show("checking")
        leaves = self._leaves()
        drawn = [expressions.draw_tree(self._random, leaves) for _ in range(_COUNTED)]
        checks = Checks(self._api, self._book, self._crowd, self._world(self._quiet))
        checked = checks.result(["all", *leaves, *drawn])
        now = self._crowd.counters()
        return {
            "devices": self._crowd.devices,
            **checked,
            "late": late,
            "tag_changes": self._tag_changes,
            "profiles_sent": now["profiles_sent"],
            "reconnected": now["reconnected"],
            "redelivered": now["redelivered"],
            **{name: now[name] for name in _NEVER},
            "seconds": round(time.monotonic() - began, 1),
        }

    # The stages.

    def _register(self) -> None:
        """Half of the devices say their tags in their first session, the others once they have one."""
        others = self._api.count("all")
        if others:
            raise ValueError(f"the app has {others} devices already: this needs one of its own")
        self._draw_tags(Part(0, _HALF))
        self._crowd.dial(ALL)
        self._until("connecting", self._is_quiet)
        self._crowd.learn_ids()
        self._draw_tags(Part(_HALF, SHARES))
        bound = self._random.sample(sorted(self._crowd.ids), round(_BOUND * self._crowd.devices))
        self._api.tag(bound, expressions.BETA, bind=True)
        self._settle("saying their tags")
        self._quiet = Moment(self._crowd.tags(), frozenset(bound), {})

    def _push_while_devices_come_and_go(self) -> None:
        stage = "devices come and go"
        samples = {
            self._push(expressions.sample(fraction), stage): fraction
            for fraction in (expressions.LARGE, expressions.SMALL)
        }
        pushes = []
        tide = self._tide()
        for tree in (*expressions.FIXED, "all", *self._drawn(_DRAWN)):
            next(tide)
            pushes.append(self._push(tree, stage))
        self._book.expect(pushes, [self._world(self._quiet)])
        self._crowd.dial(ALL)
        self._settle("they are back")
        for push_id, fraction in samples.items():
            self._samples[fraction, expressions.SALT] = frozenset(self._shown(push_id))
        # Only their size can be told beforehand; that they stay the same is seen from here on.
        self._book.expect(samples, [self._world(self._quiet)])

    def _push_to_states(self) -> int:
        """A push that some have and some have not, and pushes to those in some state of it."""
        stage = "some are offline"
        self._crowd.disconnect(_AWAY)
        first = self._push({"or": [{"tag": "city:gz"}, {"tag": "sex:female"}]}, stage)
        self._book.expect([first], [self._world(self._quiet)])
        here = len(self._book.expected[first].must - self._crowd.of(_AWAY))
        self._until(stage, lambda _: len(self._shown(first)) >= here and self._has_reported())
        self._quiet = self._quiet._replace(states=self._states_of(first))
        received, displayed = _state(first, "received"), _state(first, "displayed")
        trees: Sequence[Tree] = (
            _state(first, "pending"),
            {"and": [received, {"not": displayed}, {"not": {"tag": "tier:silver"}}]},
            {"and": [{"not": _state(first, "targeted")}, {"tag": "tier:gold"}]},
            {"and": [displayed, expressions.sample(expressions.LARGE)]},
        )
        pushes = [first, *(self._push(tree, stage) for tree in trees)]
        self._book.expect(pushes, [self._world(self._quiet)])
        # Whom they are for is to be fixed before tags begin to change.
        self._until(stage, lambda _: self._book.all_targeted(pushes))
        return first

    def _push_while_tags_change(self, first: int) -> None:
        """Some devices change their tags while they stay, some twice, with a cut in between."""
        stage = "tags change"
        before = self._quiet
        said = dict(before.said)
        """Device -> tags it had in between, of those that change them twice."""
        trees = [*expressions.FIXED, "all", *self._drawn(_DRAWN), _state(first, "pending")]
        self._random.shuffle(trees)
        pushes = []
        bound = before.bound
        for step, _ in enumerate(islice(self._tide(), _CHANGES)):
            self._draw_tags(share(_HALF + step))
            twice = share(step + 1)
            self._draw_tags(twice)
            said |= self._crowd.tags(twice)
            self._crowd.cut(twice)
            self._draw_tags(twice)
            if step == _CHANGES // 2:
                gone = sorted(bound)[::2]
                self._api.tag(gone, expressions.BETA, bind=False)
                bound = bound.difference(gone)
            pushes += [self._push(tree, stage) for tree in trees[step::_CHANGES]]
        self._crowd.dial(ALL)
        self._settle("tags are quiet")
        to_all = next(push for push in pushes if self._book.trees[push] == "all")
        states = self._states_of(first) | self._states_of(to_all)
        self._quiet = Moment(self._crowd.tags(), bound, states)
        between = product(
            (before.said, said, self._quiet.said), (before.bound, bound), (before.states, states)
        )
        self._book.expect(pushes, (self._world(Moment(*each)) for each in between))

    def _push_in_the_end(self) -> None:
        stage = "all is quiet"
        trees: Sequence[Tree] = ({"tag": expressions.BETA}, *self._drawn(_DRAWN))
        pushes = [self._push(tree, stage) for tree in trees]
        self._book.expect(pushes, [self._world(self._quiet)])
        self._settle(stage)

    # What devices do.

    def _tide(self) -> Iterator[None]:
        """With each step some devices leave, others come back, and others lose their connection."""
        for step in count():
            self._crowd.dial(share(step - 2))
            self._crowd.disconnect(share(step))
            self._crowd.cut(share(step + 7))
            yield

    def _draw_tags(self, part: Part) -> None:
        changed = self._crowd.set_tags(part, lambda: expressions.draw_tags(self._random))
        self._tag_changes += changed

    def _shown(self, push_id: int) -> list[int]:
        return self._crowd.shown([push_id]).get(push_id, [])

    # Whom we mean.

    def _world(self, moment: Moment) -> World:
        devices = self._crowd.ids
        tags = by_tag(moment.said)
        tags.setdefault(expressions.BETA, set()).update(moment.bound)
        # All of them have registered within this run, and so were seen in it.
        tags |= {tag: set(devices) for tag in expressions.OF_ALL}
        return World(devices, tags, moment.states, self._samples)

    def _states_of(self, push_id: int) -> dict[tuple[int, str], frozenset[int]]:
        """Of a push of which all is reported that its devices have to report now."""
        shown = frozenset(self._shown(push_id))
        bounds = self._book.expected.get(push_id)
        # Of one made while tags changed the devices alone know whom it meant.
        targeted = frozenset(bounds.must) if bounds else shown
        states = states_of(targeted, shown, self._crowd.looking())
        return {(push_id, state): frozenset(devices) for state, devices in states.items()}

    def _leaves(self) -> list[Tree]:
        """All that an expression may ask about now."""
        named = self._random.sample(sorted(self._crowd.ids), min(_NAMED, self._crowd.devices // 4))
        return [
            *expressions.leaves_of_tags(),
            *(_state(*which) for which, devices in self._quiet.states.items() if devices),
            *(expressions.sample(fraction) for fraction, _ in self._samples),
            {"devices": [str(device) for device in named]},
        ]

    def _drawn(self, number: int) -> list[Tree]:
        """Expressions that mean somebody, and not nearly everybody, at this moment."""
        leaves, world = self._leaves(), self._world(self._quiet)
        drawn: list[Tree] = []
        while len(drawn) < number:
            tree = expressions.draw_tree(self._random, leaves)
            if 0 < len(meant(tree, world)) <= _WIDEST * len(world.devices):
                drawn.append(tree)
        return drawn

    # Pushing and waiting.

    def _push(self, tree: Tree, stage: str) -> int:
        push_id = self._book.push(tree)
        self._show(stage, self._crowd.counters())
        time.sleep(_STEP_S)
        return push_id

    def _is_quiet(self, now: Counter[str]) -> bool:
        """All are connected, and all that they had to say is safe with the service."""
        owed = now["profiles_unacked"] + now["receipts_outstanding"]
        return now["open"] == self._crowd.devices and not owed

    def _has_reported(self) -> bool:
        """All that was shown until now is reported, and safe with the service."""
        return not self._crowd.counters()["receipts_outstanding"]

    def _settle(self, stage: str) -> None:
        """Until all is quiet and nothing is pending. Raises _Late."""

        def settled(now: Counter[str]) -> bool:
            self._book.refresh()
            return self._is_quiet(now) and not self._book.unfinished()

        self._until(stage, settled)

    def _until(self, stage: str, reached: Callable[[Counter[str]], bool]) -> None:
        """Wait for this to be so of the devices' counters. Raises _Late."""
        deadline = time.monotonic() + _STAGE_S
        while True:
            now = self._crowd.counters()
            self._show(stage, now)
            if reached(now):
                return
            if time.monotonic() >= deadline:
                raise _Late(stage)
            time.sleep(_LOOK_S)

    def _show(self, stage: str, now: Counter[str]) -> None:
        self._view.show(
            stage,
            connected=now["open"],
            tag_changes=self._tag_changes,
            unacknowledged=now["profiles_unacked"],
            pushes=len(self._book.trees),
            shown=now["shown"],
            targeted=self._book.sum("targeted"),
            pending=self._book.sum("pending"),
        )


def _state(push_id: int, state: str) -> Tree:
    return {"push": str(push_id), "state": state}


def run_audience(service: Service, devices: int, seed: int, view: View) -> dict[str, Any]:
    """Raises ApiFailed, ChildFailed, TimeoutError and ValueError, see `AudienceRun.run`."""
    with gathered(service, devices) as crowd, ApiClient(service) as api:
        return AudienceRun(crowd, api, view, seed).run()


def passed(result: dict[str, Any]) -> bool:
    held = ("conserved", "pushes_equal", "stats_equal", "counts_equal", "samples_sound")
    none = ("lost", "duplicates", "strays", "pending", *_NEVER)
    wrong = any(result[name] for name in none) or result["late"] is not None
    return all(result[name] for name in held) and not wrong
