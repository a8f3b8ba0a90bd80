"""RSocket over WebSocket: what HTTP promises holds, and whoever breaks the protocol only hurts themselves."""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from typing import Any

import msgspec
import pytest
from uvicorn.server import ServerState
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import BINARY, CLOSE, CONT
from websockets.frames import Frame as Message

from lowtide.api import Limits, WireLimits
from lowtide.api.rsocket import frames
from lowtide.api.rsocket.frames import Ask, Cancel, Failure, Frame, Keepalive, Other, Payload, RequestN
from lowtide.api.rsocket.packing import Inflate
from lowtide.api.rsocket.session import MAX_KEEPALIVE, MAX_REFUSED, MAX_SETUP
from lowtide.api.rsocket.socket import INFLATED, RSocket
from lowtide.api.rsocket.stream import MAX_REQUEST
from lowtide.api.rsocket.times import SessionTimes
from lowtide.kernel.bson import decode_bson, encode_bson
from tests.api.rsockets import Numbers, ask, edge, phone, setup
from tests.api.test_wire import served

pytestmark = pytest.mark.anyio

QUICK = SessionTimes(setup=0.2, request=0.2, lifetime=0.3, starved=0.3, look=0.05)


@pytest.mark.parametrize("at_once", [False, True])
async def test_nothing_is_sent_that_was_not_asked_for(at_once: bool) -> None:
    """The handler waits until the phone asks for more; what it asks for comes, once and in order."""
    handlers = Numbers()
    async with served(edge(handlers)) as port, phone(port) as ann:
        await ann.say(setup(), ask(2, items=10, at_once=at_once))
        assert await ann.items(2) == [0, 1]
        assert await ann.silent()
        assert handlers.written == (0 if at_once else 2)
        await ann.say(RequestN(1, 3), RequestN(7, 100))  # and one for a stream that is not there
        assert await ann.items(3) == [2, 3, 4]
        assert await ann.silent()
        await ann.say(RequestN(1, frames.MAX_CREDITS), RequestN(1, frames.MAX_CREDITS))
        assert await ann.items(5) == [5, 6, 7, 8, 9]
        assert handlers.asked[0].principal.user == "ann"
        assert handlers.asked[0].header("accept") == "application/vnd.powersync.bson-stream"


async def test_a_large_document_comes_in_fragments() -> None:
    """No frame is larger than the bound, a document counts once, and a sign of life passes between them."""
    async with served(edge(Numbers())) as port, phone(port) as ann:
        await ann.say(setup(), ask(1, items=2, size=300_000))
        parts = [await ann.hear() for _ in range(5)]
        assert all(isinstance(part, Payload) and part.next for part in parts)
        assert [part.follows for part in parts if isinstance(part, Payload)] == [True] * 4 + [False]
        whole = [part.data for part in parts if isinstance(part, Payload)]
        assert max(map(len, whole)) <= frames.MAX_FRAME - 6
        assert decode_bson(b"".join(whole), max_bytes=400_000)["n"] == 0
        assert await ann.silent()
        await ann.say(RequestN(1, 1))
        assert await ann.items(1) == [1]


async def test_a_request_may_come_in_fragments() -> None:
    """Metadata first, then data, each in parts, and credits in between; the handler sees the whole."""
    handlers = Numbers()
    whole = ask(1, items=3, filling="f" * 100_000)
    assert whole.metadata is not None
    async with served(edge(handlers)) as port, phone(port) as ann:
        first = msgspec.structs.replace(whole, metadata=whole.metadata[:5], data=b"", follows=True)
        await ann.say(setup(), first)
        await ann.say(Payload(stream=1, follows=True, next=True, metadata=whole.metadata[5:]))
        await ann.say(RequestN(1, 1), Payload(stream=1, follows=True, next=True, data=whole.data[:70_000]))
        assert handlers.bodies == []
        await ann.say(Payload(stream=1, next=True, data=whole.data[70_000:]))
        assert await ann.items(2) == [0, 1]
        assert handlers.bodies[0].filling == "f" * 100_000
        assert await ann.silent()


