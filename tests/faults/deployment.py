"""Two edges, two dispatch nodes, an API and a store, each a process; a relay on every way between."""

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from gateway.dispatch.assignment import owner_of
from gateway.store.apps import Apps, NewApp
from gateway.store.client import Store
from gateway.store.leases import Identity
from protocol.ids import split_device_id
from tests.faults.complaints import complaints, server_complaints
from tests.faults.disks import Disk, fillable
from tests.faults.door import Door
from tests.faults.plan import Address, Size
from tests.faults.relay import Relay
from tests.faults.roles import Role, StoreRole, columba
from tests.faults.rpc_relay import RpcRelay
from tests.faults.sdk_fleet import SdkChild, SdkFleet, config_of
from tests.faults.traffic import GROUPS

EDGES: Final = ("edge1", "edge2")
NODES: Final = ("node1", "node2")
PARTITIONS: Final = 8
Settings = dict[str, object]
SETTINGS: Final[Settings] = {
    "service.partitions": PARTITIONS,
    "edge.drain_s": 0.2,
    "edge.heartbeat_min_s": 1,
    "edge.allow_plaintext": "true",
    "edge.output_cap_bytes": 32 * 1024,
    "dispatch.live_only_s": 2,
    "dispatch.snapshot_records": 500,
    "dispatch.snapshot_s": 2,
}
SHORT_TIMES: Final[Settings] = {
    # So that a run takes seconds: what is checked does not depend on them.
    "store.lease_s": 2.0,
    "store.timeout_s": 2.0,
    "edge.spread_ms": 500,
    "edge.backoff_base_ms": 200,
    "edge.backoff_max_ms": 1000,
    "dispatch.resend_s": 3,
    "dispatch.not_there_s": 0.3,
    "dispatch.fanout_overdue_s": 1,
}
BOUNDS_MB: Final = {"edge": 160, "node": 200, "api": 200, "store": 250, "sdk": 120}
"""Resident size, by kind of process: about twice what a calm run of 2,000 devices takes."""

Chances = Callable[[str], random.Random]
"""A source of chance for each part, so that one's draws do not depend on another's timing."""


