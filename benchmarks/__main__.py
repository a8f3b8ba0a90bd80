"""``python -m benchmarks``: measure, print a table, write JSON."""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import os
import platform
import resource
import sys
import tempfile
import time
from pathlib import Path

import apsw
import msgspec
from rich.console import Console

import lowtide
from benchmarks import (
    browser,
    first_sync,
    live,
    login,
    networks,
    peers,
    reconnect,
    report,
    rest,
    start,
    uploads,
)
from benchmarks.meter import Machine
from benchmarks.rows import as_json
from benchmarks.run import Run

AREAS = {
    "start": start.measure,
    "upload": uploads.measure,
    "first-sync": first_sync.measure,
    "live": live.measure,
    "reconnect": reconnect.measure,
    "rest": rest.measure,
    "networks": networks.measure,
    "browser": browser.measure,
    "login": login.measure,
}
RESULTS = Path(__file__).parent / "results.json"
WIDTH = 170
"""Columns where nobody looks at a terminal."""
PACKAGES = ("apsw", "asyncpg", "msgspec", "uvicorn", "uvloop", "httptools")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round of each: under 90 seconds")
    parser.add_argument("--only", choices=list(AREAS), action="append", help="only this; repeatable")
    parser.add_argument("--no-peers", action="store_true", help="measure Lowtide alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="default: benchmarks/results.json")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="the table for a page, too")
    asked = parser.parse_args()
    # A thousand connections need more files than many systems give by default.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 8192 if hard == resource.RLIM_INFINITY else min(8192, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    areas = asked.only or list(AREAS)
    with tempfile.TemporaryDirectory(prefix="lowtide-bench-") as folder:
        run = Run(console, Path(folder), quick=asked.quick)
        with run.working():
            subjects = [] if asked.no_peers else peers.prepare(run)
            began, machine = time.monotonic(), Machine()
            for area in areas:
                AREAS[area](run)
                for peer in subjects:
                    peer.measure(run, area)
            about = _about(time.monotonic() - began, machine.busy(), asked.quick)
    console.print()
    report.show(console, run.rows)
    console.print(
        f"\n{about['seconds']:.0f} s; {about['busy_cores']:.1f} of {about['cores']} cores were busy. "
        "CPU figures compare; wall figures are floors.",
        highlight=False,
    )
    file = asked.json or RESULTS
    file.write_bytes(msgspec.json.format(msgspec.json.encode({"about": about, "rows": as_json(run.rows)})))
    if asked.markdown is not None:
        asked.markdown.write_text(report.markdown(run.rows), "utf-8")
    console.print(f"written to {file}", highlight=False)
    return 0


def _about(seconds: float, busy: float, quick: bool) -> dict[str, object]:
    return {
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "quick": quick,
        "cores": os.cpu_count(),
        "busy_cores": round(busy, 2),
        "machine": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "sqlite": apsw.sqlite_lib_version(),
        "lowtide": lowtide.__version__,
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


if __name__ == "__main__":
    sys.exit(main())
