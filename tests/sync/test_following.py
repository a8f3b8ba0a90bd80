"""A stream that follows commits from memory, and news that overtake each other."""

from __future__ import annotations

from typing import Any

import pytest

from lowtide.kernel.http import Outlet
from lowtide.sync.model import Bucket
from lowtide.sync.view import StreamRequest
from tests.sync.conftest import Open
from tests.sync.test_engine import SCHEMA, crew, task

pytestmark = pytest.mark.anyio


async def test_news_that_came_while_the_view_was_read_is_not_told_again(open_engine: Open) -> None:
    """The view has it already. Told again it would take the device back to an older head."""
    engine = await open_engine(SCHEMA)
    await crew(engine)
    await engine.upload("ann", task("1"))
    await engine.upload("ann", task("2"))
    request = StreamRequest(client_id="bob-phone", raw_data=True)
    download = await engine.sync.download(engine.who("bob"), request, "json", "identity")
    sent: list[bytes] = []

    async def send(message: Any) -> None:
        sent.append(message["body"])

    outlet = Outlet(send)
    await download._send(outlet, None)
    view = download._view
    assert view is not None
    group, topic = view.group, 'main/team["red"]'
    newest = view.buckets[topic]
    sent.clear()
    older = Bucket(newest.id, newest.last - (1 << 20), newest.live - 1, newest.floor)
    download._listener.poke(group - 1, topic, older)
    await download._follow(outlet)
    assert sent == []
    assert (view.group, view.buckets[topic]) == (group, newest)
    await engine.upload("ann", task("3"))
    await download._follow(outlet)
    assert b'"object_id":"3"' in b"".join(sent)
    assert download._view is not None
    assert download._view.group == group + 1
    download.forget()