async def test_the_older_sdks_speak_bson() -> None:
    """SETUP, metadata and request as BSON are understood alike."""
    handlers = Numbers()
    async with served(edge(handlers)) as port, phone(port) as ann:
        token = encode_bson({"token": "Token ann", "user_agent": "sdk/1"})
        await ann.say(
            setup(metadata_type="application/bson", data_type="application/bson", metadata=token),
            msgspec.structs.replace(
                ask(5), metadata=encode_bson({"path": "/docs"}), data=encode_bson({"items": 2})
            ),
        )
        assert await ann.items(2) == [0, 1]


@pytest.mark.parametrize("at_once", [False, True])
async def test_messages_are_compressed_where_the_client_offers_it(at_once: bool) -> None:
    """Each on its own, so that no window is kept; both ways, small and in fragments, shared and not."""
    async with served(edge(Numbers())) as port, phone(port, compression="deflate") as ann:
        agreed = ann.socket.response.headers["Sec-WebSocket-Extensions"] if ann.socket.response else ""
        assert set(agreed.split("; ")) == {
            "permessage-deflate",
            "server_no_context_takeover",
            "client_no_context_takeover",
        }
        await ann.say(setup(), ask(20, items=3, size=900, at_once=at_once, filling="f" * 50_000))
        assert await ann.items(3) == [0, 1, 2]
        await ann.say(Cancel(1), ask(20, stream=3, items=2, size=200_000, at_once=at_once))
        assert await ann.items(2) == [0, 1]
        assert await ann.silent()


async def test_compressed_bytes_are_fewer() -> None:
    """A client that asks for a smaller window than ours is sent everything as it is, and understands it."""
    sizes = {}
    head = (
        b"GET /docs HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    )
    said = b"".join(
        Message(BINARY, frames.encode(frame)).serialize(mask=True)
        for frame in (setup(), ask(20, items=10, size=5000, end=True))
    )
    offers = {
        "none": "",
        "plain": "permessage-deflate",
        "small": "permessage-deflate; server_max_window_bits=10",
    }
    async with served(edge(Numbers())) as port:
        for name, offer in offers.items():
            reader, writer = await asyncio.open_connection("localhost", port)
            extra = f"Sec-WebSocket-Extensions: {offer}\r\n" if offer else ""
            writer.write(head + extra.encode() + b"\r\n" + said)
            answer = b""
            async with asyncio.timeout(5):
                while not answer.endswith(frames.encode(Payload(stream=1, complete=True))):
                    answer += await reader.read(65536)
            sizes[name] = len(answer.partition(b"\r\n\r\n")[2])
            writer.close()
    assert sizes["none"] == sizes["small"] > 50_000
    assert sizes["plain"] < 2_000


@pytest.mark.parametrize("first", ["setup", "request", "many"])
async def test_what_swells_when_inflated_is_cut_short(first: str) -> None:
    """A bomb is inflated to the bound of a request and no further, however many come in one packet."""
    handlers = Numbers()
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    size = 3_000_000 if first == "many" else 90_000_000
    flat = packer.compress(b"\0" * size) + packer.flush(zlib.Z_SYNC_FLUSH)
    bomb = bytearray(Message(BINARY, flat[:-4]).serialize(mask=True))
    bomb[0] |= 0x40
    async with served(edge(handlers)) as port, phone(port, compression="deflate") as ann:
        if first == "request":
            await ann.say(setup())
        seen: list[int] = []
        inflate = Inflate.decode

        def watched(self: Inflate, frame: Message, *, max_size: int | None = None) -> Message:
            decoded = inflate(self, frame, max_size=max_size)
            seen.append(len(decoded.data))
            return decoded

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Inflate, "decode", watched)
            ann.socket.transport.write(bytes(bomb) * (20 if first == "many" else 1))
            await ann.closed()
        assert sum(seen) < MAX_REQUEST + 2000
        assert len(seen) < 3
    assert handlers.asked == []


