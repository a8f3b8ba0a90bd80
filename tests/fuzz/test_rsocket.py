"""RSocket frames and conversations, given anything: the typed error or an answer, and nobody's fault."""

from __future__ import annotations

import asyncio
import logging
import zlib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from uvicorn.server import ServerState
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import BINARY, CLOSE, CONT, PING, PONG, TEXT
from websockets.frames import Frame as Message
from websockets.protocol import CLIENT, Protocol

from lowtide.api.rsocket import frames
from lowtide.api.rsocket.frames import Ask, Cancel, Failure, Frame, Keepalive, Other, Payload, RequestN, Setup
from lowtide.api.rsocket.packing import Inflate
from lowtide.api.rsocket.socket import RSocket
from lowtide.api.rsocket.times import SessionTimes
from lowtide.kernel.errors import Malformed
from tests.api.rsockets import Numbers, ask, edge, setup
from tests.fuzz.bounds import answers, thorough
from tests.fuzz.test_wire import Faults, Line, cut

bits = st.integers(0, frames.MAX_CREDITS)
few = st.sampled_from([0, 1, 1, 1, 2, 3, 5])
counts = st.sampled_from([-1, 0, 1, 2, 7, frames.MAX_CREDITS])
data = st.binary(max_size=40)
maybe = st.none() | data
media = st.sampled_from(["application/json", "application/bson", "", "x" * 255])
KNOWN = set(range(frames.SETUP, frames.METADATA_PUSH)) - {frames.LEASE}


def any_frame(streams: st.SearchStrategy[int], numbers: st.SearchStrategy[int]) -> st.SearchStrategy[Frame]:
    others = st.integers(0, 63).filter(lambda kind: kind not in KNOWN)
    kinds = st.sampled_from([frames.REQUEST_STREAM, frames.REQUEST_CHANNEL])
    return st.one_of(
        st.builds(
            Setup, major=st.integers(0, 65535), minor=st.integers(0, 65535), keepalive=bits, lifetime=bits,
            resume=maybe, lease=st.booleans(), metadata_type=media, data_type=media, metadata=maybe,
            data=data,
        ),
        st.builds(
            Ask, kind=kinds, stream=streams, initial=numbers, follows=st.booleans(), complete=st.booleans(),
            metadata=maybe, data=data,
        ),
        st.builds(
            Ask, kind=st.sampled_from([frames.REQUEST_RESPONSE, frames.REQUEST_FNF]), stream=streams,
            follows=st.booleans(), complete=st.booleans(), metadata=maybe, data=data,
        ),
        st.builds(RequestN, streams, numbers),
        st.builds(Cancel, streams),
        st.builds(
            Payload, stream=streams, follows=st.booleans(), complete=st.booleans(), next=st.booleans(),
            metadata=maybe, data=data,
        ),
        st.builds(Failure, streams, bits, st.text(max_size=20)),
        st.builds(Keepalive, st.booleans(), st.integers(0, 2**64 - 1), data),
        st.builds(Other, others, streams, st.integers(0, 1023), data),
    )  # fmt: skip


class TestFrames:
    @thorough
    @given(any_frame(bits, st.integers(-(2**31), 2**31 - 1)))
    def test_a_frame_comes_back_as_it_went(self, frame: Frame) -> None:
        """Bytes and values say the same, and every shorter piece is a frame or the typed error."""
        sent = frames.encode(frame)
        assert frames.decode(sent) == frame
        for size in range(len(sent)):
            answers(lambda size=size: frames.decode(sent[:size]), Malformed)  # type: ignore[misc]

    @thorough
    @given(st.binary(max_size=60))
    def test_any_bytes_are_a_frame_or_the_typed_error(self, sent: bytes) -> None:
        """And what is a frame is written as frames are read."""
        frame = answers(lambda: frames.decode(sent), Malformed)
        if not isinstance(frame, Malformed):
            assert frames.decode(frames.encode(frame)) == frame

    @thorough
    @given(st.integers(0, 400_000))
    def test_an_item_of_any_size_is_whole_again(self, size: int) -> None:
        """Its fragments are bounded, say that more follows until the last, and hold every byte once."""
        item = bytes(index & 0xFF for index in range(251)) * (size // 251 + 1)
        parts = frames.item(7, item[:size])
        assert all(len(part) <= frames.MAX_FRAME for part in parts)
        read = [frames.decode(part) for part in parts]
        assert all(isinstance(part, Payload) and part.stream == 7 and part.next for part in read)
        payloads = [part for part in read if isinstance(part, Payload)]
        assert b"".join(part.data for part in payloads) == item[:size]
        assert [part.follows for part in payloads] == [True] * (len(parts) - 1) + [False]


class Pipe(Line):
    """The server's end, which writes lists of bytes too."""

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))


