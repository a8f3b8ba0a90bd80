"""One request to another server, so that nobody can use this server to reach what only it can reach.

The name is resolved once, every address it has must be public, and the connection goes to one of those
addresses while TLS still verifies the name: a name that answers otherwise a moment later (DNS rebinding)
gains nothing. Redirects are answers and never followed. Everything has a bound: time, bytes, headers,
requests at a time. There is no pool of connections: each request has its own, and none outlives it. The
environment's proxies are not used.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from ipaddress import ip_address
from typing import Literal

import httptools
import msgspec

from lowtide import __version__
from lowtide.egress.addresses import Target, check, public, read_allowed, read_url
from lowtide.kernel.errors import AddressRefused, Busy, OutsideFailed

Resolve = Callable[[str], Awaitable[Sequence[str]]]
"""A host's name -> its addresses."""
Connect = Callable[..., Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]

MAX_DEADLINE = 60.0
"""Seconds that a request may take."""
MAX_HEAD = 64 * 1024
"""Bytes of an answer's headers."""
MAX_HEADERS = 200
MAX_RESOLVED = 16
"""Addresses of one name that are looked at."""
RESOLVING = 8
"""Names that are resolved at a time."""
CHUNK = 64 * 1024

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\x20-\x7e\t]*")
_OURS = frozenset({"host", "content-length", "transfer-encoding", "connection", "accept-encoding", "expect"})


