"""Starting: until the first 200, what an idle server holds, and how long ``lowtide --help`` takes."""

from __future__ import annotations

import compileall
import os
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import lowtide
from benchmarks.meter import cpu_seconds, resident, tree
from benchmarks.rows import Row
from benchmarks.run import Run

IDLE_SECONDS = 1.0


def measure(run: Run) -> None:
    # As an installer leaves them: every start would otherwise compile the modules that have no bytecode.
    installed = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    for folder in (Path(lowtide.__file__).parent, *installed):
        compileall.compile_dir(str(folder), quiet=2)
    run.say("starting")
    first: list[float] = []
    again: list[float] = []
    cpu, held = [], []
    for _ in range(run.rounds + 1):
        server = run.server()
        for times in (first, again):
            began = time.perf_counter()
            server.start()
            times.append((time.perf_counter() - began) * 1e3)
            process = tree(server.pid)[0]
            if times is again:
                cpu.append(cpu_seconds(process) * 1e6)
                time.sleep(IDLE_SECONDS)
                held.append(resident(server.pid) / 1e6)
            server.stop()
    add = run.add
    add(Row(area="start", name="new project, to the first 200", measure="ms", rounds=first[1:], limit=1_000))
    add(Row(area="start", name="again, to the first 200", measure="ms", rounds=again[1:], limit=1_000))
    add(Row(area="start", name="again, CPU", per="start", rounds=cpu[1:]))
    add(Row(area="start", name="idle, resident memory", measure="MB", rounds=held[1:], limit=60))
    run.say("lowtide --help")
    wall, used = [], []
    for _ in range(run.rounds * 2 + 1):
        elapsed, spent = _help()
        wall.append(elapsed * 1e3)
        used.append(spent * 1e6)
    add(Row(area="start", name="lowtide --help", measure="ms", rounds=wall[1:], limit=150))
    add(Row(area="start", name="lowtide --help, CPU", per="call", rounds=used[1:]))


def _help() -> tuple[float, float]:
    """Seconds on the wall, seconds of CPU."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "lowtide", "--help"], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError("lowtide --help failed")
    return time.perf_counter() - began, usage.ru_utime + usage.ru_stime
