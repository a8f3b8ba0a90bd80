"""Writers: devices that upload numbered batches over HTTP until they are acknowledged, whatever happens.

A transaction of a writer is a mark, two halves, an increment of the common tally, and one of the writer's
own with an element for its set and its list. Some hold a bad word besides, and are refused as a whole.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any

import httpx2
import msgspec

COMMON = "common"
"""The id of the tally that everybody counts on."""

PAUSE = 0.02
REQUEST_SECONDS = 5.0
IMPATIENT_SECONDS = 0.006
"""Some requests are given up after about this time: often their answer is lost, and the batch is not."""
BAD_EVERY = 6
IMPATIENT_EVERY = 8


class Made(msgspec.Struct, frozen=True):
    """One transaction, as its writer made it."""

    mark: str
    number: int
    refused: bool
    mutations: list[dict[str, Any]]

    @property
    def last(self) -> int:
        n: int = self.mutations[-1]["n"]
        return n


class Writer:
    """One device without a database: its numbers, its queue, and what it was told."""

    def __init__(self, name: str, random: Random):
        self.name = name
        self.made: list[Made] = []
        self.pending: deque[Made] = deque()
        self.faults: list[str] = []
        """Answers that a correct server never gives."""
        self.writing = asyncio.Event()
        """New transactions are made."""
        self.sending = asyncio.Event()
        """What is pending is sent, again and again."""
        self._random = random
        self._n = 0
        self._sent = 0
        self._resting = asyncio.Event()
        self._resting.set()

    @property
    def acknowledged(self) -> list[Made]:
        """What the server has answered: it must be there for good."""
        return self.made[: len(self.made) - len(self.pending)]

    async def run(self, client: httpx2.AsyncClient, url: str, token: Callable[[], str]) -> None:
        """Make and send until cancelled."""
        while True:
            if self.writing.is_set() and len(self.pending) < 8:
                for _ in range(self._random.randint(1, 3)):
                    self._make()
            if self.pending and self.sending.is_set():
                self._resting.clear()
                acknowledged = await self._send(client, url, token())
                self._resting.set()
                if acknowledged:
                    continue
            await asyncio.sleep(PAUSE * self._random.uniform(0.2, 1.8))

    async def rest(self) -> None:
        """Send nothing any more, and wait for what is on its way."""
        self.writing.clear()
        self.sending.clear()
        await self._resting.wait()

    def _make(self) -> None:
        number = len(self.made) + 1
        mark = f"{self.name}-{number}"
        refused = self._random.randrange(BAD_EVERY) == 0
        mutations = [
            self._put("mark", mark, writer=self.name, number=number),
            self._put("half", f"{mark}-a", mark=mark),
            self._put("half", f"{mark}-b", mark=mark),
            self._patch(COMMON, {"total": 0}, {"total": 1}),
            self._patch(
                self.name,
                {"total": 0, "bag": "[]", "line": "[]"},
                {"total": 1, "bag": f"[{number}]", "line": f"[{number}]"},
            ),
        ]
        if refused:
            mutations.insert(self._random.randrange(6), self._put("word", mark, text="bad"))
        for mutation in mutations:
            self._n += 1
            mutation["n"] = self._n
        made = Made(mark, number, refused, mutations)
        self.made.append(made)
        self.pending.append(made)

    def _put(self, model: str, id: str, **data: Any) -> dict[str, Any]:
        return {"op": "put", "model": model, "id": id, "data": data}

    def _patch(self, id: str, base: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        # Over an empty base: an addition, whatever the others have added before.
        return {"op": "patch", "model": "tally", "id": id, "base": base, "data": data}

    async def _send(self, client: httpx2.AsyncClient, url: str, token: str) -> bool:
        # What got no answer is sent again, with what has come since behind it.
        self._sent = max(self._sent, self._random.randint(1, 6))
        batch = list(self.pending)[: self._sent]
        body = {
            "client_id": self.name,
            "transactions": [{"mutations": made.mutations} for made in batch],
        }
        impatient = self._random.randrange(IMPATIENT_EVERY) == 0
        patience = self._random.uniform(0.2, 2.0) * IMPATIENT_SECONDS if impatient else REQUEST_SECONDS
        try:
            answer = await client.post(
                f"{url}/v1/sync/batches",
                content=msgspec.json.encode(body),
                headers={"authorization": f"Token {token}", "content-type": "application/json"},
                timeout=patience,
            )
        except httpx2.HTTPError:
            return False
        if answer.status_code == 503:
            return False
        if answer.status_code != 200:
            self.faults.append(f"{self.name}: {answer.status_code} {answer.text}")
            return False
        told = msgspec.json.decode(answer.content)
        if told["last"] != batch[-1].last:
            self.faults.append(f"{self.name}: {batch[-1].last} was sent, {told['last']} acknowledged")
        by_number = {result["n"]: result["status"] for result in told["results"]}
        for made in batch:
            statuses = {by_number.get(mutation["n"]) for mutation in made.mutations}
            if statuses != {"refused"} if made.refused else statuses - {"applied", "merged"}:
                self.faults.append(f"{self.name}: {made.mark} was answered {statuses}")
            self.pending.popleft()
        self._sent = 0
        return True
