"""The page on records over REST: each exchange is sent to a real server, in order, and answered as shown."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import pytest

from tests.docs.pages import DOCS, Block, blocks, same
from tests.server_process import ServerProcess

PAGE = DOCS / "rest.md"
BLOCKS = blocks(PAGE)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    """A server of the page's app."""
    source = tmp_path / "page.py"
    source.write_text("".join(block.text for block in BLOCKS if block.words == ("rest-app",)), "utf-8")
    with ServerProcess(tmp_path / "server", source, "todo") as running:
        yield running
        assert running.stop() == 0


def test_every_exchange_is_answered_as_the_page_shows(server: ServerProcess) -> None:
    """Requests go out as they are printed, with the etag that was answered last."""
    count = 0
    last = ""
    with httpx2.Client(base_url=server.url, timeout=20) as http:
        for request, answer in itertools.pairwise(BLOCKS):
            if request.language != "http":
                continue
            count += 1
            status, found = sent(http, server, request, last)
            place = f"{PAGE.name}:{request.line}"
            assert (str(status), same(json.loads(answer.text), found)) == (answer.words[0], True), (
                place,
                found,
            )
            last = found.get("etag", last)
    assert count > 10
    assert server.faults() == []


def sent(http: httpx2.Client, server: ServerProcess, block: Block, etag: str) -> tuple[int, Any]:
    """Send a request as it is printed; its answer's status and JSON."""
    head, _, body = block.text.replace("{etag}", etag).partition("\n\n")
    first, *lines = head.splitlines()
    method, _, target = first.partition(" ")
    user = block.words[0]
    roles = ("developer",) if user == "dev" else ()
    headers = {"authorization": f"Bearer {server.token(user, server=user == 'backend', roles=roles)}"}
    headers |= dict(line.split(": ", 1) for line in lines)
    if body:
        headers["content-type"] = "application/json"
    path, _, query = target.partition("?")
    if query:
        # The page shows a filter as one writes it; its signs are escaped on the way.
        parts = [part.partition("=") for part in query.split("&")]
        path += "?" + "&".join(f"{name}={quote(value)}" for name, _, value in parts)
    answer = http.request(method, path, content=body.encode(), headers=headers)
    return answer.status_code, answer.json()
