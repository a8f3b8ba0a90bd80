"""Who listens in this process, and what waits for them. Both adapters deliver through this."""

from __future__ import annotations

import asyncio
from collections import deque

import msgspec

from lowtide.storage.bus.model import Buffer, DropOldest, Hint, check


class Subscription:
    """One subscriber's bounded view of a topic.

    It is a context manager, and inside it an iterator: every hint published after the entry is
    offered. The iteration ends when the bus closes, after what is buffered has been read.
    """

    def __init__(self, subscribers: Subscribers, topic: str, buffer: Buffer):
        self._subscribers = subscribers
        self.topic = topic
        self._tells_loss = isinstance(buffer, DropOldest)
        self._size = buffer.size if isinstance(buffer, DropOldest) else 1
        self._hints: deque[Hint] = deque()
        self._changed = asyncio.Event()
        self._ended = False

    async def __aenter__(self) -> Subscription:
        self._subscribers.add(self)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._subscribers.remove(self)
        self.end()

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Hint:
        """The oldest hint that is buffered; waits for one. Cancelling the wait loses nothing."""
        while not self._hints:
            if self._ended:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        return self._hints.popleft()

    def offer(self, hint: Hint) -> None:
        """Buffer ``hint``; when that is full, the oldest goes. Never waits."""
        missed = False
        if len(self._hints) == self._size:
            missed = self._hints.popleft().missed or self._tells_loss
        self._hints.append(hint)
        if missed and not self._hints[0].missed:
            self._hints[0] = msgspec.structs.replace(self._hints[0], missed=True)
        self._changed.set()

    def end(self) -> None:
        """Let the iteration stop once the buffer is empty."""
        self._ended = True
        self._changed.set()


class Subscribers:
    """The open subscriptions of one process, by topic. A delivery costs microseconds for each of them."""

    def __init__(self) -> None:
        self._by_topic: dict[str, set[Subscription]] = {}
        self._closed = False

    def subscribe(self, topic: str, buffer: Buffer) -> Subscription:
        """A subscription that is not entered yet. ``ValueError`` for a malformed topic."""
        check(topic)
        return Subscription(self, topic, buffer)

    def add(self, subscription: Subscription) -> None:
        if self._closed:
            subscription.end()
            return
        self._by_topic.setdefault(subscription.topic, set()).add(subscription)

    def remove(self, subscription: Subscription) -> None:
        present = self._by_topic.get(subscription.topic, set())
        present.discard(subscription)
        if not present:
            self._by_topic.pop(subscription.topic, None)

    def deliver(self, topic: str, payload: bytes) -> None:
        """Offer a hint to everyone who listens to ``topic``."""
        hint = Hint(payload)
        for subscription in self._by_topic.get(topic, ()):
            subscription.offer(hint)

    def missed(self) -> None:
        """Tell everyone, whatever the topic, that hints may have been lost."""
        for subscriptions in self._by_topic.values():
            for subscription in subscriptions:
                subscription.offer(Hint(missed=True))

    def close(self) -> None:
        """End every iteration, and those that begin later."""
        self._closed = True
        for subscriptions in self._by_topic.values():
            for subscription in subscriptions:
                subscription.end()
