"""A first sync into a real browser: the unmodified SDK for the web in Chromium, with a reload on the way.

The clock is that of the wall: what takes the time is the browser's SQLite. The longest stall is the longest
time in which the page could not draw.
"""

from __future__ import annotations

from benchmarks.rows import Row
from benchmarks.run import Run
from tests.acceptance import scenarios
from tests.server_process import ServerProcess

AREA = "browser"
DEADLINE = 900.0
"""Seconds."""


def measure(run: Run) -> None:
    rows = run.table_rows
    run.say(f"a first sync of {rows:,} rows into a browser")
    folder = run.folder / "browser"
    folder.mkdir()
    with ServerProcess(folder / "server", scenarios.APPS["crew"], "crew") as server:
        seen = scenarios.run("web_first_sync", server, folder, given={"rows": rows}, deadline=DEADLINE)
    if seen["count"] != rows:
        raise RuntimeError(f"{seen['count']} rows arrived")
    sent = sum(seen["bytes"])
    note = f"{rows:,} rows of 170 bytes; {seen['bytes'][0] / sent:.0%} of the bytes came before the reload"
    for name, measure, value, per in (
        ("first sync with a reload in between", "s", seen["seconds"], ""),
        ("first sync, bytes", "MB", sent / 1e6, ""),
        ("longest stall of the page", "ms", seen["stall"], ""),
    ):
        run.add(Row(area=AREA, name=name, measure=measure, per=per, rounds=[value], note=note))
        note = ""
