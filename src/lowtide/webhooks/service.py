"""Webhooks: events as signed messages to servers that an admin has named.

An event is an entry of the audit log, and a message of it is enqueued in the same transaction: it is sent
exactly if what it tells of is durable, at least once, with a random growing pause between tries. It holds ids
and no personal data: the receiver asks for what it may know.
"""

from __future__ import annotations

from typing import Any

import msgspec

from lowtide.audit.model import Entry
from lowtide.egress import Egress
from lowtide.kernel.clock import Clock
from lowtide.kernel.errors import AddressRefused, Conflict, NotFound, OutsideFailed
from lowtide.kernel.ids import Ids
from lowtide.storage.db import Database, Row, Tx, load_queries
from lowtide.storage.jobs import Job, Jobs
from lowtide.storage.vault import Kept, Vault
from lowtide.webhooks.signature import headers, shown

_SQL = load_queries("lowtide.webhooks")

KIND = "webhooks.deliver"
QUEUE = "webhooks"
"""Messages wait in a queue of their own, so that no receiver holds up the app's own mails and jobs."""
PURPOSE = "webhook:{key}"
SEALED = (
    Kept("webhook_endpoint", "id", "secret", PURPOSE),
    Kept("webhook_endpoint", "id", "old_secret", PURPOSE),
)
MAX_ENDPOINTS = 20
"""Each event is a message to each of them."""
MAX_TRIES = 40
"""Tries of one message: about a day. Then it is a dead job, which can be requeued."""
MAX_LOGGED = 100
"""Tries that are kept of an endpoint."""
DISABLE_AFTER = 5 * 86_400
"""Seconds of nothing but failures after which an endpoint is switched off."""
BOTH = 86_400
"""Seconds for which the old secret signs, too, after a rotation."""
DEADLINE = 15.0
"""Seconds that a receiver has."""


