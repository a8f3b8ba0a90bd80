"""Running a scenario: a Node program that uses the client SDK as an app does, beside a real server."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests import client_package
from tests.server_process import ServerProcess

HERE = Path(__file__).parent
NODE = HERE.parent / "node"
APPS = {"crew": HERE / "crew.py", "crew_last_year": HERE / "crew_last_year.py"}
DEADLINE = 180.0
"""Seconds that a scenario may take, unless it says."""


class ScenarioFailed(AssertionError):
    """A scenario ended without a report."""


def run(
    name: str,
    server: ServerProcess,
    folder: Path,
    *,
    mode: str = "legacy",
    transport: str = "HTTP",
    given: dict[str, Any] | None = None,
    space: str = "main",
    deadline: float = DEADLINE,
) -> Any:
    """Run ``tests/node/<name>.mjs`` and return its report.

    Each scenario may have a space of its own, so that several share one server. ``mode`` is the SDK's way
    to ask for checkpoints, ``transport`` its connection method: HTTP or WEB_SOCKET. Raises
    ``ScenarioFailed`` with what the program said.
    """
    scenario = {
        "url": server.url,
        "folder": str(folder),
        "mode": mode,
        "transport": transport,
        "given": given or {},
    }
    errors = folder / "errors.txt"
    client_package.build()
    with errors.open("wb") as stderr:
        process = subprocess.Popen(
            ["node", str(NODE / f"{name}.mjs")],
            cwd=NODE,
            env={**os.environ, "SCENARIO": json.dumps(scenario)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            encoding="utf-8",
        )
    alarm = threading.Timer(deadline, process.kill)
    alarm.start()
    try:
        report = _converse(process, server, space)
    finally:
        alarm.cancel()
        process.kill()
        process.communicate()
    if report is None:
        raise ScenarioFailed(f"{name} gave no report:\n{errors.read_text('utf-8')[-6000:]}")
    return report


def _converse(process: subprocess.Popen[str], server: ServerProcess, space: str) -> Any:
    assert process.stdin is not None
    for line in _lines(process):
        kind, _, text = line.partition(" ")
        if kind == "report":
            return json.loads(text)
        if kind == "ask":
            process.stdin.write(json.dumps(_done(json.loads(text), server, space)) + "\n")
            process.stdin.flush()
    return None


def _lines(process: subprocess.Popen[str]) -> Iterator[str]:
    assert process.stdout is not None
    yield from process.stdout


def _done(asked: dict[str, Any], server: ServerProcess, space: str) -> Any:
    what = asked["what"]
    if what == "token":
        ttl, is_server = asked.get("ttl") or 3600, bool(asked.get("server"))
        return server.token(asked["user"], space=space, ttl=ttl, server=is_server)
    if what == "deploy":
        return server.deploy(APPS[asked["app"]])
    if what == "restore":
        return server.begin_epoch()
    if what == "stop":
        return server.stop()
    if what == "kill":
        return server.kill()
    if what == "start":
        return server.start()
    raise ValueError(f"a scenario asked for {what!r}")
