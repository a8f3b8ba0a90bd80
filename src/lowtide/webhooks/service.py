"""Webhooks: events as signed messages to servers that an admin has named.

An event is an entry of the audit log, and a message of it is enqueued in the same transaction: it is sent
exactly if what it tells of is durable, at least once, with a random growing pause between tries. It holds ids
and no personal data: the receiver asks for what it may know. Changes of records are ``records``' part.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any

import msgspec

from lowtide.audit import Audit, Entry
from lowtide.egress import Egress
from lowtide.kernel.clock import Clock
from lowtide.kernel.errors import Conflict, Malformed, NotFound, OutsideFailed
from lowtide.kernel.ids import Ids
from lowtide.storage.db import Database, Tx
from lowtide.storage.jobs import Job, Jobs
from lowtide.storage.vault import SealedColumn, Vault
from lowtide.webhooks.model import Endpoint, Message, Try
from lowtide.webhooks.records import EVENTS, RecordChange, RecordMessages, watched
from lowtide.webhooks.sending import PURPOSE, Sender, Tried
from lowtide.webhooks.signature import shown
from lowtide.webhooks.store import QUERIES, read_endpoint

KIND = "webhooks.deliver"
QUEUE = "webhooks"
"""Messages wait in a queue of their own, so that no receiver holds up the app's own mails and jobs."""
SEALED = (
    SealedColumn("webhook_endpoint", "id", "secret", PURPOSE),
    SealedColumn("webhook_endpoint", "id", "old_secret", PURPOSE),
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
MAX_NAMED = 200
"""Models, or spaces, that an endpoint names."""
Watch = Callable[[Tx, Collection[str]], Awaitable[None]]
"""(tx, models): tell the writer whose changes to tell of; "*" is all."""


class Webhooks:
    """Keeps endpoints, and sends them messages."""

    def __init__(
        self,
        database: Database,
        jobs: Jobs,
        vault: Vault,
        egress: Egress,
        audit: Audit,
        clock: Clock,
        ids: Ids,
        *,
        models: Collection[str] = (),
    ):
        """``models``: that can be heard of."""
        self.database = database
        self._jobs, self._vault, self._egress, self._audit = jobs, vault, egress, audit
        self._clock, self._ids = clock, ids
        self._models = frozenset(models)
        self.watch: Watch | None = None
        self._sender = Sender(database, vault, egress, clock)
        self._records = RecordMessages(
            database, jobs, self._sender, self._settle, self._switch_off, clock, ids
        )
        jobs.register(KIND, Message, self._deliver, deadline=30)

    # -- endpoints -------------------------------------------------------------------------------------

    async def add(
        self,
        tx: Tx,
        url: str,
        events: Sequence[str],
        models: Sequence[str] = (),
        spaces: Sequence[str] = (),
        *,
        data: bool = False,
    ) -> tuple[Endpoint, str]:
        """A new endpoint, and its secret, which is shown this once.

        Raises ``AddressRefused``, ``Malformed`` for records' events without a model and the reverse, and
        ``Conflict`` beyond ``MAX_ENDPOINTS``.
        """
        self._egress.check(url)
        self._check(events, models)
        if len(await tx.fetch(QUERIES["endpoints"])) >= MAX_ENDPOINTS:
            raise Conflict(f"There are {MAX_ENDPOINTS} endpoints already.", hint="Delete one first.")
        id, now, secret = self._ids.uuid(), self._clock.now(), self._secret()
        sealed = self._vault.seal(PURPOSE.replace("{key}", id), secret)
        texts = [msgspec.json.encode(list(part)).decode() for part in (events, models, spaces)]
        await tx.execute(QUERIES["add_endpoint"], id, url, texts[0], sealed, now, *texts[1:], int(data))
        await self._watch(tx)
        return await read_endpoint(tx, id), shown(secret)

    def _check(self, events: Sequence[str], models: Sequence[str]) -> None:
        of_records = [event for event in events if event in ("*", "record.*", *EVENTS)]
        named = [event for event in of_records if event != "*"]
        if named and not models:
            raise Malformed(f"{named[0]!r} is about records: of which models?", hint="Name 'models'.")
        if models and not of_records:
            raise Malformed("Models are named, but no event of theirs.", hint="Add 'record.*' to 'events'.")
        if unknown := set(models) - self._models - {"*"}:
            raise Malformed(
                f"There is no model {sorted(unknown)[0]!r}.",
                hint=f"There are {', '.join(sorted(self._models))}.",
            )

    async def _watch(self, tx: Tx) -> None:
        if self.watch is not None:
            await self.watch(tx, watched(await tx.fetch(QUERIES["wishes"])))

    async def rotate(self, tx: Tx, id: str) -> str:
        """A new secret; messages are signed with the old one, too, for a day. Raises ``NotFound``."""
        await read_endpoint(tx, id)
        secret = self._secret()
        sealed = self._vault.seal(PURPOSE.replace("{key}", id), secret)
        await tx.execute(QUERIES["rotate"], id, sealed, self._clock.now() + BOTH * 1000)
        return shown(secret)

    async def enable(self, tx: Tx, id: str, on: bool) -> None:
        """Switch an endpoint on or off. What comes while it is off is not sent later; what waits is dead.

        Call the jobs' ``wake`` after the commit. Raises ``NotFound``.
        """
        await read_endpoint(tx, id)
        await tx.execute(QUERIES["enable"], id, int(on), "" if on else "by an admin")
        # First: a group that still tells of it has then written its messages.
        await self._watch(tx)
        if on:
            # A message may wait for it all the same, and its job found the endpoint off.
            await self._records.wake(tx, id)
        else:
            await self._records.bury(tx, id, "The endpoint was switched off.")

    async def delete(self, tx: Tx, id: str) -> None:
        """Forget an endpoint and its tries. Raises ``NotFound``."""
        await read_endpoint(tx, id)
        await tx.execute(QUERIES["delete"], id)
        await tx.execute(QUERIES["delete_tries"], id)
        await self._watch(tx)
        await tx.execute(QUERIES["delete_records"], id)

    async def tries(self, tx: Tx, id: str) -> list[Try]:
        """The last tries, the latest first. Raises ``NotFound``."""
        await read_endpoint(tx, id)
        return [Try(*row) for row in await tx.fetch(QUERIES["tries"], id, MAX_LOGGED)]

    # -- messages --------------------------------------------------------------------------------------

    async def heard(self, tx: Tx, entries: Sequence[Entry]) -> None:
        """Enqueue a message of each entry for each endpoint that wants it, in the entries' transaction. Two
        statements, however many there are.
        """
        enabled = [(id, msgspec.json.decode(events)) for id, events in await tx.fetch(QUERIES["enabled"])]
        messages: list[Message] = []
        for entry in entries:
            wanting = [id for id, events in enabled if any(_wants(one, entry.action) for one in events)]
            if wanting:
                data = {"target": entry.target, "actor": entry.actor, "space": entry.space}
                messages += self._messages(wanting, entry.action, data)
        await self._enqueue(tx, messages)

    async def test(self, tx: Tx, id: str) -> str:
        """Enqueue a message ``webhook.test`` for one endpoint; its id. Raises ``NotFound``."""
        await read_endpoint(tx, id)
        messages = self._messages([id], "webhook.test", {"target": f"webhook:{id}"})
        await self._enqueue(tx, messages)
        return messages[0].id

    def _messages(self, endpoints: Sequence[str], event: str, data: dict[str, Any]) -> list[Message]:
        id = f"msg_{self._ids.token()}"
        body = self._body(event, data)
        return [Message(endpoint, id, event, body) for endpoint in endpoints]

    async def _enqueue(self, tx: Tx, messages: Sequence[Message]) -> None:
        await self._jobs.enqueue_all(tx, KIND, messages, max_attempts=MAX_TRIES, queue=QUEUE)

    async def changed(self, tx: Tx, now: int, changes: Sequence[RecordChange]) -> bool:
        """Write messages about changed records, in the group's transaction; whether there are any."""
        return await self._records.heard(tx, now, changes)

    async def replay(self, tx: Tx, id: str) -> int:
        """Send an endpoint's dead messages again; how many.

        Messages about accounts that died are jobs, and waited a day for a receiver: those, too. Raises
        ``NotFound``, and ``Conflict`` if the endpoint is off.
        """
        if not (await read_endpoint(tx, id)).enabled:
            # A job that meets an endpoint that is off ends, and its message with it.
            raise Conflict("The webhook is off: nothing can be sent to it.", hint="Switch it on first.")
        count = await self._records.revive(tx, id)
        for job in await self._jobs.dead(tx, 1000):
            if job.kind == KIND and msgspec.json.decode(job.payload, type=Message).endpoint == id:
                await self._jobs.requeue(tx, job.id)
                count += 1
        return count

    async def try_now(self, id: str) -> Tried:
        """Send a message ``webhook.test`` at once, to an endpoint that is off, too. Raises ``NotFound``."""
        await self.database.read(lambda tx: read_endpoint(tx, id))
        message, body = f"msg_{self._ids.token()}", self._body("webhook.test", {"target": f"webhook:{id}"})
        tried = await self._sender.send(id, message, "webhook.test", body, 1, off=True)
        if tried is None:
            raise NotFound("There is no such webhook.")
        await self.database.write(lambda tx: self._log(tx, id, [tried]))
        return tried

    async def _deliver(self, job: Job, message: Message) -> None:
        tried = await self._sender.send(
            message.endpoint, message.id, message.event, message.body, job.attempt
        )
        if tried is None:
            return
        found = tried

        async def note(tx: Tx) -> None:
            await self._settle(tx, message.endpoint, [found])

        await self.database.write(note)
        if tried.failure and tried.status != 410:
            raise OutsideFailed(f"The webhook {message.endpoint} was not delivered: {tried.failure}")

    async def _log(self, tx: Tx, id: str, tries: Sequence[Tried]) -> None:
        rows: list[tuple[Any, ...]] = []
        for one in tries[-MAX_LOGGED:]:
            about = (one.message, one.event, one.attempt)
            rows.append((self._ids.uuid(), id, *about, one.status, one.failure[:500], one.took, one.at))
        await tx.execute_many(QUERIES["add_try"], rows)
        await tx.execute(QUERIES["trim_tries"], id, MAX_LOGGED)

    async def _settle(self, tx: Tx, id: str, tries: Sequence[Tried]) -> bool:
        """Write tries down, and what they say of the endpoint; whether it is still on."""
        if not tries:
            return True
        await self._log(tx, id, tries)
        now = self._clock.now()
        failed = [one for one in tries if one.failure]
        if any(one.status == 410 for one in failed):
            # Standard Webhooks: the receiver wants no more.
            await self._switch_off(tx, id, "it answered 410 Gone")
            return False
        if len(failed) < len(tries):
            await tx.execute(QUERIES["well"], id)
            return True
        since = (await read_endpoint(tx, id)).failing_since
        if since is not None and now - since > DISABLE_AFTER * 1000:
            await self._switch_off(tx, id, "nothing arrived for five days")
            return False
        await tx.execute(QUERIES["failing"], id, tries[0].at)
        return True

    async def _switch_off(self, tx: Tx, id: str, why: str) -> None:
        if not await tx.fetch(QUERIES["switch_off"], id, why):
            return
        await self._watch(tx)
        await self._records.bury(tx, id, f"The endpoint was switched off: {why}.")
        entry = Entry(
            action="webhook.switch_off", actor="system", target=f"webhook:{id}", after={"reason": why}
        )
        await self._audit.write(tx, entry)

    async def sweep(self) -> None:
        """Forget what is for nobody, and wake what waits without a job. One transaction."""

        async def sweep(tx: Tx) -> None:
            await self._records.sweep(tx)
            # Of a try that ended after its endpoint was deleted.
            await tx.execute(QUERIES["sweep_tries"])

        await self.database.write(sweep)

    def _body(self, event: str, data: dict[str, Any]) -> str:
        return msgspec.json.encode({"type": event, "timestamp": self._clock.now(), "data": data}).decode()

    def _secret(self) -> bytes:
        return bytes.fromhex(self._ids.token() + self._ids.token())


def _wants(pattern: str, event: str) -> bool:
    return pattern in ("*", event) or (pattern.endswith(".*") and event.startswith(pattern[:-1]))
