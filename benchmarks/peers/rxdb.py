"""RxDB with its own server: offline documents whose conflicts the client decides. Everything in memory.

The server is under the SSPL. It is installed and run here to be measured, and is no part of Lowtide.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks import networks
from benchmarks.peers.peer import HOME, Peer, run_quietly
from benchmarks.run import Run

# The last version of its server works with this one, and with express 4.
PACKAGES = (
    "rxdb@15.39.0",
    "rxdb-server@15.22.0",
    "rxjs@7.8.2",
    "express@4.22.3",
    "cors@2.8.6",
    "body-parser@2.4.0",
    "eventsource@2.0.2",
)


class RxDb(Peer):
    name = "RxDB"

    def installed(self) -> bool:
        return (HOME / "rxdb" / "node_modules" / "rxdb-server").exists()

    def install(self) -> None:
        folder = HOME / "rxdb"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text('{"private": true}')
        options = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        run_quietly(["npm", "install", *options, *PACKAGES], folder)

    def command(self, folder: Path, port: int) -> Sequence[str]:
        tasks = folder / "tasks.json"
        tasks.write_text(json.dumps(networks.tasks()), "utf-8")
        return [
            "node",
            str(networks.placed("rxdb.mjs", HOME / "rxdb").parent / "rxdb_server.mjs"),
            str(port),
            str(tasks),
        ]

    def start(self, run: Run) -> None:
        """Its server is a library of the app's own program: there is no start to measure."""

    def networks(self, run: Run) -> None:
        folder = run.folder / "rxdb-networks"
        with self.serving(folder) as served:
            system = networks.System(self.name, served.port, HOME / "rxdb" / "rxdb.mjs", folder)
            asyncio.run(networks.measure_system(run, system))
