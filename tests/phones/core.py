"""The client core: the Rust library inside every phone SDK, loaded into an SQLite database.

It ships in the npm package ``@powersync/node`` (Apache-2.0), next to builds for other systems. It is
the very code that runs on phones: it validates checksums, holds back and applies checkpoints, and
keeps the upload queue. Nothing of it is imitated here.
"""

from __future__ import annotations

import functools
import platform
import sys
from pathlib import Path

import apsw

_LIBRARIES = {
    ("linux", "x86_64"): "libpowersync_x64.linux.so",
    ("linux", "aarch64"): "libpowersync_aarch64.linux.so",
    ("linux", "armv7l"): "libpowersync_armv7.linux.so",
    ("linux", "riscv64"): "libpowersync_riscv64gc.linux.so",
    ("darwin", "x86_64"): "libpowersync_x64.macos.dylib",
    ("darwin", "arm64"): "libpowersync_aarch64.macos.dylib",
    ("win32", "AMD64"): "powersync_x64.dll",
    ("win32", "ARM64"): "powersync_aarch64.dll",
}


class CoreMissing(RuntimeError):
    """The core's library is not installed."""


@functools.cache
def library() -> Path:
    """Where the core's library is. Raises ``CoreMissing`` with the command that installs it."""
    machine = (sys.platform, platform.machine())
    name = _LIBRARIES.get(machine)
    if name is None:
        raise CoreMissing(f"there is no client core for {machine[0]} on {machine[1]}")
    root = Path(__file__).parent.parent.parent
    path = root / "node_modules" / "@powersync" / "node" / "lib" / name
    if not path.exists():
        raise CoreMissing(f"the client core is not installed: run 'npm ci --ignore-scripts' in {root}")
    return path


def open_core(path: str = ":memory:", content: bytes | None = None) -> apsw.Connection:
    """An SQLite database with the core loaded; ``content`` is what ``serialize`` gave before. 5 ms."""
    database = apsw.Connection(path)
    if content is not None:
        database.deserialize("main", content)
    database.enable_load_extension(True)
    database.load_extension(str(library()), "sqlite3_powersync_init")
    database.enable_load_extension(False)
    database.set_busy_timeout(5000)
    with database:
        database.execute("SELECT powersync_init()").fetchall()
    return database
