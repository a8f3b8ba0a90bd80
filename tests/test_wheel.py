"""The built wheel in an empty folder, as a newcomer has it: no repository, no Node, nothing on PATH."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


class Installed:
    """A fresh environment with nothing in it but Lowtide and what it needs."""

    def __init__(self, folder: Path, wheel: Path):
        self.wheel = wheel
        self.folder = folder / "empty"
        self.folder.mkdir()
        subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
        self._bin = folder / "venv/bin"
        pip: list[str | Path] = [
            self._bin / "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
        ]
        subprocess.run([*pip, "--require-hashes", "-r", ROOT / "requirements.lock"], check=True)
        subprocess.run([*pip, wheel], check=True)

    def environment(self) -> dict[str, str]:
        """No PATH but its own, and a home without settings."""
        return {"PATH": str(self._bin), "HOME": str(self.folder), "PYTHONUNBUFFERED": "1"}

    def run(self, *words: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
        """``lowtide words ...``; fails the test when the command fails."""
        ran = subprocess.run(
            [self._bin / "lowtide", *words],
            cwd=folder or self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran

    def start(self, *words: str, folder: Path) -> subprocess.Popen[str]:
        """``lowtide words ...`` in the background."""
        return subprocess.Popen(
            [self._bin / "lowtide", *words],
            cwd=folder,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Lowtide from its wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    build: list[str | Path] = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return Installed(folder, wheel)


@pytest.fixture(scope="module")
def project(installed: Installed) -> Path:
    """The folder that 'lowtide new' wrote."""
    installed.run("new", "app")
    return installed.folder / "app"


def told(server: subprocess.Popen[str], pattern: str, seconds: float = 30) -> re.Match[str]:
    """The first line of the server's output that matches; fails the test when none does."""
    assert server.stdout is not None
    watch = signal.signal(signal.SIGALRM, _late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    lines = []
    try:
        for line in server.stdout:
            lines.append(line)
            if found := re.search(pattern, line):
                return found
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, watch)
    raise AssertionError(f"never said {pattern!r}:\n{''.join(lines)}")


def _late(*_: object) -> None:
    raise TimeoutError("the server said nothing more")


def get(url: str) -> tuple[int, str]:
    """Status and body."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.fixture
def dev(installed: Installed, project: Path) -> Iterator[subprocess.Popen[str]]:
    """'lowtide dev' on a free port, stopped in the end."""
    with installed.start("dev", "--port", "0", folder=project) as server:
        yield server
        if server.poll() is None:
            server.kill()


def test_the_wheel_holds_the_package_and_nothing_else(installed: Installed) -> None:
    """Queries, migrations, templates and types are in it; tests and examples are not."""
    names = zipfile.ZipFile(installed.wheel).namelist()
    assert "lowtide/py.typed" in names
    assert "lowtide/templates/gitignore" in names
    assert {"lowtide/playground/page/phone.html", "lowtide/playground/page/wa-sqlite.wasm.gz"} < set(names)
    assert any(name.endswith("queries.sql") for name in names)
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"lowtide"}


def test_a_newcomer_can_look_around(installed: Installed, project: Path) -> None:
    """Version, help, check and schema work outside of the repository."""
    assert installed.run("--version").stdout.startswith("lowtide ")
    assert "first steps" in installed.run("--help").stdout
    assert "the app can start" in installed.run("check", folder=project).stdout
    assert json.loads(installed.run("schema", folder=project).stdout)["tables"]


def test_dev_answers_prints_its_addresses_and_stops(dev: subprocess.Popen[str], project: Path) -> None:
    """One command makes the data folder, serves, says where, and ends with nothing left behind."""
    port = told(dev, r"http://127\.0\.0\.1:(\d+)")[1]
    assert get(f"http://127.0.0.1:{port}/health/ready")[0] == 200
    told(dev, rf"http://10\.0\.2\.2:{port}")
    page = f"http://127.0.0.1:{port}/playground"
    assert told(dev, r"three phones +(\S+)")[1] == page
    assert get(page)[0] == 200
    assert (project / "data/data.db").is_file()
    dev.send_signal(signal.SIGINT)
    assert dev.wait(15) == 130
    with pytest.raises(OSError):  # noqa: PT011 - nobody listens, whatever the system calls it
        get(f"http://127.0.0.1:{port}/health/live")


def test_dev_starts_again_when_a_file_changes(dev: subprocess.Popen[str], project: Path) -> None:
    """A changed app is served on the same port; a broken one is told, and mended without a restart."""
    port = told(dev, r"http://127\.0\.0\.1:(\d+)")[1]
    source = (project / "app.py").read_text()
    try:
        (project / "app.py").write_text(source + "\nboom(\n")
        told(dev, r"app\.py changed")
        told(dev, r"app\.py:\d+: error: ")
        told(dev, r"Waiting for a change")
    finally:
        (project / "app.py").write_text(source)
    told(dev, r"Ready again")
    assert get(f"http://127.0.0.1:{port}/health/ready")[0] == 200


def test_a_server_whose_parent_is_gone_stops(dev: subprocess.Popen[str], project: Path) -> None:
    """A killed 'lowtide dev' leaves no server behind that holds the port and the data."""
    port = told(dev, r"http://127\.0\.0\.1:(\d+)")[1]
    os.kill(dev.pid, signal.SIGKILL)
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        try:
            get(f"http://127.0.0.1:{port}/health/live")
        except OSError:
            return
        time.sleep(0.1)
    raise AssertionError("the server went on without its parent")
