"""The open streams: run until the client leaves, the server stops, or they end by themselves.

A stream costs its own coroutine, one task that waits for the client to leave, and uvicorn's connection:
about 11 KiB together, and 20 µs of CPU for a message to one more listener (measured).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any, cast

from lowtide.api.bodies import Gone
from lowtide.api.limits import Load
from lowtide.kernel.errors import TooManyRequests
from lowtide.kernel.http import Outlet, StreamAnswer
from lowtide.kernel.ids import Ids

CUT_AFTER = 2.0
"""Seconds in which a stream whose session has ended may say a last line."""
AT_ONCE = 50
"""Tokens that are looked at before others have their turn: 0.1 ms each."""
FULL_FOR = 10.0
"""Seconds after which a user who has too many streams may ask again."""
HERD = 200
"""Devices a second that a server takes back without noticing."""


class OpenStreams:
    """Every stream of the process."""

    def __init__(self, load: Load, ids: Ids):
        self._load = load
        self._ids = ids
        self._open: dict[Outlet, asyncio.Task[Any]] = {}
        self._still: dict[Outlet, Callable[[], bool]] = {}
        self._of_session: dict[str, set[Outlet]] = {}
        self._of_user: dict[str, int] = {}

    def check(self, user: str) -> None:
        """Raises ``Busy`` when no further stream can be opened, ``TooManyRequests`` when none by ``user``."""
        self._load.check_streams()
        if self._of_user.get(user, 0) >= self._load.limits.user_streams:
            raise TooManyRequests("This user has too many open streams.", retry_after=FULL_FOR)

    async def run(
        self,
        stream: StreamAnswer,
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
        session: str = "",
        still: Callable[[], bool] = lambda: True,
        user: str = "",
    ) -> None:
        """Run ``stream``, whose headers were sent, to its end.

        ``session``: whose it is, for ``end_sessions``. ``still``: is its token good even now? ``user``: who
        may have so many; empty, any number.

        Raises ``Gone`` when it was cut: the client left, or ``cut`` was called. What ``stream.run``
        raises is raised here, and the answer is then not ended.
        """
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        outlet = Outlet(send)
        self._open[outlet] = task
        self._still[outlet] = still
        if session:
            self._of_session.setdefault(session, set()).add(outlet)
        if user:
            self._of_user[user] = self._of_user.get(user, 0) + 1
        self._load.streams += 1
        if self._load.draining or not still():
            self._tell(outlet)
        leaving = asyncio.create_task(self._leaving(receive, outlet))
        try:
            await stream.run(outlet)
        except asyncio.CancelledError:
            if outlet in self._open:
                raise  # somebody else's cancellation
            task.uncancel()
            raise Gone from None
        finally:
            self._load.streams -= 1
            self._open.pop(outlet, None)
            del self._still[outlet]
            self._forget(outlet, session)
            if user:
                self._of_user[user] -= 1
                if not self._of_user[user]:
                    del self._of_user[user]
            leaving.cancel()
        await send({"type": "http.response.body", "body": b""})

    def drain(self, within: float) -> None:
        """Ask every stream to end, each with its own time to return.

        Not every protocol can say that time, so the asking itself is spread: 200 streams a second, all
        of them ``within`` seconds.
        """
        spread = min(within, len(self._open) / HERD)
        loop = asyncio.get_running_loop()
        for outlet in list(self._open):
            if spread < 0.1:
                self._tell(outlet)
            else:
                loop.call_later(self._ids.jitter(0, spread), self._tell, outlet)

    def end_sessions(self, sessions: Collection[str]) -> None:
        """Ask the streams of these sessions to end, and cut what is left ``CUT_AFTER`` seconds later."""
        for session in sessions:
            for outlet in tuple(self._of_session.get(session, ())):
                self._end(outlet)

    async def end_refused(self) -> None:
        """End, as ``end_sessions`` does, the streams whose token is good no more: its key was revoked."""
        for number, (outlet, still) in enumerate(tuple(self._still.items())):
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
            if not still():
                self._end(outlet)

    def _end(self, outlet: Outlet) -> None:
        self._tell(outlet)
        asyncio.get_running_loop().call_later(CUT_AFTER, self._cut, outlet)

    def _forget(self, outlet: Outlet, session: str) -> None:
        outlets = self._of_session.get(session)
        if outlets is not None:
            outlets.discard(outlet)
            if not outlets:
                del self._of_session[session]

    def cut(self) -> None:
        """Cancel every stream that has not ended by itself."""
        for outlet in list(self._open):
            self._cut(outlet)

    async def _leaving(
        self, receive: Callable[[], Awaitable[MutableMapping[str, Any]]], outlet: Outlet
    ) -> None:
        while (await receive())["type"] == "http.request":
            pass
        self._cut(outlet)

    def _cut(self, outlet: Outlet) -> None:
        task = self._open.pop(outlet, None)
        if task is not None:
            task.cancel()

    def _tell(self, outlet: Outlet) -> None:
        # A thousand devices that return together are an attack on oneself: 1 s, and more for more.
        if outlet in self._open:
            outlet.drain(self._ids.jitter(1, 5 + len(self._open) / HERD))


def drop(stream: StreamAnswer) -> None:
    """``stream`` will never run: let its handler's work go."""
    if stream.drop is not None:
        stream.drop()
