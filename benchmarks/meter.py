"""What a process costs: CPU time and memory of it and all its children, read from outside.

On Linux the CPU time is the kernel's own clock of each process, in nanoseconds; elsewhere it is what
``psutil`` tells, in steps of ten milliseconds.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path
from typing import Self

import psutil


def tree(pid: int) -> list[psutil.Process]:
    """The process and its children, as far as they still live."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def cpu_seconds(process: psutil.Process) -> float:
    """CPU time that the process has used since it began, of all its threads, user and system."""
    try:
        if sys.platform == "linux":
            # clock_getcpuclockid(3): the clock of another process, CPUCLOCK_SCHED of its pid.
            return time.clock_gettime((~process.pid << 3) | 2)
        times = process.cpu_times()
        return float(times.user + times.system)
    except (OSError, psutil.NoSuchProcess):
        return 0.0


def stepped_back(pid: int) -> float:
    """CPU time of the process's threads that run at a lower priority than it; 0 where that is not told."""
    if sys.platform != "linux":
        return 0.0
    total = 0
    own = os.getpriority(os.PRIO_PROCESS, pid)
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            if os.getpriority(os.PRIO_PROCESS, int(thread.name)) > own:
                # proc(5): nanoseconds on a processor come first.
                total += int((thread / "schedstat").read_text().split()[0])
    return total / 1e9


def memory(pid: int) -> int:
    """Bytes that would be free if the process and its children were gone."""
    total = 0
    for process in tree(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_full_info().uss
    return total


def resident(pid: int) -> int:
    """Resident bytes of the process and its children, shared pages counted in each."""
    total = 0
    for process in tree(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total


class Meter:
    """``with Meter(pid) as meter: …`` then ``meter.cpu`` and ``meter.wall``, in seconds."""

    def __init__(self, pid: int):
        self._pid = pid
        self.cpu = 0.0
        self.wall = 0.0

    def __enter__(self) -> Self:
        self._before = {process.pid: cpu_seconds(process) for process in tree(self._pid)}
        self._began = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall = time.perf_counter() - self._began
        # A child that was born meanwhile counts from its birth; one that ended is lost.
        self.cpu = sum(cpu_seconds(p) - self._before.get(p.pid, 0.0) for p in tree(self._pid))


class Machine:
    """How busy the machine was with other things, which is what makes wall times floors."""

    def __init__(self) -> None:
        psutil.cpu_percent(interval=None)

    def busy(self) -> float:
        """Cores in use, ours included, on average since the last call."""
        return float(psutil.cpu_percent(interval=None)) / 100 * (psutil.cpu_count() or 1)
