"""HTTP as values: a component says what it serves, the edge (``lowtide.api``) serves it.

A component's ``routes.py`` builds a list of ``Route``. A handler is a plain coroutine function from a
``Request`` to a value: a msgspec Struct (sent as JSON), ``None`` (204), a ``Response`` when status,
type or headers differ, or a ``StreamAnswer`` for an answer without an end. It raises ``LowtideError``, and
the edge makes that an RFC 9457 problem. Nothing here does I/O.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec

from lowtide.kernel.errors import LowtideError, Unauthorized
from lowtide.kernel.schema import Principal

B = TypeVar("B")
Q = TypeVar("Q")

Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
Auth = Literal["none", "user", "server", "admin"]
"""Who may ask: anyone, whoever has a token, only the app's own servers, or those and admins."""

Rate = Literal["read", "write", "auth", "sync", "none"]
"""How often one may ask: a class of limits; "none" is unlimited."""

KIB = 1024
MIB = 1024 * KIB


Keep = Callable[[Any, Any], Awaitable[None]]
"""(tx, answer): keep the answer of a request that carries an Idempotency-Key, in its transaction."""


class Request(msgspec.Struct, Generic[B, Q], kw_only=True):
    """What a handler is told: the decoded body and query, and who asks."""

    body: B
    query: Q
    params: Mapping[str, str] = {}
    """The ``{name}`` parts of the path, percent-decoded UTF-8 without NUL."""
    who: Principal | None = None
    headers: Sequence[tuple[bytes, bytes]] = ()
    """As they came, the names in lower case."""
    method: str = "GET"
    path: str = "/"
    """The raw path, still percent-encoded."""
    client: str = ""
    """The peer's address, or what a trusted proxy said it is."""
    id: str = ""
    """The request's id: in the log, in ``X-Request-Id`` and in every problem."""
    keep: Keep | None = None
    """Set when the request carries an Idempotency-Key. A handler whose whole work is one transaction calls it
    there with what it is going to return: then a crash cannot part the two. The edge does it otherwise."""

    @property
    def principal(self) -> Principal:
        """Who asks. Raises ``Unauthorized`` where the route has ``auth="none"``: no token is read there."""
        if self.who is None:
            raise Unauthorized
        return self.who

    def header(self, name: str) -> str | None:
        """The value of a header, several joined by a comma (RFC 9110 section 5.3); ``name`` in lower case."""
        wanted = name.encode("latin-1")
        found = [value for key, value in self.headers if key == wanted]
        return b", ".join(found).decode("latin-1") if found else None

    def accepts_encoding(self, *offers: str) -> str | None:
        """The first of ``offers`` that Accept-Encoding allows, or None: send it as it is.

        RFC 9110 section 12.5.3, with our order of preference instead of the client's weights: only
        ``q=0`` is heeded.
        """
        header = self.header("accept-encoding")
        if header is None:
            return None
        allowed: dict[str, bool] = {}
        for part in header.lower().split(","):
            coding, _, weight = part.partition(";")
            quality = weight.strip().removeprefix("q=").strip()
            allowed[coding.strip()] = quality.strip("0.") != "" or not quality
        default = allowed.get("*", False)
        return next((offer for offer in offers if allowed.get(offer, default)), None)


class Response(msgspec.Struct, kw_only=True):
    """An answer whose status, type or headers are not the usual ones.

    ``body`` of type ``bytes`` is sent as it is, anything else as JSON. ``headers`` replace the edge's
    own of the same name (lower case), such as ``cache-control``.
    """

    body: Any = b""
    status: int = 200
    media_type: str = "application/json"
    headers: Mapping[str, str] = {}


class Outlet:
    """The open end of a ``StreamAnswer``: where its ``run`` writes.

    A listener costs its coroutine, one task that waits for the client to leave, and no queue: ``write``
    waits while the client's socket is full (64 KiB), so what a slow client costs is bounded, and one that
    takes nothing for a minute is cut off.
    """

    __slots__ = ("_ask", "_send", "retry_after", "sent")

    def __init__(self, send: Callable[[Any], Awaitable[None]]):
        self._send = send
        self._ask: Callable[[], None] | None = None
        self.retry_after: float | None = None
        """Not None: the server is stopping. Seconds, with jitter, after which the client should return."""
        self.sent = 0
        """Bytes written so far, before any framing."""

    async def write(self, data: bytes) -> None:
        """Send ``data`` now. Returns when the socket has room for more, not when it arrived."""
        self.sent += len(data)
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    @property
    def draining(self) -> bool:
        """Whether the server is stopping: write a last line, if the protocol has one, and return."""
        return self.retry_after is not None

    def on_drain(self, call: Callable[[], None]) -> None:
        """Call ``call`` once, on the loop, when the server begins to stop; at once when it already has."""
        self._ask = call
        if self.draining:
            call()

    def drain(self, retry_after: float) -> None:
        """Ask the stream to end: the edge's to call. A repeat does nothing."""
        if self.retry_after is None:
            self.retry_after = retry_after
            if self._ask is not None:
                self._ask()


