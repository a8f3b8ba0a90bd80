"""Hooks of signing in: declared once each, asynchronous, with one argument."""

from __future__ import annotations

from typing import Any

import pytest

from lowtide import App
from lowtide.declare.check import check


async def hook(event: Any) -> None:
    pass


async def no_argument() -> None:
    pass


def not_async(event: Any) -> None:
    pass


def test_hooks_are_in_the_schema() -> None:
    """Each under its moment; a function stays usable after it was declared."""
    app = App("shop")
    assert app.before_sign_up(hook) is hook
    assert app.after_sign_in(hook) is hook
    assert dict(app.compile().hooks) == {"before_sign_up": hook, "after_sign_in": hook}


@pytest.mark.parametrize(
    ("call", "code"), [(not_async, "hook-async"), (no_argument, "hook-signature"), (hook, "hook-twice")]
)
def test_a_hook_that_cannot_work_is_found(call: Any, code: str) -> None:
    """By ``lowtide check``, before it keeps a user out."""
    app = App("shop")
    app.before_sign_in(call)
    if code == "hook-twice":
        app.before_sign_in(call)
    assert [finding.code for finding in check(app)] == [code]
