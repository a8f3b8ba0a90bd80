"""What every peer has: a way to install it, a process, and a method for each area that it can do."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.meter import cpu_seconds, resident, tree
from benchmarks.rows import Row
from benchmarks.run import Run

HOME = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lowtide-benchmarks"
"""Where peers are installed, once."""
INSTALL_SECONDS = 900
START_SECONDS = 60.0
IDLE_SECONDS = 1.0
ROWS = 20_000
"""Rows of a peer's first sync: enough for the cost of a row, in bounded time."""


class Unavailable(Exception):
    """The peer cannot be installed or started here."""


class Peer:
    """One peer. Subclasses add ``upload``, ``first_sync``, ``live`` and ``reconnect`` as far as they can."""

    name = ""
    health = "/"
    """What answers 200 once the server is up."""

    def installed(self) -> bool:
        raise NotImplementedError

    def install(self) -> None:
        """Raises ``Unavailable``."""
        raise NotImplementedError

    def command(self, folder: Path, port: int) -> Sequence[str]:
        """What serves the data in ``folder``."""
        raise NotImplementedError

    def measure(self, run: Run, area: str) -> None:
        """Add this peer's rows of ``area``. A peer that fails has a row that says how."""
        work = getattr(self, area.replace("-", "_"), None)
        if work is None:
            return
        run.say(f"{area}, {self.name}")
        try:
            work(run)
        except Exception as error:
            note = f"{type(error).__name__}: {error}"
            run.add(Row(area=area.replace("-", " "), name="failed", subject=self.name, measure="", note=note))

    @contextlib.contextmanager
    def serving(self, folder: Path) -> Iterator[Served]:
        """A running server over ``folder``. Raises ``Unavailable`` when it does not come up."""
        folder.mkdir(parents=True, exist_ok=True)
        served = Served(self, folder)
        try:
            yield served
        finally:
            served.stop()

    def start(self, run: Run) -> None:
        """The rows of the area ``start``."""
        first: list[float] = []
        again: list[float] = []
        cpu, held = [], []
        for i in range(min(3, run.rounds)):
            folder = run.folder / f"{self.name}-start-{i}"
            for times in (first, again):
                with self.serving(folder) as served:
                    times.append(served.started_in * 1e3)
                    if times is again:
                        cpu.append(sum(cpu_seconds(p) for p in tree(served.pid)) * 1e6)
                        time.sleep(IDLE_SECONDS)
                        held.append(resident(served.pid) / 1e6)
        for name, measure, per, rounds in (
            ("new project, to the first 200", "ms", "", first),
            ("again, to the first 200", "ms", "", again),
            ("again, CPU", "µs CPU", "start", cpu),
            ("idle, resident memory", "MB", "", held),
        ):
            run.add(Row(area="start", name=name, subject=self.name, measure=measure, per=per, rounds=rounds))


class Served:
    """One process of a peer."""

    def __init__(self, peer: Peer, folder: Path):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        began = time.perf_counter()
        with (folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                peer.command(folder, self.port),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.pid = self._process.pid
        while not self._answers(peer.health):
            if self._process.poll() is not None or time.perf_counter() - began > START_SECONDS:
                self.stop()
                raise Unavailable(f"it did not start: {(folder / 'server.log').read_text('utf-8')[-500:]}")
            time.sleep(0.02)
        self.started_in = time.perf_counter() - began

    def stop(self) -> None:
        """End it and all its children."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGTERM)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.pid, signal.SIGKILL)
            self._process.wait(10)

    def _answers(self, path: str) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                request = f"GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
                connection.sendall(request.encode())
                return connection.makefile("rb").readline().split()[1:2] == [b"200"]
        except OSError:
            return False


def run_quietly(command: Sequence[str], folder: Path) -> None:
    """Run an installer. Raises ``Unavailable`` with the end of what it said."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(
            command, cwd=folder, check=True, capture_output=True, text=True, timeout=INSTALL_SECONDS
        )
    except FileNotFoundError:
        raise Unavailable(f"{command[0]} is not on this machine") from None
    except subprocess.TimeoutExpired:
        raise Unavailable(f"it was not installed within {INSTALL_SECONDS} s") from None
    except subprocess.CalledProcessError as error:
        raise Unavailable(f"it cannot be installed: {error.stderr.strip()[-300:]}") from None
