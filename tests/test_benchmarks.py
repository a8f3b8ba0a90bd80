"""The benchmarks run. What they find is never a test: a busy machine must not fail anybody."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_a_quick_run_writes_its_figures(tmp_path: Path) -> None:
    """One area, alone: every row has a number and a unit, and says whether its budget holds."""
    file = tmp_path / "figures.json"
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "benchmarks",
        "--quick",
        "--only",
        "start",
        "--no-peers",
        "--json",
        file,
    ]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert ran.returncode == 0, ran.stderr
    written = json.loads(file.read_text("utf-8"))
    assert written["about"]["quick"] is True
    rows = {row["name"]: row for row in written["rows"]}
    assert {row["area"] for row in rows.values()} == {"start"}
    for name in ("new project, to the first 200", "idle, resident memory", "lowtide --help"):
        row = rows[name]
        assert row["value"] > 0
        assert row["measure"]
        assert row["holds"] is (row["value"] <= row["limit"])
        assert row["peers"] == {}
        assert name in ran.stdout
    assert not (set(rows) & {"failed", "installed"})


def test_an_unknown_area_is_refused(tmp_path: Path) -> None:
    """A misspelt area measures nothing, instead of everything."""
    file = tmp_path / "figures.json"
    command: list[str | Path] = [sys.executable, "-m", "benchmarks", "--only", "strat", "--json", file]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 2
    assert "first-sync" in ran.stderr
    assert not file.exists()
