"""Plays runs: phones, people, a bad network and a server, each run driven by one seed.

    python -m tests.phones.simulation --seed 7          plays one run and shows every step
    python -m tests.phones.simulation --seeds 0:1000    plays many, on all cores
    ... --fault dropped_tombstone                       with a fault planted into the server

The same seed gives the same run, to the byte. A run that fails prints the one command that replays it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator

import msgspec

from tests.phones.faults import FAULTS, planted
from tests.phones.history import Violation
from tests.phones.scenario import STEPS, Scenario


class Run(msgspec.Struct, frozen=True):
    """What became of one seed."""

    seed: int
    steps: int
    fault: str
    digest: str = ""
    violation: str = ""

    @property
    def command(self) -> str:
        """What replays it."""
        command = f"python -m tests.phones.simulation --seed {self.seed}"
        if self.steps != STEPS:
            command += f" --steps {self.steps}"
        return command + (f" --fault {self.fault}" if self.fault else "")


def play(seed: int, steps: int = STEPS, fault: str = "", log: Callable[[str], None] | None = None) -> Run:
    """Play one run, with a fault planted or none. ``log`` receives every event of it.

    A run that fails for a reason of its own is no violation; it raises, with its command as a note.
    """
    with planted(fault):
        scenario = Scenario(seed, steps, log)
        try:
            return Run(seed, steps, fault, scenario.play())
        except Violation as violation:
            return Run(seed, steps, fault, scenario.history.digest, str(violation))
        except Exception as error:
            error.add_note(Run(seed, steps, fault).command)
            raise


def play_many(seeds: Iterable[int], steps: int = STEPS, fault: str = "", jobs: int = 0) -> Iterator[Run]:
    """Play many runs on ``jobs`` processes (0: one for each core), as they end."""
    tasks = [(seed, steps, fault) for seed in seeds]
    jobs = min(jobs or os.cpu_count() or 1, len(tasks))
    if jobs <= 1:
        yield from map(_play, tasks)
        return
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap_unordered(_play, tasks, chunksize=4)


def _play(task: tuple[int, int, str]) -> Run:
    try:
        return play(*task)
    except Exception as error:
        return Run(*task, violation=f"the run itself failed: {type(error).__name__}: {error}")


def main(arguments: list[str]) -> int:
    """The command line. 0 when every promise was kept."""
    parser = argparse.ArgumentParser(prog="python -m tests.phones.simulation")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--seed", type=int, help="play one run and show it")
    which.add_argument("--seeds", help="first:last, last not included")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"steps of the turmoil ({STEPS})")
    parser.add_argument("--fault", default="", choices=["", *FAULTS], help="plant a fault into the server")
    parser.add_argument("--jobs", type=int, default=0, help="processes (one for each core)")
    chosen = parser.parse_args(arguments)
    if chosen.seed is not None:
        run = play(chosen.seed, chosen.steps, chosen.fault, print)
        print(f"\n{run.violation or 'every promise was kept'}\ndigest {run.digest}")
        return 1 if run.violation else 0
    first, _, last = chosen.seeds.partition(":")
    return _many(range(int(first), int(last)), chosen.steps, chosen.fault, chosen.jobs)


def _many(seeds: range, steps: int, fault: str, jobs: int) -> int:
    started, failed = time.monotonic(), 0
    for done, run in enumerate(play_many(seeds, steps, fault, jobs), 1):
        if run.violation:
            failed += 1
            print(f"\rseed {run.seed}: {run.violation}\n  {run.command}", flush=True)
        if sys.stdout.isatty() or done % 100 == 0 or done == len(seeds):
            seconds = time.monotonic() - started
            end = "" if sys.stdout.isatty() and done < len(seeds) else "\n"
            print(f"\r{done}/{len(seeds)} runs, {failed} failed, {seconds:.0f} s", end=end, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
