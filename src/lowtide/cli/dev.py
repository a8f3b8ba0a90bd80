"""``lowtide dev``: serve, and start again when a file changes.

The parent holds the listening socket and looks at the files; a child serves. While one child stops
and the next starts, connections wait in the socket's backlog instead of being refused. A child whose
parent is gone stops by itself.
"""

from __future__ import annotations

import argparse
import errno
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import msgspec

from lowtide.cli.listener import listen
from lowtide.kernel.errors import DeclarationError, SetupError
from lowtide.settings import FILE, Settings, load

LOOK_EVERY = 0.3
"""Seconds between two looks at the files."""
PATIENCE = 8.0
"""Seconds that a child may take to stop."""
PORTS_TRIED = 20
LOCAL_PAGES = ("http://localhost:*", "http://127.0.0.1:*")
"""Web pages under development, such as those of a bundler, may call a server under development."""
EMULATOR = "10.0.2.2"
"""What the Android emulator calls the machine that it runs on."""


def run(arguments: argparse.Namespace) -> None:
    """Serve until Ctrl-C. Raises ``SetupError`` when the settings are wrong or no port is free."""
    folder = Path.cwd()
    settings = load(folder, os.environ)
    host = "0.0.0.0" if arguments.lan else settings.host  # noqa: S104 - asked for with --lan
    with open_listener(host, settings.port, arguments.port) as listener:
        signal.signal(signal.SIGTERM, _interrupt)
        _Parent(folder, listener, lan=arguments.lan, debug=arguments.debug).run()


def run_child(arguments: argparse.Namespace) -> None:
    """Serve on the parent's socket until told to stop, or until the parent is gone."""
    began = time.perf_counter()
    sys.dont_write_bytecode = True  # a file changed twice in a second would be run as it was at first
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    from lowtide.api.server import Serving
    from lowtide.app import build
    from lowtide.cli.project import open_project
    from lowtide.cli.serve import log_to, serve

    log_to(_DevelopmentLines())
    logging.getLogger("lowtide.audit").setLevel(logging.WARNING)  # no checkpoints among a developer's lines
    listener = socket.socket(fileno=arguments.fd)
    settings, app = open_project()
    nearby = _address()
    port = listener.getsockname()[1]
    settings = opened_up(settings, port, nearby)

    def ready() -> None:
        seconds = time.perf_counter() - began
        if arguments.again:
            print(f"Ready again after {seconds:.1f} s.", flush=True)
        else:
            lines = greeting(app.name, settings, port, seconds, nearby, lan=arguments.lan)
            print(box(lines, sys.stdout.encoding), flush=True)

    try:
        serve(build(settings, app, dev=True), listener, Serving(grace=1), ready)
    except DeclarationError as error:
        if "changes" in error.details:  # it would break devices, which a developer may not have yet
            where = "the database" if settings.postgres else f"{os.path.relpath(settings.database)}*"
            error.hint += f" Or, if no device holds data worth keeping, delete {where} to begin anew."
        raise


def opened_up(settings: Settings, port: int, nearby: str | None) -> Settings:
    """``settings`` as this machine's developer needs them: with the ``port`` that is served (a free one, or
    ``--port``: the provider's addresses name it), and open for emulators, phones nearby and local pages.
    """
    names = dict.fromkeys((*settings.allowed_hosts, EMULATOR, *filter(None, [nearby])))
    origins = dict.fromkeys((*settings.cors_origins, *LOCAL_PAGES))
    return msgspec.structs.replace(
        settings, port=port, allowed_hosts=tuple(names), cors_origins=tuple(origins)
    )


def greeting(
    name: str, settings: Settings, port: int, seconds: float, nearby: str | None, *, lan: bool
) -> list[str]:
    """Where to reach the server from each place, and what to try first."""
    lines = [f"{name} is ready ({seconds:.1f} s)", "", f"this machine      http://127.0.0.1:{port}"]
    lines += [f"Android emulator  http://{EMULATOR}:{port}", "iOS simulator     as this machine"]
    if nearby is not None:
        hint = "" if lan else "   after 'lowtide dev --lan'"
        lines += [f"phones nearby     http://{nearby}:{port}{hint}"]
    else:
        lines += ["phones nearby     none: this machine is in no network"]
    lines += ["", f"three phones      http://127.0.0.1:{port}/playground"]
    where = "PostgreSQL" if settings.postgres else os.path.relpath(settings.database)
    lines += [f"data              {where}", "a token           lowtide token --user ann"]
    if settings.reference:
        lines += [f"addresses         http://127.0.0.1:{port}/docs"]
    if not settings.smtp_url:
        lines += [f"mails sent        http://127.0.0.1:{port}/dev/outbox"]
    return [*lines, "", "A changed .py file or lowtide.toml starts it again. Ctrl-C stops it."]


