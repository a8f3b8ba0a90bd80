"""The reference as a page: whole, harmless, and of this server alone."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lowtide.api.openapi import describe
from lowtide.api.reference import render
from lowtide.app import Lowtide
from lowtide.kernel.clock import SystemClock
from lowtide.kernel.http import Header, Request, Route
from lowtide.kernel.ids import SystemIds
from lowtide.kernel.schema import Schema
from lowtide.settings import Settings
from tests.api.client import Client
from tests.contract.conftest import Whole, running
from tests.contract.shop import app as shop


class Tree(msgspec.Struct):
    """A <b>type</b> that holds itself."""

    name: str
    children: list[Tree] = []


async def hostile(request: Request[Tree, None]) -> Tree:
    """Says </code><script>alert(1)</script> and ``"><img src=x>``."""
    return request.body


class TestPage:
    def test_every_operation_is_on_it(self, whole: Whole) -> None:
        """Each has a place with its summary, its path and an example; no two share a place."""
        page = render(whole.document).decode()
        places = re.findall(r' id="([^"]+)"', page)
        assert len(set(places)) == len(places)
        for path, item in whole.document["paths"].items():
            for operation in item.values():
                assert operation["operationId"] in places
                assert page.count(f'href="#{operation["operationId"]}"') == 2
            assert re.search(rf"origin\">[^<]*</span>{re.escape(path.partition('{')[0])}", page)
        assert page.count("<article") == page.count('class="example"') == page.count("</article>")

    def test_what_the_source_says_is_text(self) -> None:
        """Words of types, functions and headers cannot become markup; a type that holds itself ends."""
        route = Route(
            "POST",
            "/x",
            hostile,
            body=Tree,
            response=Tree,
            summary="<i>x</i>",
            tags=("<u>",),
            headers=(Header("X-<s>", '"<em>'),),
        )
        page = render(describe([route], Schema(name="<a>", models={}, streams={}), "1")).decode()
        for tag in ("<script>", "<img", "<i>", "<u>", "<em>", "<s>", "<a>", "<b>type"):
            assert tag not in page
        assert "&lt;script&gt;" in page
        assert "As Tree above." in page

    def test_it_names_no_other_host(self, whole: Whole) -> None:
        """The page, its style and its script load nothing from elsewhere, and hold no style of their own."""
        page = render(whole.document).decode()
        assert set(re.findall(r'(?:src|href)="([^"#]+)"', page)) == {
            "/docs/reference.css",
            "/docs/reference.js",
            "/v1/openapi.json",
        }
        assert not re.search(r"<style| style=| on\w+=|javascript:", page)


@pytest.mark.anyio
class TestServed:
    async def test_the_browser_is_told_what_it_may_load(self, client: Client) -> None:
        """The page's own style and script, nothing inline, no frame, no form."""
        answer = await client.get("/docs")
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; style-src 'self'; script-src 'self'")
        assert "unsafe" not in policy
        assert [name for name, _ in answer.raw_headers].count(b"content-security-policy") == 1

    @pytest.mark.parametrize(
        ("name", "kind"), [("reference.css", "text/css"), ("reference.js", "text/javascript")]
    )
    async def test_its_files_are_served(self, client: Client, name: str, kind: str) -> None:
        """Each with its type, and 304 to whom has it."""
        answer = await client.get(f"/docs/{name}")
        assert (answer.status, answer.headers["content-type"]) == (200, f"{kind}; charset=utf-8")
        again = await client.get(f"/docs/{name}", headers={"if-none-match": answer.headers["etag"]})
        assert (again.status, again.body) == (304, b"")


@pytest.fixture
def silent(tmp_path: Path) -> Lowtide:
    """A server that is told not to describe itself."""
    clock = SystemClock()
    settings = Settings(database=str(tmp_path / "data.db"), reference=False)
    return Lowtide(settings, shop, clock, SystemIds(clock))


@pytest.fixture
async def quiet(silent: Lowtide) -> AsyncIterator[Client]:
    async with running(silent):
        yield Client(silent.asgi)


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/docs", "/docs/reference.js", "/v1/openapi.json"])
async def test_it_can_be_switched_off(quiet: Client, path: str) -> None:
    """With ``reference = false`` there is nothing at its addresses, and everything else is there."""
    answer: Any = await quiet.get(path)
    assert (answer.status, answer.code) == (404, "not_found")
    assert (await quiet.get("/health/live")).status == 200