def packed(size: int, *, fin: bool = True) -> bytes:
    """A masked message of ``size`` zeros, compressed, or its first part."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    flat = packer.compress(b"\0" * size) + packer.flush(zlib.Z_SYNC_FLUSH)
    made = bytearray(Message(BINARY, flat[:-4] if fin else flat, fin=fin).serialize(mask=True))
    made[0] |= 0x40
    return bytes(made)


@pytest.mark.parametrize("parts", ["swollen", "many", "plain"])
async def test_nobody_takes_the_room_of_those_who_are_known(parts: str) -> None:
    """Before the SETUP a message without an end is held to what a SETUP may be, however it is cut."""
    server = edge(Numbers(), limits=Limits(buffered=40_000))
    part = Message(BINARY, b"x" * 15_000, fin=False).serialize(mask=True)
    rest = Message(CONT, b"x" * 2_000, fin=False).serialize(mask=True)
    async with served(server) as port:
        compression = None if parts == "plain" else "deflate"
        async with phone(port, compression=compression) as ann, phone(port) as ben:
            sent = {"swollen": packed(4_000_000, fin=False), "many": packed(16_500, fin=False)}
            ann.socket.transport.write(sent.get(parts, part))
            if parts == "plain":
                ann.socket.transport.write(rest)
            assert (await ann.closed())[0] == (1009 if parts == "swollen" else 1008)
            assert server.load.buffered == 0
            await ben.say(setup(), ask(items=1, filling="x" * 20_000))
            assert await ben.items(1) == [0]


async def test_what_waits_before_the_setup_is_refused_first() -> None:
    """Two thirds of the room taken, nobody gets more of it; who has a token does."""
    server = edge(Numbers(), limits=Limits(buffered=300_000))
    server.load.buffered += 250_000
    async with served(server) as port, phone(port) as ann, phone(port) as ben:
        half = Message(BINARY, b"x" * 60_000).serialize(mask=True)[:40_000]
        await ben.say(setup())
        assert await ben.silent()
        ann.socket.transport.write(half)
        await ann.closed()
        assert server.load.refused == 1
        ben.socket.transport.write(half)
        async with asyncio.timeout(5):
            while server.load.buffered < 289_000:
                await asyncio.sleep(0)
        assert server.load.refused == 1
    server.load.buffered -= 250_000


async def test_a_large_request_may_come_with_its_setup() -> None:
    """The bound of nobody ends with the SETUP, in the same packet too."""
    handlers = Numbers()
    async with served(edge(handlers)) as port, phone(port, compression="deflate") as ann:
        ann.socket.transport.pause_reading()
        said = b"".join(
            Message(BINARY, frames.encode(one)).serialize(
                mask=True, extensions=ann.socket.protocol.extensions
            )
            for one in (setup(), ask(items=1, filling="x" * 3_000_000))
        )
        assert len(said) < 20_000
        ann.socket.transport.write(said)
        ann.socket.transport.resume_reading()
        assert await ann.items(1) == [0]
    assert len(handlers.bodies[0].filling) == 3_000_000


@pytest.mark.parametrize(
    ("token", "says"),
    [
        ("Token old", "token_expired: "),
        ("Token nobody", "unauthorized: "),
        ("Basic ann", "unauthorized: "),
        ("", "unauthorized: "),
        ("Token " + "x" * 9000, "head_too_large: "),
    ],
    ids=["expired", "unknown", "scheme", "empty", "long"],
)
async def test_nobody_unknown_gets_further_than_the_setup(token: str, says: str) -> None:
    """The SETUP is refused as the SDK expects it: with the word on which it fetches a new token."""
    handlers = Numbers()
    async with served(edge(handlers)) as port, phone(port) as ann:
        await ann.say(setup(token), ask(items=1))
        refusal = await ann.hear()
        assert isinstance(refusal, Failure)
        assert (refusal.stream, refusal.code) == (0, frames.REJECTED_SETUP)
        assert refusal.message.startswith(says)
        assert ("PSYNC_S21" in refusal.message) is (says != "head_too_large: ")
        assert "PSYNC_" in refusal.message
        assert (await ann.closed())[0] == 1008
    assert handlers.asked == []


@pytest.mark.parametrize(
    ("asked", "code", "says"),
    [
        (ask(refuse=True), frames.REJECTED, "forbidden: Not you. [PSYNC_]"),
        (ask(path="/notes"), frames.INVALID, "not_found: "),
        (ask(items="many"), frames.INVALID, "malformed: "),
        (ask(0), frames.REJECTED, "malformed: "),
        (ask(-5), frames.REJECTED, "malformed: "),
        (Ask(kind=frames.REQUEST_RESPONSE, stream=1), frames.REJECTED, "not_found: "),
        (Ask(kind=frames.REQUEST_CHANNEL, stream=1, initial=1), frames.REJECTED, "not_found: "),
        (msgspec.structs.replace(ask(), metadata=None), frames.INVALID, "malformed: "),
        (msgspec.structs.replace(ask(), metadata=b"[" * 5000), frames.INVALID, "malformed: "),
        (msgspec.structs.replace(ask(), data=b'{"items":'), frames.INVALID, "malformed: "),
    ],
    ids=["handler", "path", "body", "none", "negative", "response", "channel", "bare", "deep", "cut"],
)
async def test_a_refused_request_leaves_the_connection_to_the_next(asked: Ask, code: int, says: str) -> None:
    """The stream ends with the error as HTTP would have told it; the token is still good."""
    async with served(edge(Numbers())) as port, phone(port) as ann:
        await ann.say(setup(), asked)
        refusal = await ann.hear()
        assert isinstance(refusal, Failure)
        assert (refusal.stream, refusal.code) == (1, code)
        assert refusal.message.startswith(says)
        assert "PSYNC_S21" not in refusal.message
        assert "PSYNC_" in refusal.message
        await ann.say(ask(items=1, stream=3))
        assert await ann.items(1) == [0]


async def test_a_stream_that_breaks_is_never_taken_for_whole() -> None:
    """A handler that fails half-way ends the stream with an error, not with a completion."""
    async with served(edge(Numbers())) as port, phone(port) as ann:
        await ann.say(setup(), ask(items=1, fail=True))
        assert await ann.items(1) == [0]
        assert await ann.hear() == Failure(1, frames.CANCELED, "unavailable: The stream was cut. [PSYNC_]")


@pytest.mark.parametrize("token", ["ann", "late"])
async def test_a_stream_that_ends_with_its_token_asks_for_a_new_one(token: str) -> None:
    """The SDK forgets unread lines at a completion, so it must hear it from the end itself."""
    async with served(edge(Numbers())) as port, phone(port) as ann:
        await ann.say(setup(f"Token {token}"), ask(items=1, end=True))
        assert await ann.items(1) == [0]
        expired = Failure(1, frames.CANCELED, "token_expired: The token has expired. [PSYNC_S21]")
        assert await ann.hear() == (expired if token == "late" else Payload(stream=1, complete=True))
        assert await ann.silent()


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (ask(), frames.INVALID_SETUP),
        (Keepalive(True), frames.INVALID_SETUP),
        (Other(frames.RESUME, 0, 0, b"\0" * 30), frames.REJECTED_RESUME),
        (Other(frames.SETUP, 5, 0, b""), frames.INVALID_SETUP),
        (setup(major=2), frames.UNSUPPORTED_SETUP),
        (setup(major=0, minor=2), frames.UNSUPPORTED_SETUP),
        (setup(lease=True), frames.UNSUPPORTED_SETUP),
        (setup(resume=b"token"), frames.REJECTED_SETUP),
        (setup(lifetime=0), frames.INVALID_SETUP),
        (setup(keepalive=1 << 31), frames.INVALID_SETUP),
        (setup(metadata_type="text/plain"), frames.UNSUPPORTED_SETUP),
        (setup(metadata=None), frames.INVALID_SETUP),
        (setup(metadata=b'{"token": 5}'), frames.INVALID_SETUP),
        (setup("Token \u00e9"), frames.INVALID_SETUP),
        (setup(data=b"x" * MAX_SETUP), frames.INVALID_SETUP),
    ],
    ids=[
        "request", "keepalive", "resume", "stream", "newer", "draft", "lease", "resumable", "lifetime",
        "keepalive-time", "type", "no-metadata", "no-token", "not-ascii", "large",
    ],
)  # fmt: skip
async def test_a_connection_begins_with_a_setup_that_can_be_served(said: Frame, code: int) -> None:
    """Whatever else comes first is refused with the protocol's own code, and the connection ends."""
    handlers = Numbers()
    async with served(edge(handlers)) as port, phone(port) as ann:
        await ann.say(said)
        refusal = await ann.hear()
        assert isinstance(refusal, Failure)
        assert (refusal.stream, refusal.code) == (0, code)
        assert (await ann.closed())[0] == 1008
    assert handlers.asked == []


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (b"", frames.CONNECTION_ERROR),
        (b"\0\0\0\1", frames.CONNECTION_ERROR),
        (frames.encode(ask())[:9], frames.CONNECTION_ERROR),
        (b"\x80\0\0\1" + frames.encode(Cancel(1))[4:], frames.CONNECTION_ERROR),
        (b"\0\0\0\1\x29\0\xff\xff\xffx", frames.CONNECTION_ERROR),
        (frames.encode(Other(0x3E, 1, 0, b"")), frames.CONNECTION_ERROR),
        (frames.encode(Other(0x3F, 0, 0, b"\0\0\0\1")), frames.CONNECTION_ERROR),
        (frames.encode(Other(frames.RESUME, 0, 0, b"")), frames.REJECTED_RESUME),
        (frames.encode(ask(stream=2)), frames.CONNECTION_ERROR),
        (frames.encode(ask(stream=0)), frames.CONNECTION_ERROR),
    ],
    ids=["empty", "short", "cut", "id", "metadata", "unknown", "extension", "resume", "even", "zero"],
)
async def test_what_is_no_frame_of_the_protocol_ends_the_connection(message: bytes, code: int) -> None:
    """With an error that says so, and the running stream ends as if the client had left."""
    handlers = Numbers()
    async with served(edge(handlers)) as port:
        async with phone(port) as ann:
            await ann.say(setup(), ask(items=1))
            assert await ann.items(1) == [0]
            await ann.socket.send(message)
            refusal = await ann.hear()
            assert isinstance(refusal, Failure)
            assert (refusal.stream, refusal.code) == (0, code)
            await ann.closed()
        async with phone(port) as ben:
            await ben.say(setup(), ask(items=1))
            assert await ben.items(1) == [0]
    assert handlers.ended[0] == "left"


