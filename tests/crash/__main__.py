"""Crashes by the dozen: ``python -m tests.crash --rounds 100``, ``python -m tests.crash --power-cuts 20``.

A line a round. A broken promise ends the run with exit code 1 and the command that repeats its world: the
same moments, the same kills, the same writes, as far as the machine's own timing allows.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.crash import power
from tests.crash.rounds import Broken, Dialect, World

ROUNDS_A_WORLD = 10
"""After these a new world starts: with an empty database, and the next seed."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--rounds", type=int, default=0, help="kill -9 in this many rounds, on each database")
    parser.add_argument("--power-cuts", type=int, default=0, help="cut the power of a disk so many times")
    parser.add_argument("--seed", type=int, default=1, help="the first world's seed (default: 1)")
    parser.add_argument("--database", choices=["sqlite", "postgres"], help="only this one (default: both)")
    arguments = parser.parse_args()
    if not arguments.rounds and not arguments.power_cuts:
        parser.error("say --rounds N or --power-cuts N")
    databases: list[Dialect] = [arguments.database] if arguments.database else ["sqlite", "postgres"]
    fine = all(rounds(dialect, arguments.rounds, arguments.seed) for dialect in databases)
    return 0 if power_cuts(arguments.power_cuts, arguments.seed) and fine else 1


def rounds(dialect: Dialect, count: int, seed: int) -> bool:
    """Run ``count`` rounds; False as soon as a promise is broken."""
    done = 0
    while done < count:
        with (
            tempfile.TemporaryDirectory(prefix="lowtide-crash-") as folder,
            World(Path(folder), dialect, seed) as world,
        ):
            for _ in range(min(ROUNDS_A_WORLD, count - done)):
                try:
                    round = world.round()
                except (Broken, RuntimeError, TimeoutError) as error:
                    return broken(error, f"--rounds {ROUNDS_A_WORLD} --seed {seed} --database {dialect}")
                done += 1
                print(
                    f"{dialect:8} {done:4}/{count}  seed {seed}  {round.crash:8} killed after "
                    f"{round.after:.2f} s  {round.acknowledged:5} acknowledged, {round.unknown:2} unknown of "
                    f"which {round.applied:2} applied, {round.refused:4} refused  {round.seconds:4.1f} s",
                    flush=True,
                )
        seed += 1
    return True


def power_cuts(count: int, seed: int) -> bool:
    """Cut ``count`` times, with the control besides; False when something acknowledged was lost."""
    if not count:
        return True
    if not power.possible():
        print(f"power cuts are not possible here: this {power.REASON}", file=sys.stderr)
        return False
    started, lost_by_control = time.monotonic(), 0
    for number in range(1, count + 1):
        try:
            cut = power.cut(seed)
        except (Broken, RuntimeError, TimeoutError) as error:
            return broken(error, f"--power-cuts 1 --seed {seed}")
        control = power.cut(seed, fault="loses_power")
        lost_by_control += control.lost
        print(
            f"power    {number:4}/{count}  seed {seed}  cut after {cut.after:.2f} s  {cut.acknowledged:4} "
            f"acknowledged, {cut.lost} lost  (without syncs: {control.lost} of {control.acknowledged} lost)",
            flush=True,
        )
        if cut.lost:
            return broken(
                Broken(f"{cut.lost} acknowledged transactions are gone"), f"--power-cuts 1 --seed {seed}"
            )
        seed += 1
    if not lost_by_control:
        print("the control lost nothing either: these cuts prove nothing", file=sys.stderr)
        return False
    print(f"power    {count} cuts in {time.monotonic() - started:.0f} s, nothing acknowledged was lost")
    return True


def broken(error: Exception, again: str) -> bool:
    """Say what is wrong and how to see it again."""
    print(f"BROKEN   {type(error).__name__}: {error}", file=sys.stderr)
    print(f"repeat   python -m tests.crash {again}", file=sys.stderr)
    return False


if __name__ == "__main__":
    sys.exit(main())
