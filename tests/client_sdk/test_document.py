"""docs/sdk.md: the example of events does what the page says."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

from client_sdk import Device
from tests.client_sdk.devices import device_of
from tests.client_sdk.edge import Edge
from tests.waiting import until

PAGE = (Path(__file__).parents[2] / "docs" / "sdk.md").read_text()
Run = Callable[[Device, dict[int, str]], Awaitable[None]]


def example(heading: str) -> dict[str, object]:
    """The names that the first block of Python under a heading defines."""
    (section,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert code
    names: dict[str, object] = {}
    exec(compile(code[1], f"docs/sdk.md, {heading}", "exec"), names)
    return names


async def test_the_example_of_events(edge: Edge, state_dir: Path) -> None:
    run: Run = example("Events")["run"]  # type: ignore[assignment]
    screen: dict[int, str] = {}
    device = device_of(edge, state_dir)
    running = asyncio.ensure_future(run(device, screen))
    peer = await edge.welcomed()
    peer.messages(1, 2)
    peer.messages(3, key="score")
    await until(lambda: screen.keys() == {1, 2, 3})
    peer.recall(1)
    await until(lambda: screen.keys() == {2, 3})
    peer.messages(4, key="score")
    await until(lambda: screen.keys() == {2, 4})
    await device.close()
    await running
    assert screen == {2: "title", 4: "title"}
