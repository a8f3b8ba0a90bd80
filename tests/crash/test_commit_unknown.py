"""The answer is lost after the commit: the device sends the batch again, and it counts once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from lowtide.app import Lowtide, build
from lowtide.settings import Settings
from lowtide.storage.db import Dialect
from tests.api.client import Client
from tests.crash.app import app
from tests.crash.writers import COMMON
from tests.server_process import SECRET_KEY
from tests.storage.wire import Wire

pytestmark = pytest.mark.anyio

DEVICES = 25
UPLOADS = 40
CUT_COMMITS = 25


class Device:
    """Uploads one transaction after the other; ``send`` decides what becomes of each request."""

    def __init__(self, name: str, lowtide: Lowtide):
        self.name = name
        self.lost = 0
        self._client = Client(lowtide.asgi, {"authorization": f"Bearer {lowtide.tokens.sign(name)}"})
        self._n = 0

    async def upload(self, lose: Callable[[], bool]) -> None:
        """One transaction, until it is acknowledged. While ``lose()`` says so, its answer is lost."""
        number = self._n + 1
        empty = {"total": 0, "bag": "[]"}
        body = self._batch({"op": "put", "model": "mark", "data": {"writer": self.name, "number": number}})
        body["transactions"][0]["mutations"] += [
            self._tally(COMMON, {"total": 0}, {"total": 1}),
            self._tally(self.name, empty, {"total": 1, "bag": f"[{number}]"}),
        ]
        while True:
            async with self._client.open("POST", "/v1/sync/batches", json=body) as call:
                if lose():
                    # The first message of the answer comes after the commit, and is all that ever comes.
                    start = await call.next(30)
                    assert start["status"] in (200, 503), start
                    call.leave()
                    self.lost += 1
                    continue
                answer = await call.answer()
            if answer.status == 503:  # the database did not answer: it is not known what became of it
                self.lost += 1
                await asyncio.sleep(0.01)
                continue
            assert answer.status == 200, answer.body
            told = answer.json()
            assert told["last"] == self._n
            assert told["results"][0]["status"] == "applied"
            return

    def _batch(self, first: dict[str, Any]) -> dict[str, Any]:
        first |= {"n": self._next(), "id": f"{self.name}-{self._n}"}
        return {"client_id": self.name, "transactions": [{"mutations": [first]}]}

    def _tally(self, id: str, base: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        return {"n": self._next(), "op": "patch", "model": "tally", "id": id, "base": base, "data": data}

    def _next(self) -> int:
        self._n += 1
        return self._n


async def started(lowtide: Lowtide) -> AsyncIterator[Lowtide]:
    """``lowtide`` with its tallies in place."""
    await lowtide.start()
    try:
        ids = [COMMON, *(f"device{i}" for i in range(DEVICES))]
        tallies = [{"n": n, "op": "put", "model": "tally", "id": id} for n, id in enumerate(ids, 1)]
        client = Client(lowtide.asgi, {"authorization": f"Bearer {lowtide.tokens.sign('setup')}"})
        body = {"client_id": "setup", "transactions": [{"mutations": tallies}]}
        assert (await client.post("/v1/sync/batches", json=body)).status == 200
        yield lowtide
    finally:
        await lowtide.stop()


@pytest.fixture
def settings(dialect: Dialect, tmp_path: Path, request: pytest.FixtureRequest) -> Settings:
    if dialect == "sqlite":
        return Settings(database=str(tmp_path / "data.db"), allowed_hosts=("localhost",))
    return Settings(
        database=request.getfixturevalue("postgres_dsn"),
        secret_key=SECRET_KEY,
        allowed_hosts=("localhost",),
    )


@pytest.fixture
def built(settings: Settings) -> Lowtide:
    return build(settings, app)


@pytest.fixture
async def lowtide(anyio_backend: object, built: Lowtide) -> AsyncIterator[Lowtide]:
    async for running in started(built):
        yield running


async def rows(lowtide: Lowtide) -> dict[str, dict[str, Any]]:
    """Every row that anybody receives, as 'model/id'."""
    client = Client(lowtide.asgi, {"authorization": f"Bearer {lowtide.tokens.sign('reader')}"})
    found: dict[str, dict[str, Any]] = {}
    cursor: str | None = None
    while True:
        page = (await client.post("/v1/sync/pull", json={"cursor": cursor} if cursor else {})).json()
        found |= {f"{row['model']}/{row['id']}": row["data"] for row in page["rows"]}
        cursor = page["cursor"]
        if page["complete"]:
            return found


def check(found: dict[str, dict[str, Any]], devices: list[Device], uploads: int) -> None:
    """Every upload of every device is there, once."""
    assert found[f"tally/{COMMON}"]["total"] == len(devices) * uploads
    for device in devices:
        tally = found[f"tally/{device.name}"]
        assert tally["total"] == uploads
        assert sum(name.startswith(f"mark/{device.name}-") for name in found) == uploads
        assert tally["bag"].count(",") == uploads - 1


async def test_a_thousand_lost_answers_are_a_thousand_single_uploads(lowtide: Lowtide) -> None:
    """Each of 1,000 uploads loses its answer at least once and is repeated until it hears one."""
    devices = [Device(f"device{i}", lowtide) for i in range(DEVICES)]

    async def use(device: Device, random: Random) -> None:
        for _ in range(UPLOADS):
            losses = iter([True, *(random.random() < 0.3 for _ in range(3))])
            await device.upload(lambda left=losses: next(left, False))  # type: ignore[misc]

    await asyncio.gather(*(use(device, Random(i)) for i, device in enumerate(devices)))
    assert sum(device.lost for device in devices) > DEVICES * UPLOADS
    check(await rows(lowtide), devices, UPLOADS)


async def test_a_commit_whose_own_answer_is_lost_counts_once(postgres_dsn: str) -> None:
    """PostgreSQL commits and is cut off: the server does not know, and the device repeats."""
    async with Wire(postgres_dsn) as wire:
        settings = Settings(
            database=wire.dsn, secret_key=SECRET_KEY, allowed_hosts=("localhost",), worker=False
        )
        made = await asyncio.to_thread(build, settings, app)
        async for running in started(made):
            device = Device("device0", running)
            for _ in range(CUT_COMMITS):
                cuts = wire.cuts
                wire.cut_after(b"COMMIT\0")
                while wire.cuts == cuts:
                    await device.upload(lambda: False)
            assert wire.cuts == CUT_COMMITS
            assert device.lost > CUT_COMMITS // 2
            found = await rows(running)
            check(found, [device], found["tally/device0"]["total"])
