"""The bus of a single process."""

from __future__ import annotations

from lowtide.storage.bus.model import Buffer, Latest, check
from lowtide.storage.bus.subscribers import Subscribers, Subscription


class MemoryBus:
    """Hints between the parts of one process. Delivered before ``publish`` returns; nothing to lose."""

    def __init__(self) -> None:
        self._subscribers = Subscribers()

    async def start(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        self._subscribers.close()

    def publish(self, topic: str, payload: bytes = b"") -> None:
        check(topic, payload)
        self._subscribers.deliver(topic, payload)

    def subscribe(self, topic: str, buffer: Buffer = Latest()) -> Subscription:  # noqa: B008 - a frozen value
        return self._subscribers.subscribe(topic, buffer)