@pytest.mark.parametrize("respond", [True, False])
async def test_a_sign_of_life_carries_little(respond: bool) -> None:
    """Its data come back up to the bound; beyond it the connection ends, answered or not."""
    async with served(edge(Numbers())) as port, phone(port) as ann:
        await ann.say(setup(), Keepalive(True, 0, b"x" * MAX_KEEPALIVE))
        assert await ann.hear() == Keepalive(False, 0, b"x" * MAX_KEEPALIVE)
        await ann.say(Keepalive(respond, 0, b"x" * (MAX_KEEPALIVE + 1)))
        ended = await ann.hear()
        assert isinstance(ended, Failure)
        assert (ended.stream, ended.code) == (0, frames.CONNECTION_ERROR)
        await ann.closed()


async def test_what_is_inflated_is_bounded_by_the_second() -> None:
    """Frames that nobody answers cost a request's worth, then so much a second: no packet renews it."""
    seen: list[int] = []
    inflate = Inflate.decode

    def watched(self: Inflate, frame: Message, *, max_size: int | None = None) -> Message:
        decoded = inflate(self, frame, max_size=max_size)
        seen.append(len(decoded.data))
        return decoded

    forgotten = frames.encode(Ask(kind=frames.REQUEST_FNF, stream=1, data=b"x" * 900_000))
    async with served(edge(Numbers())) as port, phone(port, compression="deflate") as ann:
        start = asyncio.get_running_loop().time()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Inflate, "decode", watched)
            await ann.say(setup())
            packed = Message(BINARY, forgotten).serialize(
                mask=True, extensions=ann.socket.protocol.extensions
            )
            with contextlib.suppress(ConnectionClosed):
                while sum(seen) < 10 * MAX_REQUEST:  # each in a packet of its own
                    ann.socket.transport.write(packed)
                    await (await ann.socket.ping())
            assert (await ann.closed())[0] == 1009
        passed = asyncio.get_running_loop().time() - start
        assert MAX_REQUEST - 900_000 < sum(seen) < MAX_REQUEST + 2048 + passed * INFLATED