class StreamAnswer(msgspec.Struct, kw_only=True):
    """An answer that lasts: ``run(outlet)`` writes until it returns.

    ``run`` is *cancelled* when the client goes away: whatever it awaits raises ``CancelledError``, so
    clean up in ``finally`` and swallow nothing. An exception cuts the connection (the client sees a
    truncated answer, never a false end) and is logged. On shutdown ``outlet.on_drain`` is called; a stream
    that has not returned when the server's grace ends is cancelled.
    """

    run: Callable[[Outlet], Awaitable[None]]
    drop: Callable[[], None] | None = None
    """Called instead of ``run`` when that will never be: the server has too many streams, or the client
    is gone. For what the handler has already opened."""
    media_type: str = "application/x-ndjson"
    headers: Mapping[str, str] = {}


Handler = Callable[[Request[Any, Any]], Awaitable[Any]]


class Header(msgspec.Struct, frozen=True):
    """A header that an address reads, or one that it answers with; for the reference."""

    name: str
    about: str
    required: bool = False
    pattern: str = ""
    """What its value looks like, as a regular expression of JSON Schema; empty: any text."""


class Answer(msgspec.Struct, frozen=True):
    """An answer that an address gives besides its usual one: unchanged, created, a redirect."""

    status: int
    about: str
    body: Any = None
    """The type of its JSON; None: no body, or none of ``media_type`` that a schema describes."""
    media_type: str = ""
    """Empty: JSON where there is a ``body``, nothing where there is none."""
    headers: tuple[Header, ...] = ()


Arguments = Annotated[dict[str, Any], msgspec.Meta(extra_json_schema={"x-declared": "arguments"})]
"""The body of an address that exists for each declared function: the reference says that function's own."""
Result = Annotated[Any, msgspec.Meta(extra_json_schema={"x-declared": "result"})]
"""What a declared function returns."""
Content = Annotated[msgspec.Raw, msgspec.Meta(extra_json_schema={"x-declared": "content"})]
"""The fields of a declared model's record, as they are answered."""
Part = Annotated[msgspec.Raw, msgspec.Meta(extra_json_schema={"x-declared": "part"})]
"""Some of these fields: all that were not left out by who asks."""
NewContent = Annotated[dict[str, Any], msgspec.Meta(extra_json_schema={"x-declared": "new"})]
"""The fields of a record that is created."""
Changes = Annotated[dict[str, Any], msgspec.Meta(extra_json_schema={"x-declared": "changes"})]
"""Some fields of a record, with new values."""


class Route(msgspec.Struct, frozen=True):
    """One address: what it takes, what it gives, who may ask, and at what cost.

    The edge checks in this order, the cheap before the dear: host, method, token, load, rate, size, content
    type, body, then the handler. The API reference is generated from the same table.
    """

    method: Method
    """A GET answers HEAD too, without its body; OPTIONS is answered for every path."""
    path: str
    """``/v1/things/{id}``: a ``{name}`` takes one segment, a last ``{name:rest}`` all that follow."""
    handler: Handler
    body: Any = None
    """A type: JSON is decoded into it, strictly. ``bytes``: as it came, decompressed. None: no body."""
    form: type[msgspec.Struct] | None = None
    """What a form holds that comes as ``bytes``: for the reference; the handler reads it itself."""
    query: type[msgspec.Struct] | None = None
    """Query parameters, by name, decoded laxly ("5" is 5). None: any parameter is refused."""
    raw_query: bool = False
    """The handler gets the query string as it came, as ``bytes``, and judges it itself."""
    response: Any = None
    """The type of the JSON answer, for the reference. None: 204, or not JSON (see ``produces``)."""
    auth: Auth = "user"
    scope: str = "api"
    """What an OAuth client's token must have been granted here; the app's own tokens have no bounds."""
    status: int = 200
    """Of a plain value; a handler that returns None answers 204."""
    parts: bool = False
    """U+0000 in a text and whole numbers beyond 64 bits are let through: the handler refuses the part that
    holds one, and not the whole. JavaScript writes 1e19 with all its digits."""
    max_body: int = 1 * MIB
    """Bytes, before and after decompression."""
    deadline: float = 30.0
    """Seconds that the handler may take, from the body's end to its return; a ``StreamAnswer`` has no end."""
    summary: str = ""
    errors: tuple[type[LowtideError], ...] = ()
    """What it raises besides what every address of its kind may answer."""
    consumes: tuple[str, ...] = ("application/json",)
    """Media types of the body, ``*/*`` for any."""
    produces: str = "application/json"
    tags: tuple[str, ...] = ()
    rate: Rate | None = None
    """The class of its limits. None: "auth" below ``/v1/auth/`` and ``/v1/oauth/``, else by its method."""
    key: Literal["optional", "required", "none"] = "optional"
    """Of a POST: what becomes of an Idempotency-Key. "none": the address has its own way, or streams."""
    old_apps: bool | None = None
    """Answers versions of the app below ``min_app_versions``, too. None: if without token, or "auth"."""
    rsocket: bool = False
    """Of a POST that streams BSON documents: it is also answered as an RSocket stream, over a WebSocket that
    is opened by GET at the same path. The handler does not notice."""
    vital: bool = False
    """A health check: answered under any load, for any Host, and never in the access log's successes."""
    headers: tuple[Header, ...] = ()
    """The request's headers that the handler reads."""
    answers: tuple[Answer, ...] = ()
    """What it answers besides ``status`` and its errors; one of the same status says more about that."""
    each: Literal["model", "function"] | None = None
    """It answers for all that the app declared of this kind, named by the path's first parameter: the
    reference has an address for each, with the declared types where ``Arguments`` and their like stand."""
