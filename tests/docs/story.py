"""Playing the tutorial: its commands in a shell, its programs on phones, its output compared."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from tests.docs.pages import ROOT, like

PATIENCE = 30.0
PORT = "8420"
"""What the tutorial says; a test takes a free one."""

NPM = """#!/bin/sh
# Stands for npm where it would ask the network: the packages are here already, as the tests pin them.
echo "$@" >> "{said}"
test "$1" = install || exec "{npm}" --loglevel=error "$@"
ln -s "{modules}" node_modules
"""
NPX = """#!/bin/sh
exec "{modules}/.bin/$@"
"""


class Program:
    """A program in the background whose output can be waited for."""

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str], log: Path):
        self._log = log
        self._read = 0
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=out,
                text=True,
                start_new_session=True,
            )

    def say(self, line: str) -> None:
        """Type a line, and wait until it was done."""
        before = self._log.stat().st_size
        self.type(line)
        self._until(lambda: "ok" in self._log.read_text("utf-8")[before:].splitlines(), f"ok after {line!r}")

    def type(self, line: str) -> None:
        """Type a line, and wait for nothing."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def expect(self, shown: str) -> None:
        """Wait until the output holds ``shown``, behind what was expected before."""
        wanted = _records(shown)

        def found() -> bool:
            records = _records(self._text())
            for at in range(self._read, len(records) - len(wanted) + 1):
                if all(like(w, r) for w, r in zip(wanted, records[at:], strict=False)):
                    self._read = at + len(wanted)
                    return True
            return False

        self._until(found, shown)

    def answers(self, line: str, shown: str) -> None:
        """Type a question until its answer is ``shown``; each answer is looked at alone."""
        end = time.monotonic() + PATIENCE
        while True:
            self.say(line)
            records = _records(self._text())
            answer = records[len(records) - 1 - len(_records(shown)) : -1]
            if answer == _records(shown):
                self._read = len(records)
                return
            assert time.monotonic() < end, f"never answered {shown!r}:\n{self._text()}"
            time.sleep(0.1)

    def stop(self) -> int:
        """End it as Ctrl-C does, with what it started; its exit code."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGINT)
        try:
            return self._process.wait(15)
        finally:
            self._process.kill()
            assert self._process.stdin is not None
            self._process.stdin.close()

    def _text(self) -> str:
        # A frame is for the eye.
        return self._log.read_text("utf-8").replace("│ ", "").replace(" │", "")

    def _until(self, done: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + PATIENCE
        while not done():
            ended = self._process.poll()
            assert ended is None, f"it ended with {ended}:\n{self._text()}"
            assert time.monotonic() < end, f"never showed {what!r}:\n{self._text()}"
            time.sleep(0.02)


def _records(text: str) -> list[str]:
    """Lines, each with the indented ones behind it."""
    found: list[str] = []
    for line in text.splitlines():
        if line.startswith("  ") and line.strip() and found:
            found[-1] += "\n" + line.rstrip()
        else:
            found.append(line.rstrip())
    return found


class Story:
    """One reader at work: terminals, a server, phones. A context manager that leaves nothing behind."""

    def __init__(self, folder: Path):
        self.folder = folder / "reader"
        self.folder.mkdir()
        self.shown = ""
        """What the last command printed."""
        self.programs: dict[str, Program] = {}
        self._logs = folder
        self._said = folder / "npm.txt"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = str(free.getsockname()[1])
        tools = folder / "bin"
        tools.mkdir()
        for name, script in (("npm", NPM), ("npx", NPX)):
            (tools / name).write_text(
                script.format(said=self._said, modules=ROOT / "node_modules", npm=shutil.which("npm"))
            )
            (tools / name).chmod(0o755)
        self.tools = tools
        """Where the npm and npx of this story are."""
        path = f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        self._environment = {name: v for name, v in os.environ.items() if not name.startswith("LOWTIDE_")}
        self._environment |= {
            "PATH": path,
            "LOWTIDE_PORT": self.port,
            "SERVER": f"http://127.0.0.1:{self.port}",
            "PYTHONUNBUFFERED": "1",
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for program in reversed(self.programs.values()):
            program.stop()

    def run(self, script: str) -> None:
        """Run commands in the shell; the folder that they leave it in is that of the next ones."""
        ran = subprocess.run(
            ["sh", "-ec", self._ported(script) + "\nprintf '\\n%s' \"$PWD\""],
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ran.returncode == 0, f"{script}\n{ran.stdout}{ran.stderr}"
        self.shown, _, folder = ran.stdout.rpartition("\n")
        self.folder = Path(folder)

    def start(self, name: str, script: str) -> None:
        """Run a command in a terminal of its own."""
        command = ["sh", "-c", f"exec {self._ported(script).strip()}"]
        log = self._logs / f"{name}.log"
        self.programs[name] = Program(command, self.folder, self._environment, log)

    def expect(self, name: str, shown: str) -> None:
        """Wait until the program shows this."""
        self.programs[name].expect(self._ported(shown))

    def write(self, name: str, text: str) -> None:
        """Put a file into the shell's folder."""
        (self.folder / name).write_text(text, "utf-8")

    def check_packages(self) -> None:
        """What the reader installs is what was tested: each package with a version that the tests pin."""
        pinned = json.loads((ROOT / "tests/package.json").read_text("utf-8"))["dependencies"]
        calls = [line.split() for line in self._said.read_text("utf-8").splitlines()]
        words = [word for command, *words in calls if command == "install" for word in words]
        assert words
        for name, version in (word.rsplit("@", 1) for word in words):
            assert pinned[name].lstrip("^").startswith(f"{version}."), name

    def copy_packages(self, *names: str) -> None:
        """Instead of the link to what is installed: some packages as they lie in a reader's own folder."""
        modules = self.folder / "node_modules"
        modules.unlink()
        for name in names:
            shutil.copytree(ROOT / "node_modules" / name, modules / name)

    def _ported(self, text: str) -> str:
        return text.replace(PORT, self.port)
