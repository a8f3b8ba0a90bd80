"""The page on the protocol: each exchange is sent to a real server, in order, and answered as it is shown."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import httpx2
import pytest

from lowtide.api.health import health_routes
from lowtide.api.limits import Load
from lowtide.api.problems import problem_routes
from lowtide.auth import auth_routes
from lowtide.sync import sync_routes
from tests.docs.pages import DOCS, Block, blocks, code, same, tables
from tests.phones.audit import AUDIT
from tests.server_process import ServerProcess

PAGE = DOCS / "reference" / "protocol.md"
BLOCKS = blocks(PAGE)
ENDS = "checkpoint_complete"


def exchanges() -> Iterator[tuple[Block, Block]]:
    """Each (request, answer) of the page."""
    for request, answer in itertools.pairwise(BLOCKS):
        if request.language == "http":
            yield request, answer


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    """A server of the page's app."""
    source = tmp_path / "page.py"
    source.write_text("".join(block.text for block in BLOCKS if block.words == ("protocol-app",)), "utf-8")
    with ServerProcess(tmp_path / "server", source, "todo") as running:
        yield running
        assert running.stop() == 0


def test_every_exchange_is_answered_as_the_page_shows(server: ServerProcess) -> None:
    """Requests go out as they are printed; statuses and bodies are those on the page."""
    count = 0
    with httpx2.Client(base_url=server.url, timeout=20) as http:
        for request, answer in exchanges():
            count += 1
            try:
                found = sent(http, server, request)
                assert str(found[0]) == answer.words[0], found
                shown = (
                    [json.loads(line) for line in answer.text.splitlines()]
                    if "stream" in request.words
                    else (json.loads(answer.text) if answer.text.strip() else None)
                )
                assert same(shown, found[1]), found[1]
            except AssertionError as error:
                raise AssertionError(f"{PAGE.name}:{request.line}: {error}") from error
    assert count > 15
    assert server.faults() == []


def sent(http: httpx2.Client, server: ServerProcess, block: Block) -> tuple[int, Any]:
    """Send a request as it is printed; its answer's status and JSON, or the lines of a stream."""
    head, _, body = block.text.partition("\n\n")
    method, path = head.split()
    headers = {}
    if block.words:
        user = block.words[0]
        headers["authorization"] = f"Bearer {server.token(user, server=user == 'backend')}"
    if body:
        headers["content-type"] = "application/json"
    with http.stream(method, path, content=body.encode(), headers=headers) as answer:
        if "stream" not in block.words:
            content = answer.read()
            return answer.status_code, json.loads(content) if content else None
        lines = []
        for line in answer.iter_lines():
            lines.append(json.loads(line))
            if ENDS in lines[-1]:
                break
        return answer.status_code, lines


def test_every_address_is_listed() -> None:
    """The table has each route with its method and who may ask, and none that is not there."""
    nothing: Any = cast(Any, None)
    routes = [
        *sync_routes(nothing, nothing, nothing),
        *auth_routes(nothing),
        *health_routes({}, Load()),
        *problem_routes(),
    ]
    (table,) = [table for table in tables(PAGE) if table.heading == "All addresses"]
    listed = [(cells["method"], code(cells["path"]), cells["who"]) for _, cells in table.rows]
    assert sorted(listed) == sorted((route.method, route.path, route.auth) for route in routes)


def test_the_audits_sql_is_the_one_that_is_tested() -> None:
    """What a connector copies from the page is what the tests run on the real client core."""
    (shown,) = [block.text for block in BLOCKS if block.words == ("audit",)]
    assert shown.split() == AUDIT.split()


def test_the_connectors_duties_name_every_status() -> None:
    """The table of duties has a line for each kind of answer that an upload may get."""
    (table,) = [table for table in tables(PAGE) if "what the connector does" in table.columns]
    named = " ".join(cells["answer"] for _, cells in table.rows)
    assert set(re.findall(r"\d{3}", named)) == {"200", "400", "401", "408", "409", "413", "422", "429", "503"}
