"""A client that calls an ASGI app in this process: whole answers, and streams that are read bit by bit."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping, MutableMapping
from typing import Any

import msgspec

from lowtide.api.exchange import Asgi

Headers = Mapping[str, str] | Iterable[tuple[str, str]]


class Answer:
    """A whole answer."""

    def __init__(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes, *, complete: bool):
        self.status = status
        self.raw_headers = headers
        self.body = body
        self.complete = complete

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode("latin-1") for name, value in self.raw_headers}

    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def code(self) -> str | None:
        """The problem's code; None for an answer that is not a problem."""
        if self.headers.get("content-type") != "application/problem+json":
            return None
        found = self.json()
        assert found["status"] == self.status
        return str(found["code"])


class Call:
    """One request under way."""

    def __init__(self, scope: MutableMapping[str, Any], parts: Iterable[bytes]):
        self.scope = scope
        self._in: asyncio.Queue[MutableMapping[str, Any]] = asyncio.Queue()
        self._out: asyncio.Queue[MutableMapping[str, Any]] = asyncio.Queue()
        self._left = False
        self.task: asyncio.Task[None] | None = None
        for part in parts:
            self.push(part)

    def push(self, part: bytes, *, last: bool = False) -> None:
        """Send a part of the body."""
        self._in.put_nowait({"type": "http.request", "body": part, "more_body": not last})

    def leave(self) -> None:
        """Close the connection."""
        self._left = True
        self._in.put_nowait({"type": "http.disconnect"})

    async def run(self, app: Asgi) -> None:
        try:
            await app(self.scope, self._in.get, self._send)
        finally:
            self._out.put_nowait({"type": "end"})

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        if not self._left:
            self._out.put_nowait(message)

    async def next(self, seconds: float = 5.0) -> MutableMapping[str, Any]:
        """The app's next message, or ``{"type": "end"}``."""
        async with asyncio.timeout(seconds):
            return await self._out.get()

    async def line(self) -> bytes:
        """The next part of a stream."""
        message = await self.next()
        assert message["type"] == "http.response.body", message
        return bytes(message["body"])

    async def answer_end(self) -> bool:
        """Whether what follows is the end of the answer, and a clean one."""
        message = await self.next()
        clean = message["type"] == "http.response.body" and not message.get("more_body", False)
        return clean and (await self.next())["type"] == "end"

    async def answer(self) -> Answer:
        """Everything until the end."""
        start = await self.next()
        if start["type"] == "end":
            return Answer(0, [], b"", complete=False)
        body, complete = b"", False
        while (message := await self.next())["type"] != "end":
            assert not complete, "something follows the end of the answer"
            body += message["body"]
            complete = not message.get("more_body", False)
        return Answer(start["status"], start["headers"], body, complete=complete)


class Client:
    """Sends requests to ``app``; ``headers`` go with each, and override with the same name."""

    def __init__(
        self,
        app: Asgi,
        headers: Mapping[str, str] | None = None,
        host: str | None = "localhost",
        peer: str = "127.0.0.1",
    ):
        self._app = app
        self._peer = peer
        self._headers = dict(headers or {})
        self._host = host

    async def request(
        self,
        method: str,
        target: str,
        *,
        json: Any = None,
        body: bytes | Iterable[bytes] | None = None,
        headers: Headers | None = None,
        token: str | None = None,
        state: Mapping[str, Any] | None = None,
        scheme: str = "http",
    ) -> Answer:
        """One request to its end. ``body`` in several parts comes in several messages."""
        async with self.open(
            method, target, json=json, body=body, headers=headers, token=token, state=state, scheme=scheme
        ) as call:
            answer = await call.answer()
            assert call.task is not None
            await call.task
        return answer

    async def get(self, target: str, **options: Any) -> Answer:
        return await self.request("GET", target, **options)

    async def post(self, target: str, **options: Any) -> Answer:
        return await self.request("POST", target, **options)

    @contextlib.asynccontextmanager
    async def open(
        self,
        method: str,
        target: str,
        *,
        json: Any = None,
        body: bytes | Iterable[bytes] | None = None,
        headers: Headers | None = None,
        token: str | None = None,
        state: Mapping[str, Any] | None = None,
        scheme: str = "http",
        ended: bool = True,
    ) -> AsyncIterator[Call]:
        """A request under way, ended (and its task with it) when the block is left.

        ``ended=False`` leaves the request's body open: ``push`` the rest.
        """
        if json is not None:
            body = msgspec.json.encode(json)
        pairs = [(name, value) for name, value in self._headers.items()]
        if self._host is not None:
            pairs.append(("host", self._host))
        if json is not None:
            pairs.append(("content-type", "application/json"))
        if token is not None:
            pairs.append(("authorization", f"Bearer {token}"))
        own = list(headers.items() if isinstance(headers, Mapping) else headers or [])
        names = {name.lower() for name, _ in own}
        pairs = [pair for pair in pairs if pair[0].lower() not in names] + own
        if isinstance(body, bytes) and "content-length" not in names:
            pairs.append(("content-length", str(len(body))))
        path, _, query = target.partition("?")
        parts = [body] if isinstance(body, bytes) else list(body or [])
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode("latin-1"),
            "query_string": query.encode("latin-1"),
            "headers": [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in pairs],
            "client": (self._peer, 50000),
            "scheme": scheme,
            "http_version": "1.1",
            "state": dict(state or {}),
        }
        call = Call(scope, parts)
        if ended:
            call.push(b"", last=True)
        call.task = asyncio.create_task(call.run(self._app))
        try:
            yield call
        finally:
            call.leave()
            if not call.task.done():
                await asyncio.wait([call.task], timeout=5)
            call.task.cancel()