class EgressAnswer(msgspec.Struct, frozen=True):
    """What the other server said. ``headers`` have lower-case names; repeated ones are joined by a comma."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Egress:
    """Sends requests out. One for the process; ``close`` it at the end.

    ``allowed``: hosts that may be private and without TLS, as ``host`` or ``host:port``. ``ca_file``: trusted
    instead of the system's authorities. ``total`` and ``per_host``: requests at a time; more are refused at
    once. ``resolve`` and ``connect`` are for tests. Raises ``AddressRefused`` for a wrong ``allowed``.
    """

    def __init__(
        self,
        *,
        allowed: tuple[str, ...] = (),
        ca_file: str = "",
        total: int = 64,
        per_host: int = 8,
        resolve: Resolve | None = None,
        connect: Connect = asyncio.open_connection,
    ):
        self._allowed = read_allowed(allowed)
        self._ca_file = ca_file
        self._total = total
        self._per_host = per_host
        self._resolve = resolve or self._ask_system
        self._connect = connect
        self._running: Counter[str] = Counter()
        self._tls: ssl.SSLContext | None = None
        self._threads: ThreadPoolExecutor | None = None

    def check(self, url: str) -> None:
        """Raises ``AddressRefused`` for an address that ``request`` would refuse before resolving it."""
        check(read_url(url), self._allowed)

    async def request(
        self,
        method: Method,
        url: str,
        *,
        headers: Mapping[str, str] = {},
        body: bytes = b"",
        deadline: float = 10.0,
        max_bytes: int = 1_048_576,
    ) -> EgressAnswer:
        """Send a request, and return the answer, whatever its status; a redirect is returned, too.

        ``deadline``: seconds for all of it, at most ``MAX_DEADLINE``. ``max_bytes``: of the answer's body.
        Raises ``AddressRefused``, and then nothing was connected; ``Busy`` when too many requests are under
        way; ``OutsideFailed`` when no whole answer came: whether the other server acted is then not known.
        ``ValueError`` for a header that cannot be sent.
        """
        target = read_url(url)
        private = check(target, self._allowed)
        head = _head(method, target, headers, len(body))
        host = target.host
        if self._running[host] >= self._per_host or self._running.total() >= self._total:
            raise Busy("Too many requests to other servers are under way.")
        self._running[host] += 1
        try:
            async with asyncio.timeout(min(deadline, MAX_DEADLINE)):
                return await self._exchange(target, private, head, body, max_bytes)
        except TimeoutError:
            raise OutsideFailed(f"{host} did not answer in time.") from None
        except ssl.SSLCertVerificationError as error:
            raise OutsideFailed(f"The certificate of {host} is not valid: {error.verify_message}.") from error
        except (OSError, asyncio.IncompleteReadError) as error:
            raise OutsideFailed(f"{host} could not be reached: {type(error).__name__}.") from error
        finally:
            self._running[host] -= 1
            if not self._running[host]:
                del self._running[host]

    def close(self) -> None:
        """End the threads that resolve names. Requests that run are their callers' to end."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    # -- one request -----------------------------------------------------------------------------------

    async def _exchange(
        self, target: Target, private: bool, head: bytes, body: bytes, max_bytes: int
    ) -> EgressAnswer:
        addresses = await self._addresses(target, private)
        tls = await self._context() if target.secure else None
        reader, writer = await self._open(target, addresses, tls)
        try:
            writer.write(head + body)
            await writer.drain()
            return await _read(reader, target.host, max_bytes)
        finally:
            # Not a polite end: the other side may be hostile, and nothing more is wanted of it.
            writer.transport.abort()
            with suppress(OSError):
                await writer.wait_closed()

    async def _addresses(self, target: Target, private: bool) -> list[str]:
        if target.address is not None:
            return [str(target.address)]
        found = list(await self._resolve(target.host))[:MAX_RESOLVED]
        if not found:
            raise OutsideFailed(f"{target.host} has no address.")
        if not private and not all(public(ip_address(one)) for one in found):
            # One bad address is enough: a name for both sides of a wall is an attack, or a mistake.
            raise AddressRefused("The host's name leads to an address that is not public.")
        return found

    async def _open(
        self, target: Target, addresses: list[str], tls: ssl.SSLContext | None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        for number, address in enumerate(addresses[:3]):
            last = number == min(len(addresses), 3) - 1
            try:
                async with asyncio.timeout(None if last else 3):
                    return await self._connect(
                        address,
                        target.port,
                        ssl=tls,
                        server_hostname=target.host if tls else None,
                        limit=CHUNK,
                    )
            except (TimeoutError, OSError) as error:
                if last or isinstance(error, ssl.SSLError):
                    raise
        raise AssertionError("unreachable")

    async def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            # Reads files: some 20 ms, once.
            made = await asyncio.to_thread(ssl.create_default_context, cafile=self._ca_file or None)
            made.minimum_version = ssl.TLSVersion.TLSv1_2
            made.set_alpn_protocols(["http/1.1"])
            self._tls = made
        return self._tls

    async def _ask_system(self, host: str) -> list[str]:
        # Threads of their own: a name server that does not answer holds up nothing but other names.
        if self._threads is None:
            self._threads = ThreadPoolExecutor(RESOLVING, "lowtide-resolve")
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(
                self._threads, lambda: socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            )
        except (socket.gaierror, UnicodeError) as error:
            raise OutsideFailed(f"The name {host} cannot be resolved.") from error
        return list(dict.fromkeys(str(where[0]) for *_, where in found))


def _head(method: str, target: Target, headers: Mapping[str, str], length: int) -> bytes:
    lines = [
        f"{method} {target.path} HTTP/1.1",
        f"host: {target.authority}",
        "connection: close",
        "accept-encoding: identity",
    ]
    if length or method in ("POST", "PUT", "PATCH"):
        lines.append(f"content-length: {length}")
    names = {name.lower() for name in headers}
    if "user-agent" not in names:
        lines.append(f"user-agent: lowtide/{__version__}")
    for name, value in headers.items():
        if _TOKEN.fullmatch(name) is None or name.lower() in _OURS or _VALUE.fullmatch(value) is None:
            raise ValueError(f"this header cannot be sent: {name!r}")
        lines.append(f"{name}: {value}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


async def _read(reader: asyncio.StreamReader, host: str, max_bytes: int) -> EgressAnswer:
    reading = _Reading(max_bytes)
    parser = httptools.HttpResponseParser(reading)
    reading.status = parser.get_status_code
    while not reading.complete:
        data = await reader.read(CHUNK)
        if not data:
            reading.end(host)
            break
        size = reading.size
        try:
            parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if reading.fault is None and not reading.complete:
                raise OutsideFailed(f"{host} did not answer with HTTP.") from error
        if reading.fault is not None:
            raise OutsideFailed(f"{host} {reading.fault}.")
        # What brings nothing of the body is headers, or a trailer, which the parser copies to add to it.
        reading.head += 0 if reading.size > size else len(data)
        if reading.head > MAX_HEAD:
            raise OutsideFailed(f"{host} sent too many headers.")
    encoding = reading.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise OutsideFailed(f"{host} sent a compressed answer that was not asked for.")
    return EgressAnswer(parser.get_status_code(), reading.headers, b"".join(reading.parts))


class _Reading:
    """What has come of an answer: httptools calls these methods."""

    def __init__(self, max_bytes: int):
        self.headers: dict[str, str] = {}
        self.parts: list[bytes] = []
        self.begun = False
        """The headers are there."""
        self.complete = False
        self.fault: str | None = None
        self.head = 0
        self.status: Callable[[], int] = lambda: 0
        self._most = max_bytes
        self.size = 0
        self._count = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count += 1
        if self._count > MAX_HEADERS:
            self.fault = "sent too many headers"
            return
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text

    def on_headers_complete(self) -> None:
        if self.status() >= 200:
            self.begun = True

    def on_body(self, data: bytes) -> None:
        self.size += len(data)
        if self.size > self._most:
            self.fault = f"sent more than {self._most} bytes"
        elif self.fault is None:
            self.parts.append(data)

    def on_message_complete(self) -> None:
        if self.begun:
            self.complete = True
        else:
            # An interim answer (1xx) precedes the real one.
            self.headers = {}

    def end(self, host: str) -> None:
        """The connection has ended: was that the answer's end, too?"""
        if not self.begun or "content-length" in self.headers or "transfer-encoding" in self.headers:
            raise OutsideFailed(f"{host} ended the connection before its answer.")
        self.complete = True
