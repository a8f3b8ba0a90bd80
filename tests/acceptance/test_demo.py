"""The demonstration, as ``make demo`` runs it, but shorter."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_demonstration_ends_with_equal_phones_and_every_edit_accounted_for() -> None:
    """Its own check decides: it ends with 0 only if nothing is missing."""
    command = [sys.executable, "-m", "examples.demo", "--seconds", "4"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "hold the same rows, to the byte" in done.stdout
    assert "✗" not in done.stdout