class Message(msgspec.Struct, frozen=True):
    """A message on its way, as a job's payload."""

    endpoint: str
    id: str
    event: str
    body: str


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Where events are sent."""

    id: str
    url: str
    events: list[str]
    """``user.create``, or ``user.*`` for all of a kind, or ``*``."""
    enabled: bool
    reason: str
    """Why it was switched off."""
    failing_since: int | None
    """Milliseconds since 1970: nothing has arrived since then."""
    created_at: int


class Try(msgspec.Struct, frozen=True):
    """One try to deliver a message."""

    message: str
    event: str
    attempt: int
    status: int
    """Of the answer; 0: there was none."""
    error: str
    milliseconds: int
    at: int


class Webhooks:
    """Keeps endpoints, and sends them messages."""

    def __init__(self, database: Database, jobs: Jobs, vault: Vault, egress: Egress, clock: Clock, ids: Ids):
        self.database = database
        self._jobs, self._vault, self._egress = jobs, vault, egress
        self._clock, self._ids = clock, ids
        jobs.register(KIND, Message, self._deliver, deadline=DEADLINE + 15)

    # -- endpoints -------------------------------------------------------------------------------------

    async def add(self, tx: Tx, url: str, events: list[str]) -> tuple[Endpoint, str]:
        """A new endpoint, and its secret, which is shown this once.

        Raises ``AddressRefused``, and ``Conflict`` beyond ``MAX_ENDPOINTS``.
        """
        self._egress.check(url)
        if len(await tx.fetch(_SQL["endpoints"])) >= MAX_ENDPOINTS:
            raise Conflict(f"There are {MAX_ENDPOINTS} endpoints already.", hint="Delete one first.")
        id, now, secret = self._ids.uuid(), self._clock.now(), self._secret()
        sealed = self._vault.seal(PURPOSE.replace("{key}", id), secret)
        await tx.execute(_SQL["add_endpoint"], id, url, msgspec.json.encode(events).decode(), sealed, now)
        return await self.find(tx, id), shown(secret)

    async def endpoints(self, tx: Tx) -> list[Endpoint]:
        """Every endpoint, the oldest first."""
        return [_endpoint(row) for row in await tx.fetch(_SQL["endpoints"])]

    async def find(self, tx: Tx, id: str) -> Endpoint:
        """Raises ``NotFound``."""
        return _endpoint(await self._row(tx, id))

    async def rotate(self, tx: Tx, id: str) -> str:
        """A new secret; messages are signed with the old one, too, for a day. Raises ``NotFound``."""
        await self._row(tx, id)
        secret = self._secret()
        sealed = self._vault.seal(PURPOSE.replace("{key}", id), secret)
        await tx.execute(_SQL["rotate"], id, sealed, self._clock.now() + BOTH * 1000)
        return shown(secret)

    async def enable(self, tx: Tx, id: str, on: bool) -> None:
        """Switch an endpoint on or off. What comes while it is off is not sent later. Raises ``NotFound``."""
        await self._row(tx, id)
        await tx.execute(_SQL["enable"], id, int(on), "" if on else "by an admin")

    async def delete(self, tx: Tx, id: str) -> None:
        """Forget an endpoint and its tries. Raises ``NotFound``."""
        await self._row(tx, id)
        await tx.execute(_SQL["delete"], id)
        await tx.execute(_SQL["delete_tries"], id)

    async def tries(self, tx: Tx, id: str) -> list[Try]:
        """The last tries, the latest first. Raises ``NotFound``."""
        await self._row(tx, id)
        return [Try(*row) for row in await tx.fetch(_SQL["tries"], id, MAX_LOGGED)]

    # -- messages --------------------------------------------------------------------------------------

    async def heard(self, tx: Tx, entry: Entry) -> None:
        """Enqueue a message of ``entry`` for each endpoint that wants it, in the entry's transaction."""
        wanting = [
            id
            for id, events in await tx.fetch(_SQL["enabled"])
            if any(_wants(pattern, entry.action) for pattern in msgspec.json.decode(events))
        ]
        if wanting:
            data = {"target": entry.target, "actor": entry.actor, "space": entry.space}
            await self._enqueue(tx, wanting, entry.action, data)

    async def test(self, tx: Tx, id: str) -> str:
        """Enqueue a message ``webhook.test`` for one endpoint; its id. Raises ``NotFound``."""
        await self._row(tx, id)
        return await self._enqueue(tx, [id], "webhook.test", {"target": f"webhook:{id}"})

    async def _enqueue(self, tx: Tx, endpoints: list[str], event: str, data: dict[str, Any]) -> str:
        id = f"msg_{self._ids.token()}"
        body = msgspec.json.encode({"type": event, "timestamp": self._clock.now(), "data": data}).decode()
        for endpoint in endpoints:
            message = Message(endpoint, id, event, body)
            await self._jobs.enqueue(tx, KIND, message, max_attempts=MAX_TRIES, queue=QUEUE)
        return id

    async def _deliver(self, job: Job, message: Message) -> None:
        rows = await self.database.read(lambda tx: tx.fetch(_SQL["endpoint"], message.endpoint))
        if not rows or not rows[0][6]:
            return
        now = self._clock.now()
        sealed = [rows[0][3]] + ([rows[0][4]] if rows[0][4] and now < rows[0][5] else [])
        purpose = PURPOSE.replace("{key}", message.endpoint)
        body = message.body.encode()
        sent = headers((self._vault.open(purpose, one) for one in sealed), message.id, now // 1000, body)
        began, status, failure = self._clock.monotonic(), 0, ""
        try:
            answer = await self._egress.request(
                "POST", rows[0][1], headers=sent, body=body, deadline=DEADLINE, max_bytes=65_536
            )
            status = answer.status
            failure = "" if 200 <= status < 300 else f"It answered {status}."
        except (OutsideFailed, AddressRefused) as error:
            failure = error.message
        took = int((self._clock.monotonic() - began) * 1000)
        number, since = self._ids.uuid(), rows[0][8]

        async def note(tx: Tx) -> None:
            at = (message.endpoint, message.id, message.event, job.attempt, status, failure[:500], took, now)
            await tx.execute(_SQL["add_try"], number, *at)
            await tx.execute(_SQL["trim_tries"], message.endpoint, MAX_LOGGED)
            if not failure:
                await tx.execute(_SQL["well"], message.endpoint)
            elif status == 410:
                # Standard Webhooks: the receiver wants no more.
                await tx.execute(_SQL["enable"], message.endpoint, 0, "it answered 410 Gone")
            elif since is not None and now - since > DISABLE_AFTER * 1000:
                await tx.execute(_SQL["enable"], message.endpoint, 0, "nothing arrived for five days")
            else:
                await tx.execute(_SQL["failing"], message.endpoint, now)

        await self.database.write(note)
        if failure and status != 410:
            raise OutsideFailed(f"The webhook {message.endpoint} was not delivered: {failure}")

    async def _row(self, tx: Tx, id: str) -> Row:
        rows = await tx.fetch(_SQL["endpoint"], id)
        if not rows:
            raise NotFound("There is no such webhook.")
        return rows[0]

    def _secret(self) -> bytes:
        return bytes.fromhex(self._ids.token() + self._ids.token())


def _endpoint(row: Row) -> Endpoint:
    id, url, events, _, _, _, enabled, reason, since, created = row
    return Endpoint(
        id=id,
        url=url,
        events=msgspec.json.decode(events),
        enabled=bool(enabled),
        reason=reason,
        failing_since=since,
        created_at=created,
    )


def _wants(pattern: str, event: str) -> bool:
    return pattern in ("*", event) or (pattern.endswith(".*") and event.startswith(pattern[:-1]))
