"""A server as its operator runs it: ``lowtide serve`` in a folder of its own, behind a real socket.

It is a process group of its own, so that ``kill`` is a crash: kill -9 of everything that belongs to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Self, TypeVar

from lowtide.auth import Tokens
from lowtide.cli.keys import open_keys
from lowtide.kernel.clock import SystemClock
from lowtide.kernel.ids import SystemIds
from lowtide.settings import Settings
from lowtide.storage.db import Database
from lowtide.storage.db.postgres import PostgresDatabase
from lowtide.storage.db.sqlite import SqliteDatabase
from lowtide.storage.db.sqlite_beside import SqliteBeside
from lowtide.sync.store import begin_epoch

T = TypeVar("T")
ROOT = Path(__file__).parent.parent
SECRET_KEY = "c2VjcmV0IHNlY3JldCBzZWNyZXQgc2VjcmV0IHNlY3I"
"""Of every server with PostgreSQL: its nodes share it."""
START_SECONDS = 30.0
STOP_SECONDS = 20.0
_PARENT_DEATH_SIGNAL = 1


class ServerProcess:
    """``with ServerProcess(folder, app, "crew") as server:`` serves ``app``, a Python file that declares it.

    ``postgres`` is the address of a database; without it the data is a SQLite file in ``folder``, or where
    ``settings`` say. ``command`` runs in the folder, instead of ``lowtide serve``.
    """

    def __init__(
        self,
        folder: Path,
        app: Path,
        name: str,
        *,
        postgres: str | None = None,
        settings: dict[str, str] | None = None,
        command: tuple[str, ...] = ("-m", "lowtide", "serve"),
    ):
        self.folder = folder
        self.name = name
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        # Tests and benchmarks ask as often as they can.
        self._settings = {
            "database": postgres or str(folder / "data.db"),
            "port": str(self.port),
            "rate_limits": "0",
        } | (settings or {})
        self._database = self._settings["database"]
        if postgres is not None:
            self._settings.setdefault("secret_key", SECRET_KEY)
        self._postgres = postgres is not None
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._tokens: Tokens | None = None
        self.deploy(app)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.running:
            self.kill()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def deploy(self, app: Path) -> None:
        """Put another version of the app in place: it counts from the next start on."""
        self.folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(app, self.folder / "app.py")

    def start(self) -> None:
        """Start, and wait until requests are answered. Raises ``RuntimeError`` with the log's end."""
        self.spawn()
        until = time.monotonic() + START_SECONDS
        while not self._answers():
            if not self.running or time.monotonic() > until:
                code = None if self._process is None else self._process.poll()
                self.kill()
                raise RuntimeError(f"the server did not start (exit code {code}):\n{self.log()[-4000:]}")
            time.sleep(0.02)

    def spawn(self) -> None:
        """Start, and wait for nothing."""
        self._tokens = None
        environment = {name: value for name, value in os.environ.items() if not name.startswith("LOWTIDE_")}
        environment |= {
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]),
            **{f"LOWTIDE_{name.upper()}": value for name, value in self._settings.items()},
        }
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, *self._command],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )

    def kill(self) -> None:
        """Crash: kill -9 of the whole process group."""
        if self._process is None:
            return
        process, self._process = self._process, None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(STOP_SECONDS)

    def freeze(self) -> None:
        """Stop the processor: nothing of the server runs any more, until ``kill``."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGSTOP)
        os.waitpid(self._process.pid, os.WUNTRACED)

    def stop(self) -> int:
        """Ask it to end, as an operator does; its exit code."""
        assert self._process is not None
        process, self._process = self._process, None
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(STOP_SECONDS)
            raise

    def log(self) -> str:
        """What the server has said, over all its starts."""
        file = self.folder / "log"
        return file.read_text("utf-8", "replace") if file.exists() else ""

    def faults(self) -> list[str]:
        """What in the log must not be there: errors, tracebacks, warnings of Python."""
        found = []
        for text in self.log().splitlines():
            try:
                line: Any = json.loads(text)
            except ValueError:
                found.append(text)
                continue
            if (
                line.get("level") in ("error", "critical")
                or line.get("status", 0) >= 500
                or "traceback" in line
            ):
                found.append(text)
        return found

    @property
    def tokens(self) -> Tokens:
        """What signs and verifies as the server does, from its own database."""
        if self._tokens is None:
            loading = self._load_tokens()
            self._tokens = asyncio.run(loading) if self._postgres else _at_once(loading)
        return self._tokens

    def token(
        self,
        user: str,
        *,
        space: str = "main",
        ttl: int = 3600,
        claims: dict[str, Any] | None = None,
        server: bool = False,
        roles: tuple[str, ...] = (),
    ) -> str:
        """A token for ``user``, signed with the server's own key. The server must have started once."""
        return self.tokens.sign(user, space=space, ttl=ttl, claims=claims, server=server, roles=roles)

    def begin_epoch(self) -> None:
        """Stop, do to the database what ``lowtide restore`` does to one that was put back, and start."""
        assert self.stop() == 0, self.log()[-4000:]

        async def work() -> None:
            database = self._open(beside=False)
            await database.start()
            try:
                await database.write(lambda tx: begin_epoch(tx, "restored", SystemClock().now()))
            finally:
                await database.close()

        asyncio.run(work())
        self.start()

    def _open(self, *, beside: bool) -> Database:
        clock = SystemClock()
        if self._postgres:
            return PostgresDatabase(self._database, clock=clock, ids=SystemIds(clock))
        kind = SqliteBeside if beside else SqliteDatabase
        return kind(Path(self._database), clock=clock)

    async def _load_tokens(self) -> Tokens:
        clock = SystemClock()
        database = self._open(beside=True)
        await database.start()
        try:
            settings = Settings(database=self._database, secret_key=self._settings.get("secret_key", ""))
            keys = await open_keys(settings, database)
        finally:
            await database.close()
        issuer = self._settings.get("public_url") or f"lowtide/{self.name}"
        return Tokens(keys, clock, audience=self.name, issuer=issuer)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.sendall(
                    b"GET /health/ready HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n"
                )
                return connection.makefile("rb").readline().split()[1:2] == [b"200"]
        except OSError:
            return False


def _at_once(work: Coroutine[Any, Any, T]) -> T:
    # Reading beside a server waits for nothing: no loop is needed, and none may be held up.
    try:
        work.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    raise RuntimeError("it waited for something")


def _die_with_parent() -> None:
    # A killed test run must not leave a server behind. Linux only; elsewhere nothing happens.
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