async def test_a_goodbye_that_is_not_taken_ends_in_time() -> None:
    """After its closing a client that reads nothing is hung up on: nothing waits for it for ever."""

    class Deaf(asyncio.Transport):
        def __init__(self) -> None:
            super().__init__()
            self.closing = False
            self.aborted = asyncio.Event()

        def is_closing(self) -> bool:
            return self.closing

        def write(self, data: object) -> None:
            pass

        def close(self) -> None:
            self.closing = True

        def abort(self) -> None:
            self.aborted.set()

    deaf, server = Deaf(), edge(Numbers())
    scope = {"path": "/docs", "headers": []}
    times = SessionTimes(goodbye=0.01)
    socket = RSocket(deaf, ServerState(), server, server, scope, frozenset({"/docs"}), times, 60.0)
    socket.data_received(Message(CLOSE, b"").serialize(mask=True))
    assert deaf.closing
    async with asyncio.timeout(5):
        await deaf.aborted.wait()
    socket.connection_lost(None)


async def test_what_makes_no_sense_is_passed_by() -> None:
    """As the protocol has it: frames for streams that are not there, a second SETUP, what may be ignored."""
    async with served(edge(Numbers())) as port, phone(port) as ann:
        await ann.say(setup(), ask(1, items=2))
        assert await ann.items(1) == [0]
        await ann.say(
            setup("Token nobody"),
            ask(5, items=2),  # the same stream again
            Cancel(9),
            Failure(9, frames.INVALID, "what?"),
            Payload(stream=1, next=True, data=b"more of a request that is whole"),
            Payload(stream=9, next=True),
            Ask(kind=frames.REQUEST_FNF, stream=11, data=b"forget it"),
            Other(frames.METADATA_PUSH, 0, frames.METADATA, b"x"),
            Other(frames.LEASE, 0, 0, b"\0" * 8),
            Other(0x3D, 5, frames.IGNORE, b"new"),
        )
        assert await ann.silent()
        await ann.say(RequestN(1, 1))
        assert await ann.items(1) == [1]