class Deployment:
    """Made by `deployed`. Names: store, api, edge1, edge2, node1, node2, sdk1, sdk2, …"""

    def __init__(self, folder: Path, size: Size, chances: Chances) -> None:
        self._folder = folder
        self._size = size
        self._chances = chances
        self._times: Settings = {} if size.product_times else SHORT_TIMES
        self.disks: dict[str, Disk] = {}
        """Of the store and of the SDK's devices."""
        self.roles: dict[str, Role] = {}
        self.to_store: dict[str, Relay] = {}
        """Role -> the relay between it and the store."""
        self.to_edge: dict[str, RpcRelay] = {}
        """Edge -> the relay between the nodes and it."""
        self.to_node: dict[str, RpcRelay] = {}
        """Node -> the relay between the API and it; only up to the node's first restart, since each
        start listens on a socket of its own name."""
        self.device_door: Door
        """Between the devices and the port that all edges share."""
        self.api: tuple[str, int] = ("", 0)
        self.app: NewApp
        self.sdk: SdkFleet

    async def begin(self, stack: AsyncExitStack, small: Iterable[str]) -> None:
        """Everything but the SDK's devices. Raises RoleFailed, CannotHere."""
        for name, growing in (("store", "*.incr.aof"), ("sdk", "journal")):
            folder = self._folder / f"disk-{name}"
            disk = fillable(folder, growing) if name in small else Disk(folder)
            self.disks[name] = disk
            stack.callback(disk.close)
        store = StoreRole(self.disks["store"], _free_port(), self._folder)
        self.roles["store"] = store
        stack.push_async_callback(self.end)
        await store.start()
        device_port, api_port = _free_port(), _free_port()
        self.api = ("127.0.0.1", api_port)
        door = Door(("127.0.0.1", device_port), self._chances("relay door"))
        door.mark()  # a machine that cannot is found out before anything is hurt
        self.device_door = await stack.enter_async_context(door)
        self.app = await self._make_app(store)
        for name in EDGES:
            await self._add_edge(stack, name, device_port)
        for name in NODES:
            await self._add(stack, name, "dispatch", {})
        await self._start(*EDGES, *NODES)
        for name in NODES:
            path = str(self.roles[name].ready["rpc"]).removeprefix("unix:")
            relay = RpcRelay(path, self._chances(f"relay to {name}"))
            self.to_node[name] = await stack.enter_async_context(relay)
        # Behind them, so that it finds the relays in the place of the nodes.
        await self._add(stack, "api", "api", {"api.listen": f"127.0.0.1:{api_port}"})
        await self._start("api")
        # Once more: they stop while the relays still pass what they say at their ends.
        stack.push_async_callback(self.end)

    async def _start(self, *names: str) -> None:
        async with asyncio.TaskGroup() as group:
            for name in names:
                group.create_task(self.roles[name].start())

    async def _add_edge(self, stack: AsyncExitStack, name: str, device_port: int) -> None:
        rpc_port = _free_port()
        relay = RpcRelay(("127.0.0.1", rpc_port), self._chances(f"relay to {name}"))
        self.to_edge[name] = await stack.enter_async_context(relay)
        settings: Settings = {
            "edge.listen": f"127.0.0.1:{device_port}",
            "edge.rpc_listen": f"127.0.0.1:{rpc_port}",
            "edge.rpc_advertise": f"127.0.0.1:{self.to_edge[name].port}",
        }
        await self._add(stack, name, "edge", settings)

    async def _relay(self, stack: AsyncExitStack, name: str, target: Address) -> Relay:
        relay = Relay(target, self._chances(f"relay {name}"))
        return await stack.enter_async_context(relay)

    async def _add(
        self, stack: AsyncExitStack, name: str, command: str, settings: Settings
    ) -> None:
        store = self.roles["store"]
        assert isinstance(store, StoreRole)
        relay = self.to_store[name] = await self._relay(stack, f"{name} store", store.address)
        url = f"redis://127.0.0.1:{relay.port}/0"
        every = {**SETTINGS, **self._times, **settings}
        line = columba(command, self._folder / "data", url, every)
        self.roles[name] = Role(name, line, self._folder / f"{name}.log")

    async def _make_app(self, role: StoreRole) -> NewApp:
        store = await Store.connect(f"redis://{role.address[0]}:{role.address[1]}/0")
        try:
            return await Apps(store).create("faults")
        finally:
            await store.close()

    async def begin_sdk(self, first_place: int) -> None:
        """The SDK's devices; their places in the list of devices begin there. Raises RoleFailed."""
        size, place = self._size, first_place
        children = []
        for n in range(1, size.sdk_children + 1):
            name = f"sdk{n}"
            tags = [[f"group:{(place + k) % GROUPS}"] for k in range(size.sdk_devices)]
            place += size.sdk_devices
            folders = (self._folder / "lines", self.disks["sdk"].folder)
            door = f"127.0.0.1:{self.device_door.port}"
            config = config_of(name, tags, self.app, door, folders, self._chances(name))
            child = SdkChild(name, config, self.disks["sdk"], self._folder / f"{name}.log")
            self.roles[name] = child
            children.append(child)
        self.sdk = SdkFleet(children, self._chances("kills of the sdk"))
        for child in children:
            await child.begin()

    async def end(self) -> None:
        """Everything we started, the store last."""
        for name, role in self.roles.items():
            role.thaw()
            if name.startswith("sdk"):
                role.kill()  # that is what they are there for
        async with asyncio.TaskGroup() as group:
            for name, role in self.roles.items():
                if name != "store":
                    group.create_task(asyncio.to_thread(role.stop))
        self.roles["store"].kill()

    # What a scenario and the checks ask.

    def node_of(self, device: int) -> str:
        """The node that owns a device's partition while both live."""
        partition, _ = split_device_id(device)
        nodes = {
            Identity("node", ready["number"], ready["start"]): name
            for name in NODES
            for ready in [self.roles[name].ready]
        }
        owner = owner_of(partition, nodes)
        assert owner is not None
        return nodes[owner]

    def over_memory(self) -> list[str]:
        """Processes that have been larger than their bound."""
        found = []
        for name, role in self.roles.items():
            role.note()
            bound = BOUNDS_MB[name.rstrip("0123456789")]
            if role.max_rss_kb > bound * 1024:
                found.append(f"{name}: {role.max_rss_kb // 1024} MB, at most {bound}")
        return found

    @property
    def max_rss_mb(self) -> dict[str, float]:
        """Of the largest of each kind."""
        largest: dict[str, float] = {}
        for name, role in self.roles.items():
            kind = name.rstrip("0123456789")
            largest[kind] = max(largest.get(kind, 0.0), round(role.max_rss_kb / 1024, 1))
        return largest

    def note(self, name: str, text: str) -> None:
        """Beside the logs, for whoever looks for a cause."""
        (self._folder / name).write_text(text)

    def complaints(self) -> list[str]:
        found = []
        for name, role in self.roles.items():
            read = server_complaints if name == "store" else complaints
            found += [f"{name}: {line}" for line in read(role.log)]
        return found

    def deaths(self) -> list[str]:
        """Processes that ended though nobody asked for it."""
        return [
            f"{name} ended by itself, code {code}"
            for name, role in self.roles.items()
            for code in role.ended_by_itself
        ]


@asynccontextmanager
async def deployed(
    folder: Path, size: Size, chances: Chances, small: Iterable[str]
) -> AsyncIterator[Deployment]:
    """`small`: whose disks can be filled."""
    async with AsyncExitStack() as stack:
        deployment = Deployment(folder, size, chances)
        await deployment.begin(stack, small)
        yield deployment


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
