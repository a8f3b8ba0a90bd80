"""A phone on a real network: the loops that an SDK runs around its core, over HTTP.

Two tasks, as in the SDKs. One keeps a download open; the other empties the upload queue and then asks
for the checkpoint that holds it. Both wait a little longer after each fault, with a random part, and
end when the session is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import httpx2
import msgspec

from tests.phones.connector import Verdict
from tests.phones.frames import Frames
from tests.phones.phone import Applied, Closed, Event, Mismatch, Phone, TokenWanted

PAUSE = 0.1
MOST_PAUSE = 5.0
"""Seconds: the first wait after a fault, and the longest."""
SILENCE = 60.0
"""Seconds without a byte, after which a download is given up; the server gives a sign of life every 20."""


class PhoneSession:
    """Keeps one ``Phone`` in step with a server: ``async with PhoneSession(...) as session``.

    Everything runs in the caller's event loop; the phone may be read and written between awaits.
    After a local write call ``wake``, or write through ``write``.
    """

    def __init__(
        self,
        phone: Phone,
        base_url: str,
        token: Callable[[], Awaitable[str]],
        client: httpx2.AsyncClient,
        *,
        bson: bool = False,
        encoding: str = "gzip",
        random: Random | None = None,
    ):
        """``token`` fetches a new one; it is asked at the start and whenever the server refuses the last.

        ``bson`` and ``encoding`` (identity, gzip, zstd) are what the phone's HTTP client prefers.
        """
        self.phone = phone
        self.mismatches: list[str] = []
        """Checksums that did not match: empty, unless the server is at fault."""
        self.refusals: list[tuple[int, bytes]] = []
        """Answers to uploads that were neither 200 nor a fault of the network."""
        self.applied = 0
        """Checkpoints that became visible."""
        self._base_url = base_url.rstrip("/")
        self._fetch_token = token
        self._token: str | None = None
        self._client = client
        self._accept = (
            "application/vnd.powersync.bson-stream;q=0.9,application/x-ndjson;q=0.8"
            if bson
            else "application/x-ndjson"
        )
        self._encoding = encoding
        self._random = random or Random()
        self._online = asyncio.Event()
        self._online.set()
        self._event = asyncio.Event()
        self._work = asyncio.Event()
        self._stream: asyncio.Task[bool] | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> PhoneSession:
        self._tasks = [asyncio.create_task(self._downloads()), asyncio.create_task(self._uploads())]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.phone.stop()

    # -- what a test does ------------------------------------------------------------------------------

    async def write(self, *statements: tuple[str, Any]) -> None:
        """One local transaction; its upload begins at once."""
        self.phone.write(*statements)
        self._tell()
        self.wake()

    def wake(self) -> None:
        """There is something to upload."""
        self._work.set()

    def airplane(self, on: bool) -> None:
        """Switch the radio off or on. Local reads and writes go on as before."""
        if on:
            self._online.clear()
            if self._stream is not None:
                self._stream.cancel()
        else:
            self._online.set()
            self.wake()

    async def until(self, condition: Callable[[], bool], seconds: float = 30.0) -> None:
        """Wait until ``condition`` holds; it is looked at whenever something changed. ``TimeoutError``."""
        async with asyncio.timeout(seconds):
            while not condition():
                self._event.clear()
                await asyncio.wait(
                    [*self._tasks, waiting := asyncio.ensure_future(self._event.wait())],
                    return_when=asyncio.FIRST_COMPLETED,
                )
                waiting.cancel()
                for task in self._tasks:
                    if task.done():
                        task.result()  # a loop that ended by itself has failed

    async def in_step(self, seconds: float = 30.0) -> None:
        """Wait until nothing is queued and the checkpoint that holds the uploads is visible."""
        await self.until(lambda: not self.phone.pending() and self.applied > 0, seconds)

    # -- download --------------------------------------------------------------------------------------

    async def _downloads(self) -> None:
        pause = PAUSE
        while True:
            await self._online.wait()
            before = self.applied
            self._stream = asyncio.create_task(self._download())
            again = False
            try:
                again = await self._stream
            except asyncio.CancelledError:
                if self._online.is_set():
                    self._stream.cancel()
                    raise
            except (httpx2.HTTPError, httpx2.StreamError, _Refused):
                pass
            finally:
                self.phone.stop()
            pause = PAUSE if self.applied > before else min(MOST_PAUSE, pause * 2)
            if not again:
                await asyncio.sleep(pause * self._random.uniform(0.5, 1.0))

    async def _download(self) -> bool:
        """One download, to its end; whether the core wants the next at once."""
        body = msgspec.json.encode(self.phone.start())
        headers = await self._headers() | {"accept": self._accept, "accept-encoding": self._encoding}
        timeout = httpx2.Timeout(10.0, read=SILENCE)
        async with self._client.stream(
            "POST", f"{self._base_url}/sync/stream", content=body, headers=headers, timeout=timeout
        ) as response:
            if response.status_code != 200:
                self._refused(response.status_code)
            frames = Frames(response.headers["content-type"], response.headers.get("content-encoding", ""))
            closed = await self._take(self.phone.established())
            seeding = asyncio.create_task(self._seed()) if self.phone.seed is not None else None
            try:
                async for data in response.aiter_raw():
                    for line in frames.feed(data):
                        closed = closed or await self._take(self.phone.receive(line))
                        self.wake()
                        if closed is not None:
                            return closed.at_once
                await self._take(self.phone.ended())
                return False
            finally:
                if seeding is not None:
                    seeding.cancel()

    async def _take(self, events: list[Event]) -> Closed | None:
        closed = None
        for event in events:
            match event:
                case Applied():
                    self.applied += 1
                case Mismatch(line):
                    self.mismatches.append(line)
                case TokenWanted(expired):
                    self._token = None
                    if not expired:
                        await self._headers()
                        closed = await self._take(self.phone.token_refreshed())
                case Closed():
                    closed = event
        self._tell()
        return closed

    # -- upload ----------------------------------------------------------------------------------------

    async def _uploads(self) -> None:
        pause = PAUSE
        while True:
            await self._work.wait()
            await self._online.wait()
            self._work.clear()
            try:
                await self._empty_queue()
                await self._ask_checkpoint()
                pause = PAUSE
            except (httpx2.HTTPError, _Refused):
                pause = min(MOST_PAUSE, pause * 2)
                self.wake()
                await asyncio.sleep(pause * self._random.uniform(0.5, 1.0))

    async def _empty_queue(self) -> None:
        while (upload := self.phone.upload()) is not None:
            response = await self._request("POST", "/v1/sync/batches", upload.body)
            verdict = self.phone.uploaded(upload, response.status_code, response.content)
            if response.status_code != 200:
                self.refusals.append((response.status_code, response.content))
            if verdict is Verdict.LATER:
                raise _Refused
            if verdict is Verdict.TOKEN:
                self._token = None
            self._tell()

    async def _ask_checkpoint(self) -> None:
        ask = self.phone.ask_checkpoint()
        if ask is None:
            return
        response = await self._request(ask.method, ask.path, ask.body)
        if response.status_code != 200:
            self._refused(response.status_code)
        await self._take(self.phone.checkpoint_given(ask, response.content))
        self.wake()

    async def _seed(self) -> None:
        """Agree with the server on the number of the last checkpoint request."""
        while (seed := self.phone.seed) is not None:
            with contextlib.suppress(httpx2.HTTPError, _Refused):
                response = await self._request("POST", "/sync/checkpoint-request", seed)
                if response.status_code == 200 and self.phone.connected:
                    self.phone.seeded(msgspec.json.decode(response.content)["data"]["checkpoint_request_id"])
                    self.wake()
                    return
            await asyncio.sleep(PAUSE)

    # -- HTTP ------------------------------------------------------------------------------------------

    async def _headers(self) -> dict[str, str]:
        if self._token is None:
            self._token = await self._fetch_token()
        return {"authorization": f"Token {self._token}", "content-type": "application/json"}

    async def _request(self, method: str, path: str, body: bytes | None) -> httpx2.Response:
        headers = await self._headers()
        if not self._online.is_set():
            raise _Refused
        return await self._client.request(method, self._base_url + path, content=body, headers=headers)

    def _refused(self, status: int) -> None:
        if status == 401:
            self._token = None
        raise _Refused

    def _tell(self) -> None:
        self._event.set()


class _Refused(Exception):
    """The server did not do what was asked; try again later."""