async def test_one_connection_carries_one_stream() -> None:
    """A second is refused while the first runs; whoever goes on asking is shown the door."""
    handlers = Numbers()
    async with served(edge(handlers)) as port, phone(port) as ann:
        await ann.say(setup(), ask(items=1))
        assert await ann.items(1) == [0]
        for n in range(MAX_REFUSED):
            await ann.say(ask(stream=3 + 2 * n))
            refusal = await ann.hear()
            assert isinstance(refusal, Failure)
            assert (refusal.stream, refusal.code) == (3 + 2 * n, frames.REJECTED)
        await ann.say(ask(stream=1001))
        ended = await ann.hear()
        assert isinstance(ended, Failure)
        assert (ended.stream, ended.code) == (0, frames.CONNECTION_ERROR)
        await ann.closed()
    assert len(handlers.asked) == 1


@pytest.mark.parametrize(
    "said", [Cancel(1), RequestN(1, 0), RequestN(1, -1)], ids=["cancel", "zero", "negative"]
)
async def test_a_stream_ends_when_its_reader_says_so(said: Frame) -> None:
    """A cancelled stream's handler is cut even while it waits for credits, and nothing of it comes."""
    handlers = Numbers()
    async with served(edge(handlers)) as port, phone(port) as ann:
        await ann.say(setup(), ask(1, items=5))
        assert await ann.items(1) == [0]
        await ann.say(said)
        if isinstance(said, RequestN):
            refusal = await ann.hear()
            assert isinstance(refusal, Failure)
            assert (refusal.stream, refusal.code) == (1, frames.INVALID)
        assert await ann.silent()
        assert handlers.ended == ["left"]
        await ann.say(ask(items=1, stream=3))
        assert await ann.items(1) == [0]


async def test_a_request_is_bounded_however_it_is_cut() -> None:
    """One message, or fragments without an end: beyond the bound it is refused, its room is given back."""
    server = edge(Numbers())
    async with served(server) as port:
        async with phone(port) as ann:
            await ann.say(setup())
            with contextlib.suppress(ConnectionClosed):
                await ann.socket.send(frames.encode(ask(filling="x" * (MAX_REQUEST + 2048))))
            assert (await ann.closed())[0] == 1009
        async with phone(port) as ben:
            part = Payload(stream=1, follows=True, next=True, data=b"x" * 500_000)
            await ben.say(setup(), msgspec.structs.replace(ask(), follows=True), *[part] * 9)
            refusal = await ben.hear()
            assert isinstance(refusal, Failure)
            assert (refusal.code, refusal.message[:10]) == (frames.INVALID, "too_large:")
            assert await ben.silent()
        assert server.load.buffered == 0


