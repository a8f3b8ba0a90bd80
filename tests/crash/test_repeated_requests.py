"""kill -9 between the commit and its answer: a request with an Idempotency-Key counts once all the same."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from lowtide.storage.db import Dialect
from tests.server_process import ROOT, ServerProcess

WRITERS = 6
CRASHES = 3
ENOUGH = 60


class Writer(threading.Thread):
    """Creates records one after the other, each under a key of its own, until the server is gone."""

    def __init__(self, server: ServerProcess, token: str, name: str):
        super().__init__(daemon=True)
        self._server, self._token = server, token
        self.label = name
        self.answers: dict[str, bytes | None] = {}
        """Key -> what was answered; None: the answer is not known."""

    def run(self) -> None:
        number = 0
        while True:
            number += 1
            key = f"{self.label}-{number}"
            self.answers[key] = None
            try:
                status, body = create(self._server, self._token, key)
            except (OSError, http.client.HTTPException):
                return
            assert status == 201, body
            self.answers[key] = body


def create(server: ServerProcess, token: str, key: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        headers = {
            "authorization": f"Bearer {token}",
            "content-type": "application/json",
            "idempotency-key": key,
        }
        # No id: the server makes one, so that only the key tells a repeat from a new record.
        body = json.dumps({"data": {"writer": key, "number": 1}})
        connection.request("POST", "/v1/records/mark", body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def pulled(server: ServerProcess, token: str) -> dict[str, int]:
    """How many records each key has made."""
    found: dict[str, set[str]] = {}
    cursor: Any = None
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)) as connection:
        while True:
            connection.request("POST", "/v1/sync/pull", json.dumps({"cursor": cursor}), headers)
            page = json.loads(connection.getresponse().read())
            for row in page["rows"]:
                if row["model"] == "mark":
                    found.setdefault(row["data"]["writer"], set()).add(row["id"])
            cursor = page["cursor"]
            if page["complete"]:
                return {key: len(ids) for key, ids in found.items()}


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_a_crash_between_commit_and_answer_doubles_nothing(
    database: Dialect, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Every key has one record or none; a repeat has the first answer, byte for byte."""
    dsn = request.getfixturevalue("postgres_dsn") if database == "postgres" else None
    answers: dict[str, bytes | None] = {}
    with ServerProcess(tmp_path, ROOT / "tests/crash/app.py", "crash", postgres=dsn) as server:
        token = server.token("ann")
        for crash in range(CRASHES):
            writers = [Writer(server, token, f"{crash}-{n}") for n in range(WRITERS)]
            for writer in writers:
                writer.start()
            while sum(len(writer.answers) for writer in writers) < ENOUGH:
                time.sleep(0.01)
            server.kill()
            for writer in writers:
                writer.join(30)
                answers |= writer.answers
            server.start()
        lost = [key for key, answer in answers.items() if answer is None]
        assert lost
        repeats = {key: create(server, token, key) for key in answers}
        made = pulled(server, token)
    for key, (status, body) in repeats.items():
        if answers[key] is not None:
            assert (status, body) == (201, answers[key]), key
        # 409: it was begun and never committed, and its time is not over yet.
        assert status in (201, 409), body
        assert made.get(key, 0) == (1 if status == 201 else 0), key