async def converse(
    messages: list[Message | bytes], sizes: list[int], deflate: bool
) -> tuple[list[Frame], list[str], int]:
    """What the server answers, what it complains of, and how many bytes it still holds."""
    faults = Faults()
    logging.getLogger().addHandler(faults)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: faults.said.append(str(context)))
    client = Protocol(CLIENT)
    inflate = Inflate(True, True, 15, 15, {}) if deflate else None
    client.extensions = [PerMessageDeflate(True, True, 15, 15)] if deflate else []
    sent = b"".join(
        message if isinstance(message, bytes) else message.serialize(mask=True) for message in messages
    )
    server, pipe, state = edge(Numbers()), Pipe(), ServerState()
    scope = {"type": "http", "path": "/docs", "headers": [(b"host", b"localhost")], "client": None}
    paths, times = server.socket_paths, SessionTimes()
    socket = RSocket(pipe, state, server, server, {**scope, "method": "GET"}, paths, times, 60.0, inflate)
    try:
        for part in cut(sent, sizes):
            if pipe.closed:
                break
            socket.data_received(part)
            for _ in range(3):
                await asyncio.sleep(0)
        for _ in range(40):
            await asyncio.sleep(0)
    finally:
        pipe.closed = True
        socket.connection_lost(None)
        for _ in range(10):
            await asyncio.sleep(0)
        logging.getLogger().removeHandler(faults)
    assert not state.connections
    assert server.load.streams == server.load.requests == 0
    client.receive_data(pipe.sent)
    heard = [event for event in client.events_received() if isinstance(event, Message)]
    answered = [frames.decode(bytes(event.data)) for event in heard if event.opcode is BINARY]
    assert client.parser_exc is None, client.parser_exc
    return answered, faults.said, server.load.buffered


started = st.sampled_from([ask(3, items=5, size=1), ask(1, stream=3, items=2), ask(2, items=3, at_once=True)])
spoken = (any_frame(few, counts) | started | st.just(setup())).map(
    lambda frame: Message(BINARY, frames.encode(frame))
)


def swollen(message: Message) -> bytes:
    """``message``, said to be compressed."""
    sent = bytearray(message.serialize(mask=True))
    sent[0] |= 0x40
    return bytes(sent)


compressed = data.map(lambda plain: zlib.compress(plain)[2:-4])
raw = st.one_of(
    st.binary(max_size=8),
    st.builds(Message, st.sampled_from([BINARY, CONT]), compressed).map(swollen),
    st.builds(Message, st.sampled_from([BINARY, CONT]), data, st.booleans()).map(swollen),
    st.builds(Message, st.sampled_from([BINARY, CONT, TEXT]), data, st.booleans()),
    st.builds(Message, st.sampled_from([PING, PONG, CLOSE]), data),
)
begun = st.just([Message(BINARY, frames.encode(frame)) for frame in (setup(), ask(3, items=9, size=1))])
conversations = st.builds(lambda first, rest: [*first, *rest], st.just([]) | begun, st.lists(spoken | raw))


class TestConversation:
    @thorough
    @given(conversations, st.lists(st.integers(1, 60), max_size=6), st.booleans())
    def test_whatever_is_said_is_answered_or_refused(
        self, said: list[Message | bytes], sizes: list[int], deflate: bool
    ) -> None:
        """Frames in any order and any bytes between: whole frames come back, no fault, nothing is kept.

        And no more items than were asked for, of whatever stream.
        """
        heard, faults, held = asyncio.run(converse(said, sizes, deflate))
        assert (faults, held) == ([], 0)
        items = sum(isinstance(frame, Payload) and frame.next for frame in heard)
        wanted = 0
        for message in said:
            if isinstance(message, Message):
                frame = answers(lambda data=message.data: frames.decode(bytes(data)), Malformed)  # type: ignore[misc]
                wanted += max(getattr(frame, "initial", None) or getattr(frame, "count", None) or 0, 0)
        assert items <= wanted
