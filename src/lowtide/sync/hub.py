"""Who waits for what: commits wake the streams that they concern, and nobody else.

A listener is one slot, not a queue: however many commits it sleeps through, it wakes once and reads
what is newest. So a slow phone costs nothing and delays nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from lowtide.sync.model import Bucket, Commit
from lowtide.sync.streams import is_lookup

SLICE = 100
"""Listeners that are woken in one turn of the event loop: about 4 ms, in which nobody else is served."""

TICK = 1.0
"""Seconds by which a wait without news may end late. A timer for each wait costs 6 µs (measured)."""


class Listener:
    """One stream's slot."""

    __slots__ = ("_future", "buckets", "closed", "due", "full", "group", "keys", "topics")

    def __init__(self) -> None:
        self.topics: set[str] = set()
        self.group = 0
        """The latest commit that concerns this listener."""
        self.buckets: dict[str, Bucket] = {}
        """What the commits since the last ``take`` did to its buckets."""
        self.full = False
        """Something else changed, or a commit's details are unknown: read everything anew."""
        self.keys = False
        """What the user holds may be among it."""
        self.closed = False
        self.due = 0.0
        """When the present wait ends without news, in the loop's time."""
        self._future: asyncio.Future[None] | None = None

    @property
    def waiting(self) -> bool:
        """Is there news?"""
        return bool(self.buckets) or self.full or self.closed

    def poke(self, group: int, topic: str | None, bucket: Bucket | None) -> None:
        """There is news, for who looks: ``wake`` is for who waits. Costs a dict entry."""
        self.group = max(self.group, group)
        if topic is not None and bucket is not None:
            self.buckets[topic] = bucket
        else:
            self.full = True
            self.keys = self.keys or topic is None or is_lookup(topic)

    def wake(self) -> None:
        """End the present ``wait``."""
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    def close(self) -> None:
        """The stream is to end."""
        self.closed = True
        self.wake()

    async def wait(self, seconds: float) -> None:
        """Return when there is news, or after ``seconds`` and up to ``TICK`` more."""
        if self.waiting:
            return
        loop = asyncio.get_running_loop()
        self.due = loop.time() + seconds
        self._future = loop.create_future()
        try:
            await self._future
        finally:
            self._future = None

    def take(self) -> tuple[int, dict[str, Bucket], bool]:
        """(group, buckets, full): the news, and an empty slot again."""
        news = (self.group, self.buckets, self.full)
        self.buckets = {}
        self.full = self.keys = False
        return news


class Hub:
    """The listeners by topic. Lives on the event loop; nothing here blocks or is awaited long."""

    def __init__(self) -> None:
        self._by_topic: dict[str, set[Listener]] = {}
        self._listeners: set[Listener] = set()
        self._ticking = False
        self.group = 0
        """The latest commit that was delivered."""

    def __len__(self) -> int:
        return len(self._listeners)

    def add(self, listener: Listener) -> None:
        """From now on ``listener`` is told of its topics."""
        self._listeners.add(listener)
        if not self._ticking:
            self._ticking = True
            asyncio.get_running_loop().call_later(TICK, self._tick)

    def listen(self, listener: Listener, topics: Iterable[str], group: int) -> None:
        """Make ``topics`` all that ``listener`` waits for; it has read what there was at ``group``.

        Where it was not told of one of them while it read, a commit after ``group`` may concern it: it is to
        look again. Otherwise it has heard of every one that does: looking again for as long as anybody
        commits would never end on a busy server.
        """
        wanted = set(topics)
        deaf = not wanted <= listener.topics
        for topic in listener.topics - wanted:
            self._drop(topic, listener)
        for topic in wanted - listener.topics:
            self._by_topic.setdefault(topic, set()).add(listener)
        listener.topics = wanted
        if deaf and self.group > group:
            listener.poke(self.group, None, None)

    def remove(self, listener: Listener) -> None:
        """Forget ``listener``."""
        self.listen(listener, (), self.group)
        self._listeners.discard(listener)

    def hears(self, topic: str) -> bool:
        """Does anybody listen to ``topic``?"""
        return topic in self._by_topic

    def alone(self, topics: Iterable[str]) -> bool:
        """Does at most one listener wait for each of ``topics``?"""
        return all(len(self._by_topic.get(topic, ())) < 2 for topic in topics)

    def deliver(self, commit: Commit) -> None:
        """Tell the listeners of a durable commit. Commits come in the order of their groups."""
        self.group = max(self.group, commit.group)
        told: dict[Listener, None] = {}
        for topic in commit.topics:
            listeners = self._by_topic.get(topic)
            if listeners:
                bucket = commit.buckets.get(topic)
                for listener in listeners:
                    listener.poke(commit.group, topic, bucket)
                told.update(dict.fromkeys(listeners))
        self._wake(list(told))

    def deliver_unknown(self, group: int) -> None:
        """Something was committed, nobody knows what: everybody reads anew."""
        self.group = max(self.group, group)
        for listener in self._listeners:
            listener.poke(group, None, None)
        self._wake(list(self._listeners))

    def _wake(self, listeners: list[Listener], first: int = 0) -> None:
        for listener in listeners[first : first + SLICE]:
            listener.wake()
        if first + SLICE < len(listeners):
            asyncio.get_running_loop().call_soon(self._wake, listeners, first + SLICE)

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for listener in self._listeners:
            if listener.due <= now:
                listener.wake()
        self._ticking = bool(self._listeners)
        if self._ticking:
            loop.call_later(TICK, self._tick)

    def close(self) -> None:
        """End every stream."""
        for listener in list(self._listeners):
            listener.close()

    def _drop(self, topic: str, listener: Listener) -> None:
        listeners = self._by_topic.get(topic)
        if listeners is not None:
            listeners.discard(listener)
            if not listeners:
                del self._by_topic[topic]
