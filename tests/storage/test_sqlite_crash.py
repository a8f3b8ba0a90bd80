"""Crash means crash: what was acknowledged is there after kill -9 and after a power cut."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from tests.storage.disks import PowerDisk, can_mount, power_disk

WRITER_PROCESS = Path(__file__).with_name("writer_process.py")


def write_for(path: Path, durability: str, first: int, seconds: float, disk: PowerDisk | None) -> set[int]:
    """Let a process write, then kill it (after cutting the power of ``disk``); what it acknowledged."""
    command = [sys.executable, str(WRITER_PROCESS), str(path), durability, str(first)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(seconds)
        if disk is not None:
            # First the processor: a sync that is under way when an ext4 is shut down may seem to succeed.
            process.send_signal(signal.SIGSTOP)
            os.waitpid(process.pid, os.WUNTRACED)
            disk.cut()
        process.kill()
        lines = process.stdout.read().splitlines(keepends=True)
    # The last line may be cut; an error's line is no acknowledgement.
    return {int(line) for line in lines if line.endswith("\n") and line.strip().isdigit()}


def stored(path: Path) -> set[int]:
    """What is in the database; it must be whole, and hold both rows of each pair or none."""
    with contextlib.closing(apsw.Connection(str(path))) as connection:
        assert connection.pragma("integrity_check") == "ok"
        rows: Any = connection.execute("SELECT id, pair FROM item").fetchall()
    pairs: dict[int, int] = dict(rows)
    assert all(-id in pairs and pair == -id for id, pair in pairs.items())
    return set(pairs)


@pytest.fixture
def disk() -> Iterator[PowerDisk]:
    with power_disk() as disk:
        yield disk


@pytest.mark.parametrize("crash", ["kill", "power cut"] if can_mount("ext4") else ["kill"])
def test_what_was_acknowledged_survives(crash: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """After each of several crashes, every acknowledged write is there, once, and nothing is half there."""
    disk: PowerDisk | None = request.getfixturevalue("disk") if crash == "power cut" else None
    path = (disk.folder if disk is not None else tmp_path) / "data.db"
    acknowledged: set[int] = set()
    for round in range(4):
        written = write_for(path, "full", 1 + round * 1_000_000, 0.3 + 0.1 * round, disk)
        if disk is not None:
            disk.repower()
        assert written
        acknowledged |= written
        assert acknowledged <= stored(path)


if can_mount("ext4"):

    def test_the_power_cut_can_tell(disk: PowerDisk) -> None:
        """The control: without a sync at each commit, the same power cut loses acknowledged writes."""
        path = disk.folder / "data.db"
        for round in range(10):
            written = write_for(path, "normal", 1 + round * 1_000_000, 0.3, disk)
            disk.repower()
            if written - stored(path):
                return
        raise AssertionError("no power cut lost anything: the test above proves nothing here")
