"""The page on signing in: each exchange is sent to a server, in order, and answered as it is shown."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import pyotp
import pytest

from lowtide import App
from lowtide.app import Lowtide
from lowtide.auth.methods import email, sms, tries
from lowtide.kernel.clock import ManualClock
from lowtide.kernel.ids import SystemIds
from lowtide.kernel.rates import Limit
from lowtide.settings import Settings
from tests.api.client import Client
from tests.docs.pages import DOCS, Block, blocks, same, tables

PAGE = DOCS / "sign-in-methods.md"
BLOCKS = [block for block in blocks(PAGE) if block.language in ("http", "json")]


class Reader:
    """Who does what the page says: remembers what was answered, and reads what was sent."""

    def __init__(self, lowtide: Lowtide, clock: ManualClock):
        self._client = Client(lowtide.asgi)
        self._clock = clock
        self._lowtide = lowtide
        self._known: dict[str, str] = {}
        self._asked = ("", 0)
        """Where the last code was asked to, and when."""

    async def send(self, block: Block) -> tuple[int, Any]:
        """Send a request as it is printed, with what stands in braces put in."""
        head, _, text = block.text.partition("\n\n")
        method, path = head.split()
        self._clock.advance(31)  # the next code of an authenticator
        for name in re.findall(r'"\{(\w+)\}"', text):
            text = text.replace(f"{{{name}}}", await self._value(name))
        body: dict[str, Any] = json.loads(text) if text.strip() else {}
        if path.endswith("/start"):
            to = body.get("email") or body["phone"].replace(" ", "")
            self._asked = (to, self._clock.now())
        token = self._known["access_token"] if block.words else None
        if block.words == ("server",):
            token = self._lowtide.tokens.sign("app", server=True)
        path = path.replace("{user_id}", self._known.get("user_id", ""))
        answer = await self._client.request(method, path, json=body or None, token=token)
        found = answer.json() if answer.body else None
        if isinstance(found, dict):
            self._known |= {name: value for name, value in found.items() if isinstance(value, str)}
            if found.get("user"):
                self._known["user_id"] = found["user"]["id"]
        return answer.status, found

    async def _value(self, name: str) -> str:
        if name == "totp":
            return pyotp.TOTP(self._known["secret"]).at(self._clock.now() // 1000)
        if name != "code":
            return self._known[name]
        async with asyncio.timeout(20):
            while True:
                for sent in (await self._client.get("/dev/outbox.json")).json()["messages"]:
                    found = re.search(r"\d{4} ?\d{4}", sent["text"])
                    if found and sent["to"] == self._asked[0] and sent["sent_at"] >= self._asked[1]:
                        return found[0]
                await asyncio.sleep(0.01)


@pytest.mark.anyio
async def test_every_exchange_is_answered_as_the_page_shows(tmp_path: Path) -> None:
    """Each method signs a new user in, with the requests and the answers of the page."""
    clock = ManualClock()
    settings = Settings(database=str(tmp_path / "data.db"))
    made = partial(Lowtide, settings, App("notes"), clock, SystemIds(clock), dev=True)
    lowtide = await asyncio.to_thread(made)
    await lowtide.start()
    reader = Reader(lowtide, clock)
    count = 0
    try:
        for request, answer in itertools.pairwise(BLOCKS):
            if request.language != "http":
                continue
            count += 1
            status, found = await reader.send(request)
            assert str(status) == answer.words[0], f"{PAGE.name}:{request.line}: {found}"
            shown = json.loads(answer.text) if answer.text.strip() else None
            assert same(shown, found), f"{PAGE.name}:{request.line}: {found}"
    finally:
        await lowtide.stop()
    assert count == len([block for block in BLOCKS if block.language == "http"]) > 12


def test_the_limits_are_those_of_the_code() -> None:
    """Each row of the table says how many at once and in which time."""
    (table,) = [table for table in tables(PAGE) if table.columns[:2] == ("what", "at once")]
    told = {cells["what"]: (cells["at once"], cells["in all"]) for _, cells in table.rows}

    def row(first: Limit, *more: Limit) -> tuple[str, str]:
        spans = {900: "in 15 min", 1_800: "in 30 min", 3_600: "an hour", 86_400: "a day"}
        return str(first.most), ", ".join(
            f"{limit.count} {spans[int(limit.seconds)]}" for limit in (first, *more)
        )

    assert told["mails to one address"] == row(*email.PER_ADDRESS)
    assert told["of these mails, those that one network asks for"] == row(*email.PER_PLACE)
    assert told["mails that one network asks for"] == row(email.PER_NETWORK)
    assert told["texts to one number"] == row(*sms.PER_NUMBER)
    assert told["of these texts, those that one network asks for"] == row(*sms.PER_PLACE)
    assert told["texts that one network asks for"] == row(sms.PER_NETWORK)
    tried = "passwords, or second factors, tried for one account from one network"
    assert told[tried] == row(tries.HERE)
    assert told["the same from everywhere"] == row(tries.ACCOUNT)
    assert told["passwords, or second factors, that one network tries"] == row(tries.NETWORK)
    wrong = "wrong codes of six digits for one account, from all strange places, and from each known one"
    assert told[wrong] == row(tries.WRONG)
    for what, limits in (
        ("the same from a device that is or was signed in", (tries.SIGNED_IN,)),
        ("mails to an address whose owner has signed in on this device", email.PER_DEVICE),
        ("texts to a number whose owner has signed in on this device", sms.PER_DEVICE),
    ):
        once, spread = row(*limits)
        assert told[what] == (once, f"{spread}, whatever strangers do")
