"""One request and what became of it: its answer on the way out, with the headers that every answer has."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

import msgspec

from lowtide.kernel.http import Response, Route, StreamAnswer
from lowtide.kernel.schema import Principal

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]

NO_SNIFF = (b"x-content-type-options", b"nosniff")
SECURITY = (
    NO_SNIFF,
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
NO_STORE = (b"cache-control", b"no-store")
HSTS = (b"strict-transport-security", b"max-age=31536000")
"""Said over TLS only: this host name, for a year (RFC 6797)."""

_encode = msgspec.json.Encoder().encode


class Exchange:
    """One request and what became of it."""

    __slots__ = (
        "added",
        "id",
        "peer",
        "receive",
        "route",
        "scope",
        "send",
        "session",
        "started",
        "status",
        "streamed",
        "token",
        "who",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send, number: str, started: float):
        self.scope = scope
        self.receive = receive
        self.send = send
        self.id = number
        client = scope.get("client")
        self.peer: str = client[0] if client else ""
        self.added: list[tuple[bytes, bytes]] = []
        self.route: Route | None = None
        self.who: Principal | None = None
        self.session = ""
        self.token = ""
        self.status = 0
        self.streamed = False
        self.started = started

    async def answer(self, answer: Response) -> None:
        """Send ``answer``.

        A body that JSON cannot say is a ``TypeError``, ``ValueError`` or msgspec's, and nothing is sent.
        """
        body = answer.body if type(answer.body) is bytes else _encode(answer.body)
        bare = answer.status in (204, 304)
        headers = self.headers(answer.media_type if body else None, answer.headers)
        if not bare:
            headers.append((b"content-length", b"%d" % len(body)))
        self.status = answer.status
        await self.send({"type": "http.response.start", "status": answer.status, "headers": headers})
        if bare or self.scope["method"] == "HEAD":
            body = b""
        await self.send({"type": "http.response.body", "body": body})

    def headers(self, media_type: str | None, own: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
        """The headers of an answer with a body of ``media_type``: its ``own`` in place of the edge's."""
        # A token comes in a header, which no page's address, picture, script or frame can bring: such an
        # answer is nobody's page, and what guards pages would only be bytes on a phone's network.
        guards = SECURITY if self.who is None else (NO_SNIFF,)
        headers = [(b"x-request-id", self.id.encode()), *guards, *self.added]
        if media_type is not None:
            headers.append((b"content-type", media_type.encode("latin-1")))
        if not own:
            headers.append(NO_STORE)
            return headers
        if "cache-control" not in own:
            headers.append(NO_STORE)
        replaced = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in own.items()]
        names = {name for name, _ in replaced} - {b"vary"}
        return [pair for pair in headers if pair[0] not in names] + replaced

    def where(self) -> dict[str, Any]:
        """What the logs say of it."""
        return {
            "request_id": self.id,
            "method": self.scope["method"],
            "route": self.route.path if self.route is not None else None,
            "client": self.peer or None,
        }


def answered(result: Any, route: Route) -> Response | StreamAnswer:
    """The answer that ``result`` of the route's handler is."""
    if isinstance(result, Response | StreamAnswer):
        return result
    if result is None:
        return Response(status=204)
    return Response(status=route.status, body=_encode(result))
