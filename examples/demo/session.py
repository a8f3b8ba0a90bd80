"""A phone that goes about its business: one task keeps the download, one empties the queue.

The phone itself, ``tests.phones.phone.Phone``, is the real client core; this adds what an SDK adds
around it: connections, pauses that grow, and a look at the queue after each local write.
"""

from __future__ import annotations

import asyncio
import contextlib
from random import Random
from typing import Any

import httpx2
import msgspec

from tests.phones.connector import Verdict
from tests.phones.frames import Frames
from tests.phones.phone import Closed, Phone

STREAM_TIMEOUT = httpx2.Timeout(10, read=60)


class Session:
    """Drives one phone over HTTP until it is closed."""

    def __init__(self, phone: Phone, address: str, token: str, random: Random):
        self.phone = phone
        self.online = False
        self.results: dict[int, dict[str, Any]] = {}
        """What became of each uploaded mutation, by its n."""
        self._random = random
        self._wake = asyncio.Event()
        self._reconnect = asyncio.Event()
        self._http = httpx2.AsyncClient(
            base_url=address, headers={"authorization": f"Token {token}"}, timeout=5
        )
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin."""
        self._tasks = [asyncio.create_task(self._follow()), asyncio.create_task(self._empty_queue())]

    async def close(self) -> None:
        """End; what is queued stays queued."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._http.aclose()

    def wrote(self) -> None:
        """There is something new in the queue."""
        self._wake.set()

    def network_is_back(self) -> None:
        """What an operating system tells an app: try at once."""
        self._reconnect.set()
        self._wake.set()

    async def _follow(self) -> None:
        failures = 0
        while True:
            try:
                at_once = await self._stream()
                failures = 0
            except (httpx2.HTTPError, OSError):
                at_once = False
                failures += 1
            self.online = False
            self.phone.stop()
            if not at_once:
                await self._pause(self._reconnect, failures)

    async def _stream(self) -> bool:
        """One stream to its end; should the next one begin at once?"""
        body = msgspec.json.encode(self.phone.start())
        headers = {"content-type": "application/json", "accept-encoding": "gzip"}
        request = self._http.build_request(
            "POST", "/sync/stream", content=body, headers=headers, timeout=STREAM_TIMEOUT
        )
        response = await self._http.send(request, stream=True)
        try:
            if response.status_code != 200:
                return False
            frames = Frames(response.headers["content-type"], response.headers.get("content-encoding", ""))
            self.phone.established()
            async for data in response.aiter_raw():
                for line in frames.feed(data):
                    self.online = True
                    for event in self.phone.receive(line):
                        if isinstance(event, Closed):
                            return event.at_once
                self._wake.set()
            return False
        finally:
            await response.aclose()

    async def _empty_queue(self) -> None:
        failures = 0
        while True:
            try:
                if await self._upload():
                    failures = 0
                    continue
                self._wake.clear()
                await self._wake.wait()
            except (httpx2.HTTPError, OSError):
                failures += 1
                await self._pause(self._wake, failures)

    async def _upload(self) -> bool:
        """Send the next batch, or ask for the checkpoint that holds it. False: nothing to do."""
        upload = self.phone.upload()
        if upload is not None:
            headers = {"content-type": "application/json"}
            answer = await self._http.post("/v1/sync/batches", content=upload.body, headers=headers)
            verdict = self.phone.uploaded(upload, answer.status_code, answer.content)
            if verdict is Verdict.DONE:
                for result in answer.json()["results"]:
                    self.results[result["n"]] = result
            elif verdict is not Verdict.AGAIN:
                raise OSError(f"the server answered {answer.status_code}")
            return True
        ask = self.phone.ask_checkpoint()
        if ask is None:
            return False
        answer = await self._http.request(ask.method, ask.path, content=ask.body)
        answer.raise_for_status()
        self.phone.checkpoint_given(ask, answer.content)
        return True

    async def _pause(self, unless: asyncio.Event, failures: int) -> None:
        unless.clear()
        most = min(2.0, 0.1 * 2**failures)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(unless.wait(), self._random.uniform(most / 2, most))
