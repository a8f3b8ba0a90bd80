"""Apps that a page declares, made as if they were files."""

from __future__ import annotations

import itertools
import linecache
from typing import Any

from lowtide import App

_numbers = itertools.count(1)


def app_of(source: str) -> App:
    """The ``app`` that ``source`` declares; its findings name the lines of ``source``."""
    name = f"<page {next(_numbers)}>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    module: dict[str, Any] = {"__name__": "app"}
    exec(compile(source, name, "exec"), module)  # the page's own code
    app = module["app"]
    assert isinstance(app, App)
    return app
