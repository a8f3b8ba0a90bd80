"""The addresses that the security pages name are served."""

from __future__ import annotations

import re

from lowtide.kernel.http import Route
from tests.contract.conftest import Whole
from tests.docs.pages import DOCS

_ADDRESS = re.compile(r"`(GET|POST|PUT|PATCH|DELETE) (/v1/[\w/-]+)`")


def test_each_address_is_served(whole: Whole) -> None:
    """The table of routes has it."""

    def fits(route: Route, method: str, path: str) -> bool:
        pattern = re.sub(r"\{\w+\}", "[^/]+", route.path)
        return route.method == method and re.fullmatch(pattern, path) is not None

    texts = [page.read_text("utf-8") for page in (DOCS / "security").glob("*.md")]
    addresses = {found for text in texts for found in _ADDRESS.findall(text)}
    assert len(addresses) > 4
    for method, path in addresses:
        assert any(fits(route, method, path) for route in whole.routes), f"{method} {path}"
