"""Disks that are full say so, and take what comes when there is room again."""

import errno
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.disks import BoundedDisk, Disk, SmallDisk, fillable

WRITER = """
import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
for line in sys.stdin:
    try:
        done = os.write(fd, bytes(20_000))
        print("wrote" if done == 20_000 else "part", flush=True)
    except OSError as error:
        print(error.errno, flush=True)
"""
"""Appends when it is told to, and says how that went."""


class Writer:
    def __init__(self, disk: Disk) -> None:
        path = str(disk.folder / "file")
        self._process = subprocess.Popen(
            [*disk.before(), sys.executable, "-c", WRITER, path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid

    def write(self) -> str:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def end(self) -> None:
        self._process.communicate(timeout=10)


@pytest.fixture(params=["tmpfs", "bound"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    if request.param == "bound":
        yield BoundedDisk(tmp_path / "d", "file")
        return
    try:
        small = SmallDisk(tmp_path / "d")
    except OSError as error:
        pytest.skip(str(error))
    yield small
    small.close()


def test_full_and_free_again(disk: Disk) -> None:
    wanted = str(getattr(errno, disk.said))
    writer = Writer(disk)
    assert writer.write() == "wrote"
    disk.fill([writer.pid])
    said = [writer.write(), writer.write()]
    assert said[-1] == wanted and said[0] in (wanted, "part")
    # One that is started while it is full.
    later = Writer(disk)
    assert later.write() == wanted
    disk.free([writer.pid, later.pid])
    assert writer.write() == later.write() == "wrote"
    writer.end()
    later.end()


def test_a_small_disk_outlives_its_users(disk: Disk) -> None:
    if not isinstance(disk, SmallDisk):
        pytest.skip("a folder as any other")
    writer = Writer(disk)
    assert writer.write() == "wrote"
    writer.end()
    size = subprocess.run(
        [*disk.before(), "stat", "-c", "%s", str(disk.folder / "file")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert size.stdout.strip() == "20000"
    assert not (disk.folder / "file").exists(), "only they see it"


def test_any_machine_has_one_of_them(tmp_path: Path) -> None:
    disk = fillable(tmp_path / "d", "file")
    assert disk.said in ("ENOSPC", "EFBIG")
    disk.close()
