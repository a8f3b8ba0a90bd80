"""One message on its way: signed, sent, and what came back."""

from __future__ import annotations

import msgspec

from lowtide.egress import Egress
from lowtide.kernel.clock import Clock
from lowtide.kernel.errors import AddressRefused, OutsideFailed
from lowtide.storage.db import Database
from lowtide.storage.vault import Vault
from lowtide.webhooks.signature import headers
from lowtide.webhooks.store import QUERIES

PURPOSE = "webhook:{key}"
DEADLINE = 15.0
"""Seconds that a receiver has."""
MAX_ANSWER = 65_536
"""Bytes of an answer that are read; nobody needs them but who tries an endpoint out."""


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one try."""

    message: str
    event: str
    attempt: int
    status: int
    """0: there was no answer."""
    failure: str
    """Empty: it arrived."""
    took: int
    """Milliseconds."""
    at: int
    body: bytes = b""
    op: int = 0


class Sender:
    """Sends messages to endpoints."""

    def __init__(self, database: Database, vault: Vault, egress: Egress, clock: Clock):
        self._database, self._vault, self._egress = database, vault, egress
        self._clock = clock

    async def send(
        self, endpoint: str, message: str, event: str, body: str, attempt: int, *, off: bool = False
    ) -> Tried | None:
        """Send one message once; None: the endpoint is gone, or off. ``off``: send even then.

        ``DEADLINE`` seconds at most. It never raises for what the receiver does. Raises ``Unavailable``, and
        nothing was sent: ``Busy`` while too many requests are under way, or the database's.
        """
        rows = await self._database.read(lambda tx: tx.fetch(QUERIES["endpoint"], endpoint))
        if not rows or not (rows[0][6] or off):
            return None
        now, data = self._clock.now(), body.encode()
        sealed = [rows[0][3]] + ([rows[0][4]] if rows[0][4] and now < rows[0][5] else [])
        purpose = PURPOSE.replace("{key}", endpoint)
        sent = headers((self._vault.open(purpose, one) for one in sealed), message, now // 1000, data)
        began, status, failure, answered = self._clock.monotonic(), 0, "", b""
        try:
            answer = await self._egress.request(
                "POST", rows[0][1], headers=sent, body=data, deadline=DEADLINE, max_bytes=MAX_ANSWER
            )
            status, answered = answer.status, answer.body
            failure = "" if 200 <= status < 300 else f"It answered {status}."
        except (OutsideFailed, AddressRefused) as error:
            failure = error.message
        took = int((self._clock.monotonic() - began) * 1000)
        return Tried(
            message=message,
            event=event,
            attempt=attempt,
            status=status,
            failure=failure,
            took=took,
            at=now,
            body=answered,
        )
