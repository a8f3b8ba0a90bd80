"""Hints between the parts of Lowtide and between its nodes.

The bus carries hints, never truth. A hint may be lost, repeated or late; what it points at is in
the database. Whoever relies on hints therefore also looks by itself from time to time, and looks
at everything when a hint says ``missed``.
"""

from __future__ import annotations

from typing import Protocol

from lowtide.storage.bus.memory import MemoryBus
from lowtide.storage.bus.model import MAX_PAYLOAD, Buffer, DropOldest, Hint, Latest
from lowtide.storage.bus.subscribers import Subscription

__all__ = ["MAX_PAYLOAD", "Buffer", "Bus", "DropOldest", "Hint", "Latest", "MemoryBus", "Subscription"]


class Bus(Protocol):
    """Carries hints to every subscriber of a topic, on this node and the others.

    Used from the event loop's thread only.
    """

    async def start(self) -> None:
        """Connect. Raises ``StorageLost`` if that fails the first time; later losses heal by themselves."""
        ...

    async def close(self) -> None:
        """Send what waits to be sent, briefly; end every subscription's iteration."""
        ...

    def publish(self, topic: str, payload: bytes = b"") -> None:
        """Send a hint to every subscriber of ``topic``, this process's own too.

        Call it after the transaction whose outcome it tells of, never inside, and once for a group
        of changes. It neither waits for the network nor fails because of it: a full send buffer
        loses its oldest hint. ``ValueError`` for a topic beyond 200 plain characters, ``TooLarge``
        for a payload beyond ``MAX_PAYLOAD``.
        """
        ...

    def subscribe(self, topic: str, buffer: Buffer = Latest()) -> Subscription:  # noqa: B008 - a frozen value
        """Listen to ``topic``::

            async with bus.subscribe("heads") as hints:
                async for hint in hints:
                    ...

        ``buffer`` says what becomes of hints that arrive faster than they are read. After a
        connection was lost and is back, every subscriber gets a hint with ``missed`` set.
        """
        ...
