"""A real process, signalled: how it stops."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


class Process:
    """``serving.py`` in a process of its own."""

    def __init__(self, grace: float = 5.0, notice: float = 0.0):
        self._running = subprocess.Popen(
            [sys.executable, "-m", "tests.api.serving", str(grace), str(notice)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.port = int(self.word().split()[1])

    def word(self) -> str:
        """The next line that the process printed."""
        assert self._running.stdout is not None
        return self._running.stdout.readline().strip()

    def signal(self, number: signal.Signals) -> None:
        self._running.send_signal(number)

    def end(self) -> tuple[int, list[str]]:
        """Its exit code, and the lines that it had still to say."""
        said, _ = self._running.communicate(timeout=20)
        return self._running.returncode, said.splitlines()

    def kill(self) -> None:
        self._running.kill()
        self._running.communicate()


@contextlib.contextmanager
def process(grace: float = 5.0, notice: float = 0.0) -> Iterator[Process]:
    started = Process(grace, notice)
    try:
        yield started
    finally:
        started.kill()


@contextlib.contextmanager
def asking(port: int, target: str, token: str | None = None) -> Iterator[HTTPConnection]:
    connection = HTTPConnection("localhost", port, timeout=20)
    try:
        connection.request("GET", target, headers={"Authorization": f"Bearer {token}"} if token else {})
        yield connection
    finally:
        connection.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_ends_streams_then_requests_then_services(number: signal.Signals) -> None:
    """A stream gets its last line and a clean end, a request its answer, then the services close: exit 0."""
    with process() as server, asking(server.port, "/ticks", "ann") as stream:
        lines = stream.getresponse()
        assert lines.readline() == b'{"hello":true}\n'
        with asking(server.port, "/work") as work:
            assert server.word() == "working"
            server.signal(number)
            assert json.loads(lines.readline())["retry_after"] >= 1
            assert lines.read() == b""
            answer = work.getresponse()
            assert (answer.status, answer.read()) == (200, b'{"done":true}')
            assert answer.headers["connection"] == "close"
        assert server.end() == (0, ["worked", "services close", "end"])


def test_a_stopping_server_accepts_nobody() -> None:
    """While requests finish, a new connection is refused, not hung."""
    with process() as server, asking(server.port, "/work") as work:
        assert server.word() == "working"
        server.signal(signal.SIGTERM)
        time.sleep(0.4)
        with pytest.raises(ConnectionRefusedError), asking(server.port, "/open"):
            pass
        assert work.getresponse().status == 200


def test_load_balancers_get_notice() -> None:
    """With ``notice``, the server is not ready but answers, before it refuses connections."""
    with process(notice=1.0) as server:
        server.signal(signal.SIGTERM)
        time.sleep(0.3)
        with asking(server.port, "/health/ready") as ready:
            assert ready.getresponse().status == 503
        with asking(server.port, "/open") as request:
            assert request.getresponse().status == 204
        assert server.end() == (0, ["services close", "end"])


def test_a_stream_that_does_not_end_is_cut_after_the_grace() -> None:
    """It was told, it had its time, and the services still close in order; nothing is logged as a fault."""
    with process(grace=1.0) as server, asking(server.port, "/stubborn") as stream:
        lines = stream.getresponse()
        assert lines.readline() == b"hello\n"
        started = time.monotonic()
        server.signal(signal.SIGTERM)
        assert server.end() == (0, ["told", "cut", "services close", "end"])
        assert time.monotonic() - started > 0.8


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once(number: signal.Signals) -> None:
    """Whoever presses Ctrl-C twice does not wait for the grace; the services still close."""
    with process(grace=120.0) as server, asking(server.port, "/stubborn") as stream:
        lines = stream.getresponse()
        assert lines.readline() == b"hello\n"
        server.signal(number)
        assert server.word() == "told"
        server.signal(number)
        assert server.end() == (0, ["cut", "services close", "end"])


def test_after_a_second_signal_nothing_runs_on_closed_services() -> None:
    """A request that is still working is cancelled before the services close."""
    with process(grace=15.0) as server, asking(server.port, "/work"):
        assert server.word() == "working"
        server.signal(signal.SIGTERM)
        time.sleep(0.2)
        server.signal(signal.SIGTERM)
        code, said = server.end()
        assert code == 0
        assert "worked" not in said
        assert said[-2:] == ["services close", "end"]