async def test_what_waits_for_its_end_counts_as_a_body() -> None:
    """Half a request takes of the room for bodies; where there is none left, the connection ends."""
    server = edge(Numbers(), limits=Limits(buffered=300_000))
    async with served(server) as port:
        half = frames.encode(msgspec.structs.replace(ask(filling="x" * 200_000), follows=True))
        async with phone(port) as ann, phone(port) as ben:
            await ann.say(setup())
            await ann.socket.send(half)
            assert await ann.silent()
            assert 200_000 <= server.load.buffered <= 201_000
            await ben.say(setup())
            await ben.socket.send(half)
            refusal = await ben.hear()
            assert isinstance(refusal, Failure)
            assert (refusal.stream, refusal.message[:5]) == (0, "busy:")
            assert "PSYNC_" in refusal.message
            await ben.closed()
        async with asyncio.timeout(5):
            while server.load.buffered:
                await asyncio.sleep(0)


@pytest.mark.parametrize("silence", ["setup", "request", "slow", "life", "credits"])
async def test_the_silent_are_not_waited_for(silence: str) -> None:
    """Each step has its time: the SETUP, the request, signs of life, and asking for what waits."""
    handlers = Numbers()
    reason = {"setup": "SETUP", "request": "request", "slow": "request", "life": "life", "credits": "asked"}
    async with served(edge(handlers), sockets=QUICK) as port, phone(port) as ann:
        if silence != "setup":
            await ann.say(setup())
        if silence == "slow":
            await ann.say(msgspec.structs.replace(ask(items=1), follows=True))
        if silence in ("life", "credits"):
            await ann.say(ask(1, items=2 if silence == "credits" else 1))
            assert await ann.items(1) == [0]
        living = asyncio.create_task(ann.live()) if silence == "credits" else None
        code, said = await ann.closed()
        if living is not None:
            await living
        assert (code, reason[silence] in said, "PSYNC_" in said) == (1008, True, True)
    assert handlers.ended == (["left"] if silence in ("life", "credits") else [])


async def test_a_client_that_takes_nothing_is_cut_off() -> None:
    """What it was sent stays bounded, whatever it asked for, and its handler ends."""
    handlers = Numbers()
    async with served(edge(handlers)) as port:
        reader, writer = await asyncio.open_connection("localhost", port, limit=2**16)
        async with phone(port) as ann:
            ann.socket.transport.pause_reading()  # as a phone whose app has stopped
            await ann.say(setup(), ask(frames.MAX_CREDITS, items=3000, size=60_000))
            async with asyncio.timeout(10):
                while not handlers.ended:
                    await asyncio.sleep(0.01)
        assert handlers.written < 1500
        writer.close()
        with contextlib.suppress(ConnectionError):
            await reader.read()


async def test_a_stopping_server_ends_streams_and_connections() -> None:
    """A stream is completed, then the connection closed as "restarting"; one without a stream at once."""
    handlers = Numbers()
    async with served(edge(handlers), grace=3.0) as port:
        stack = contextlib.AsyncExitStack()
        ann = await stack.enter_async_context(phone(port))
        ben = await stack.enter_async_context(phone(port))
        await ann.say(setup(), ask(items=1))
        await ben.say(setup())
        assert await ann.items(1) == [0]
        assert await ben.silent()
    assert await ann.hear() == Payload(stream=1, complete=True)
    for one in (ann, ben):
        code, reason = await one.closed()
        assert code == 1012
        assert "PSYNC_" in reason
    await stack.aclose()
    assert handlers.ended == []


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"path": "/docs"}, 0),
        ({"path": "/docs?token=x"}, 0),
        ({"origin": "http://localhost:PORT"}, 0),
        ({"origin": "http://localhost:1"}, 204),
        ({"origin": "https://app.example.com"}, 0),
        ({"origin": "https://evil.example.com"}, 204),
        ({"origin": "null"}, 204),
        ({"host": "127.0.0.1"}, 421),
        ({"path": "/notes"}, 401),
        ({"path": "/nothing"}, 404),
        ({"additional_headers": {"Origin": "http://localhost"}, "origin": "http://localhost"}, 400),
    ],
    ids=["plain", "query", "own", "port", "allowed", "foreign", "null", "host", "other", "nothing", "twice"],
)
async def test_who_may_open_a_socket(options: dict[str, Any], status: int) -> None:
    """Our hosts, no web page but our own and the allowed ones, and the paths that have a stream."""
    handlers = Numbers()
    async with served(edge(handlers, origins=["https://app.example.com"])) as port:
        if "origin" in options:
            options = {**options, "origin": options["origin"].replace("PORT", str(port))}
        if status == 0:
            async with phone(port, **options) as ann:
                await ann.say(setup(), ask(items=1))
                assert await ann.items(1) == [0]
            return
        with pytest.raises(InvalidStatus) as refused:
            async with phone(port, **options):
                pass
        assert refused.value.response.status_code == status
    assert handlers.asked == []


