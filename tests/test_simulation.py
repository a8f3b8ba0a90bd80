"""The property suite: real client cores, people, a bad network and the server, over many seeds.

A failure prints one command; it replays the very run and shows every step of it. 'make soak' plays thousands.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.phones.faults import FAULTS
from tests.phones.simulation import play, play_many

ROOT = Path(__file__).parent.parent
SEEDS = 200
SEEDS_TO_CATCH = 60


def test_every_promise_is_kept_over_two_hundred_seeds() -> None:
    """Whatever the network, the people and the power do, promises 1 to 7 hold."""
    broken = [run for run in play_many(range(SEEDS)) if run.violation]
    assert not broken, "\n".join(f"{run.violation}\n  replay: {run.command}" for run in broken)


def test_a_seed_is_one_history_in_every_process() -> None:
    """The same seed gives the same events, byte for byte, whatever the hash seed of the process."""
    here = [play(seed).digest for seed in (3, 4)]
    assert here == [play(seed).digest for seed in (3, 4)]
    assert here[0] != here[1]
    code = "from tests.phones.simulation import play; print(*(play(seed).digest for seed in (3, 4)))"
    there = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "12345"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert there.stdout.split() == here


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_caught(fault: str) -> None:
    """Each mistake that could be made in the server breaks a promise that the checker names."""
    for seed in range(SEEDS_TO_CATCH):
        run = play(seed, fault=fault)
        if run.violation:
            assert re.match(r"[1-7]: ", run.violation), run.violation
            assert run.command == f"python -m tests.phones.simulation --seed {seed} --fault {fault}"
            assert play(seed).violation == "", "the fault, and not the run, is what was caught"
            return
    pytest.fail(f"{fault} went unnoticed for {SEEDS_TO_CATCH} seeds")