class _DevelopmentLines(logging.Formatter):
    """What a developer looks at: requests as one short line, the rest as it is."""

    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, "fields", {})
        if "status" in fields:
            where = fields["route"] or "(no route)"
            return f"{fields['method']:6} {where} {fields['status']}  {fields['ms']:.0f} ms"
        return super().format(record)


class _Parent:
    def __init__(self, folder: Path, listener: socket.socket, *, lan: bool, debug: bool):
        self._folder = folder
        self._listener = listener
        fd = listener.fileno()
        self._command = [sys.executable, "-P", "-m", "lowtide", "dev-child", "--fd", str(fd)]
        self._command += ["--lan"] * lan + ["--debug"] * debug

    def run(self) -> None:
        seen = dict(watched(self._folder))
        child = self._start([])
        waiting = False
        try:
            while True:
                time.sleep(LOOK_EVERY)
                now = dict(watched(self._folder))
                if now != seen:
                    changed = sorted(str(path) for path, _ in now.items() ^ seen.items())
                    print(f"\n{changed[0]} changed.", flush=True)
                    _stop(child)
                    child, seen, waiting = self._start(["--again"]), now, False
                elif child.poll() is not None and not waiting:
                    print("Waiting for a change ...", flush=True)  # the child has told why it ended
                    waiting = True
        finally:
            _stop(child)

    def _start(self, more: list[str]) -> subprocess.Popen[bytes]:
        # The pipe is never written to: its end tells the child that this process is gone.
        return subprocess.Popen(
            self._command + more, stdin=subprocess.PIPE, pass_fds=[self._listener.fileno()], process_group=0
        )


def watched(folder: Path) -> Iterator[tuple[Path, tuple[int, int]]]:
    """The files whose change means a new start, with their times and sizes."""
    for place, folders, files in os.walk(folder):
        folders[:] = [
            name for name in folders if name[0] not in "._" and name not in ("data", "node_modules")
        ]
        for name in files:
            if name.endswith(".py") or name == FILE:
                path = Path(place, name)
                try:
                    found = path.stat()
                except FileNotFoundError:  # gone since the listing
                    continue
                yield path.relative_to(folder), (found.st_mtime_ns, found.st_size)


def box(lines: list[str], encoding: str) -> str:
    """``lines`` in a frame, of plain characters where the terminal knows no others."""
    width = max(map(len, lines))
    a, b, c, d, h, v = "╭╮╰╯─│" if encoding.lower().startswith("utf") else "++++-|"
    middle = [f"{v} {line.ljust(width)} {v}" for line in lines]
    return "\n".join([a + h * (width + 2) + b, *middle, c + h * (width + 2) + d])


def open_listener(host: str, preferred: int, asked: int | None) -> socket.socket:
    """On the port that was asked for, or else on the preferred one or the next that is free."""
    if asked is not None:
        return listen(host, asked)
    for port in range(preferred, min(preferred + PORTS_TRIED, 65536)):
        try:
            return listen(host, port)
        except SetupError as error:
            if error.details.get("errno") != errno.EADDRINUSE:
                raise
            print(f"Port {port} is taken.", file=sys.stderr)
    raise SetupError(
        f"The {PORTS_TRIED} ports from {preferred} on are taken.", hint="Choose one with --port."
    )


def _stop(child: subprocess.Popen[bytes]) -> None:
    with child:  # closes the pipe
        child.terminate()
        try:
            child.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            child.kill()


def _stop_with_parent() -> None:
    """Wait for the end of the pipe that the parent holds; then stop as SIGTERM would."""
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _address() -> str | None:
    """This machine's address in its network. Nothing is sent: the kernel only chooses a route."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # reserved for documentation (RFC 5737)
        except OSError:
            return None
        address = str(probe.getsockname()[0])
    return None if address.startswith("127.") else address