@pytest.mark.parametrize(("proxies", "client"), [(("127.0.0.1",), "203.0.113.7"), ((), "127.0.0.1")])
async def test_a_trusted_proxy_says_who_the_client_is(proxies: tuple[str, ...], client: str) -> None:
    """The SETUP and the stream are the client's that the proxy names; nobody else's word is taken."""
    handlers = Numbers()
    server = edge(handlers)
    greeted: list[str] = []
    greet = server.greet

    def watched(scope: Any) -> int | None:
        greeted.append(scope["client"][0])
        return greet(scope)

    server.greet = watched  # type: ignore[method-assign]
    forwarded = {"X-Forwarded-For": "203.0.113.7"}
    async with (
        served(server, proxies=proxies) as port,
        phone(port, host="localhost", additional_headers=forwarded, local_addr=("127.0.0.1", 0)) as ann,
    ):
        await ann.say(setup(), ask(items=1))
        assert await ann.items(1) == [0]
    assert (greeted, handlers.asked[0].client) == ([client], client)


@pytest.mark.parametrize("left_out", ["Sec-WebSocket-Key", "Sec-WebSocket-Version", "Upgrade", "Connection"])
async def test_half_a_handshake_is_an_ordinary_request(left_out: str) -> None:
    """It is answered, and the connection goes on as HTTP."""
    headers = {
        "Host": "localhost", "Upgrade": "websocket", "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }  # fmt: skip
    del headers[left_out]
    head = "GET /docs HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers.items()) + "\r\n"
    async with served(edge(Numbers())) as port:
        reader, writer = await asyncio.open_connection("localhost", port)
        writer.write(head.encode() + b"GET /open HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answers = await asyncio.wait_for(reader.read(), 5)
        assert answers.count(b"HTTP/1.1 204") == 2
        writer.close()


async def test_a_socket_is_not_opened_before_the_answers_due() -> None:
    """An upgrade behind a request that is being worked on is no upgrade: its answer would be mixed up."""
    handlers = Numbers()
    upgrade = (
        b"GET /docs HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    async with served(edge(handlers)) as port:
        reader, writer = await asyncio.open_connection("localhost", port)
        writer.write(b"GET /wait HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer ann\r\n\r\n" + upgrade)
        handlers.gate.set()
        writer.write(b"GET /open HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answers = await asyncio.wait_for(reader.read(), 5)
        assert b"101" not in answers.partition(b"\r\n")[0]
        assert answers.count(b"HTTP/1.1 ") == 3
        assert b"Switching" not in answers
        writer.close()


async def test_sockets_are_connections_and_streams_among_the_others() -> None:
    """They count against the same bounds: beyond them nobody is let in, and one that leaves makes room."""
    server = edge(Numbers(), limits=Limits(streams=1))
    async with served(server, WireLimits(connections=3)) as port:
        async with phone(port) as ann, phone(port) as ben:
            await ann.say(setup(), ask(items=1))
            assert await ann.items(1) == [0]
            assert server.load.streams == 1
            async with phone(port):
                with pytest.raises(InvalidStatus) as refused:
                    async with phone(port):
                        pass
                assert refused.value.response.status_code == 503
            await ben.say(setup())
            refusal = await ben.hear()
            assert isinstance(refusal, Failure)
            assert refusal.message.startswith("busy:")
        async with asyncio.timeout(5):
            while server.load.streams:
                await asyncio.sleep(0)


async def test_text_is_not_spoken() -> None:
    """A text message ends the connection with the code for that."""
    async with served(edge(Numbers())) as port, phone(port) as ann:
        await ann.socket.send("hello")
        assert (await ann.closed())[0] == 1003
