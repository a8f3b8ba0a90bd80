"""Webhooks: signed as the standard says, sent exactly if the event is durable, to a receiver with faults."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import re
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest

from lowtide.app import QUEUES
from lowtide.audit import COMPONENT as AUDIT
from lowtide.audit import Audit, Entry
from lowtide.egress import Egress
from lowtide.kernel.clock import ManualClock
from lowtide.kernel.errors import AddressRefused, Conflict, OutsideFailed
from lowtide.kernel.ids import SeededIds
from lowtide.storage.bus import MemoryBus
from lowtide.storage.db import Database, Tx
from lowtide.storage.db.migrate import Component, migrate
from lowtide.storage.jobs import Job, Jobs, Worker, store
from lowtide.storage.vault import COMPONENT as STORAGE
from lowtide.storage.vault import Vault
from lowtide.webhooks import COMPONENT, QUEUE, Webhooks
from lowtide.webhooks.model import Endpoint
from lowtide.webhooks.service import BOTH, DISABLE_AFTER, MAX_ENDPOINTS, MAX_LOGGED
from lowtide.webhooks.signature import sign
from lowtide.webhooks.store import QUERIES, listed, read_endpoint
from tests.egress.outside import OK, Outside

pytestmark = pytest.mark.anyio

FAILS = b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n"
GONE = b"HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n"


class World:
    """Webhooks on a database, and the receiver."""

    def __init__(
        self, database: Database, outside: Outside, clock: ManualClock, ids: SeededIds, vault: Vault
    ):
        self.database, self.outside, self.clock = database, outside, clock
        self.jobs = Jobs(database, MemoryBus(), clock, ids)
        self.audit = Audit(clock, ids)
        self.url = f"http://127.0.0.1:{outside.port}/hook"
        # One receiver that stands for several: as many requests at a time as there are jobs.
        egress = Egress(allowed=(f"127.0.0.1:{outside.port}",), per_host=sum(QUEUES.values()))
        self.webhooks = Webhooks(database, self.jobs, vault, egress, self.audit, clock, ids)
        self.audit.tell = self.webhooks.heard

    async def add(self, *events: str) -> tuple[Endpoint, str]:
        return await self.database.write(lambda tx: self.webhooks.add(tx, self.url, list(events)))

    async def happens(self, action: str) -> None:
        entry = Entry(
            action=action, actor="user:ann", target="user:bob", personal={"email": "bob@example.com"}
        )
        await self.database.write(lambda tx: self.audit.write(tx, entry))

    async def deliver(self) -> list[bool]:
        """Run each waiting message once, as a worker does: which arrived."""
        arrived = []
        now = self.clock.now()
        kinds = ["webhooks.deliver"]
        for job in await self.database.write(
            lambda tx: store.claim(tx, QUEUE, kinds, 1000, now=now, until=now + 60_000, worker="w")
        ):
            held = (job.id, job.fence)
            handler = self.jobs.handler(job.kind)
            try:
                await handler.call(job, handler.decode(job.payload))
            except OutsideFailed as error:
                told = error.message
                await self.database.write(partial(store.retry, held=held, due_at=now, error=told))
                arrived.append(False)
            else:
                await self.database.write(partial(store.complete, held=held, now=now))
                arrived.append(True)
        return arrived

    async def find(self, id: str) -> Endpoint:
        return await self.database.read(lambda tx: read_endpoint(tx, id))


@pytest.fixture
async def world(database: Database, clock: ManualClock, ids: SeededIds) -> AsyncIterator[World]:
    await migrate(database, [Component("jobs", "lowtide.storage.jobs"), STORAGE, AUDIT, COMPONENT], clock)
    vault = Vault(database, clock, ids, b"k" * 32)
    await vault.load()
    async with Outside().serving() as outside:
        yield World(database, outside, clock, ids, vault)


async def test_a_receiver_that_is_silent_holds_up_no_other_job(
    world: World, ids: SeededIds, clock: ManualClock
) -> None:
    """However many messages wait for it, a mail goes out."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    world.outside.answer = silent
    await world.add("*")
    for _ in range(2 * sum(QUEUES.values())):
        await world.happens("user.create")
    sent = asyncio.Event()

    async def mail(_job: Job, _payload: None) -> None:
        sent.set()

    world.jobs.register("mail", type(None), mail, deadline=10)
    worker = Worker(world.database, MemoryBus(), world.jobs, clock, ids, queues=QUEUES, poll=0.05)
    await worker.start()
    try:
        async with asyncio.timeout(5):
            while world.outside.connections < QUEUES[QUEUE]:
                await asyncio.sleep(0.01)
            await world.database.write(lambda tx: world.jobs.enqueue(tx, "mail"))
            await sent.wait()
    finally:
        await worker.stop(within=0.5)


def verify(secret: str, head: bytes, body: bytes) -> list[bool]:
    """As a receiver's library does it: whether each signature in the header is one of ``secret``."""
    found = dict(re.findall(rb"\r\n(webhook-[a-z]+): ([^\r]+)", head))
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = b".".join([found[b"webhook-id"], found[b"webhook-timestamp"], body])
    wanted = b"v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest())
    return [hmac.compare_digest(wanted, one) for one in found[b"webhook-signature"].split(b" ")]


def test_the_signature_is_that_of_the_standard() -> None:
    """The vector that the reference libraries of Standard Webhooks are tested with."""
    secret = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    found = sign(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert found == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


async def test_an_event_arrives_signed_and_names_nobody(world: World) -> None:
    """It holds what happened and ids; no personal data, which the audit log keeps apart."""
    endpoint, secret = await world.add("user.*")
    await world.happens("user.create")
    assert await world.deliver() == [True]
    ((head, body),) = world.outside.requests
    assert verify(secret, head, body) == [True]
    told = json.loads(body)
    assert told["type"] == "user.create"
    assert told["data"] == {"target": "user:bob", "actor": "user:ann", "space": "main"}
    assert b"example.com" not in body
    (one,) = await world.database.read(lambda tx: world.webhooks.tries(tx, endpoint.id))
    assert (one.status, one.error, one.event) == (200, "", "user.create")


async def test_only_what_is_wanted_is_sent(world: World) -> None:
    """By exact name, by kind, or all; nothing to an endpoint that is off."""
    await world.add("session.end")
    await world.happens("session.open")
    await world.happens("user.create")
    assert await world.deliver() == []
    everything, _ = await world.add("*")
    await world.happens("session.end")
    assert await world.deliver() == [True, True]
    await world.database.write(lambda tx: world.webhooks.enable(tx, everything.id, False))
    await world.happens("session.end")
    assert await world.deliver() == [True]


async def test_many_entries_cost_no_more_statements_than_one(world: World) -> None:
    """A group that lets a thousand into a team holds the others up as little with webhooks as without."""
    await world.add("*")
    await world.add("grant.*")
    said: list[str] = []

    class Counting:
        def __init__(self, tx: Tx):
            self._tx = tx

        def __getattr__(self, name: str) -> Any:
            said.append(name)
            return getattr(self._tx, name)

    entries = [Entry(action="grant.give", actor="user:ann", target=f"user:{n}") for n in range(3)]

    async def write(tx: Tx) -> None:
        counting: Any = Counting(tx)
        await world.webhooks.heard(counting, [*entries, Entry(action="user.create", actor="user:ann")])

    await world.database.write(write)
    assert said == ["fetch", "execute_many"]
    assert await world.deliver() == [True] * 7
    ids = [re.findall(rb"webhook-id: (\S+)", head)[0] for head, _ in world.outside.requests]
    assert len(set(ids)) == 4, "a message has one id, whoever hears of it"


async def test_what_is_rolled_back_is_not_sent(world: World) -> None:
    """A message exists exactly if its event is durable."""
    await world.add("*")

    async def fails(tx: Tx) -> None:
        await world.audit.write(tx, Entry(action="user.create", actor="user:ann"))
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        await world.database.write(fails)
    assert await world.deliver() == []


async def test_a_failed_message_is_sent_again_as_the_same(world: World) -> None:
    """The id stays over all tries, so that a receiver can tell; each try has its line."""
    endpoint, secret = await world.add("*")
    await world.happens("user.create")
    for answer in (FAILS, b"nonsense", b""):
        world.outside.answer = answer
        assert await world.deliver() == [False]
        world.clock.advance(1)
    assert (await world.find(endpoint.id)).failing_since == world.clock.now() - 3000
    world.outside.answer = OK
    assert await world.deliver() == [True]
    assert (await world.find(endpoint.id)).failing_since is None
    ids = {re.findall(rb"webhook-id: (\S+)", head)[0] for head, _ in world.outside.requests}
    assert len(ids) == 1
    assert verify(secret, *world.outside.requests[-1]) == [True]
    tries = await world.database.read(lambda tx: world.webhooks.tries(tx, endpoint.id))
    assert [one.status for one in tries] == [200, 0, 0, 500]


async def test_a_redirect_is_not_followed(world: World) -> None:
    """It is a failure: the signed message goes to nobody else."""
    await world.add("*")
    world.outside.answer = b"HTTP/1.1 302 Found\r\nlocation: /other\r\ncontent-length: 0\r\n\r\n"
    await world.happens("user.create")
    assert await world.deliver() == [False]
    assert world.outside.connections == 1


async def test_after_a_rotation_both_secrets_sign_for_a_day(world: World) -> None:
    """A receiver may change over whenever it likes within it; then the old one is gone."""
    endpoint, old = await world.add("*")
    new = await world.database.write(lambda tx: world.webhooks.rotate(tx, endpoint.id))
    await world.happens("user.create")
    await world.deliver()
    assert verify(old, *world.outside.requests[-1]) == [False, True]
    assert verify(new, *world.outside.requests[-1]) == [True, False]
    world.clock.advance(BOTH + 1)
    await world.happens("user.create")
    await world.deliver()
    assert verify(old, *world.outside.requests[-1]) == [False]
    assert verify(new, *world.outside.requests[-1]) == [True]


async def test_an_endpoint_that_is_gone_is_switched_off(world: World) -> None:
    """410 at once; days of nothing but failures in the end. What waits for it is then not tried."""
    first, _ = await world.add("user.create")
    world.outside.answer = GONE
    await world.happens("user.create")
    assert await world.deliver() == [True]
    found = await world.find(first.id)
    assert (found.enabled, found.reason) == (False, "it answered 410 Gone")
    second, _ = await world.add("user.change")
    world.outside.answer = FAILS
    await world.happens("user.change")
    assert await world.deliver() == [False]
    world.clock.advance(DISABLE_AFTER - 1)
    assert await world.deliver() == [False]
    assert (await world.find(second.id)).enabled
    world.clock.advance(10)
    assert await world.deliver() == [False]
    assert not (await world.find(second.id)).enabled
    before = world.outside.connections
    assert await world.deliver() == [True]
    assert world.outside.connections == before


async def test_tries_and_endpoints_are_bounded(world: World) -> None:
    """The log keeps the last tries, and there is an end to endpoints."""
    endpoint, _ = await world.add("*")
    for _ in range(MAX_LOGGED + 5):
        await world.database.write(lambda tx: world.webhooks.test(tx, endpoint.id))
    await world.deliver()
    assert len(await world.database.read(lambda tx: world.webhooks.tries(tx, endpoint.id))) == MAX_LOGGED
    for _ in range(MAX_ENDPOINTS - 1):
        await world.add("user.create")
    with pytest.raises(Conflict):
        await world.add("user.create")


@pytest.mark.parametrize(
    "url", ["https://169.254.169.254/", "http://example.com/", "https://localhost/", "x"]
)
async def test_an_address_inside_is_no_webhook(world: World, url: str) -> None:
    """Refused when it is named, and nothing is kept."""
    with pytest.raises(AddressRefused):
        await world.database.write(lambda tx: world.webhooks.add(tx, url, ["*"]))
    assert await world.database.read(listed) == []


async def test_secrets_are_sealed(world: World) -> None:
    """The table does not hold what receivers verify with."""
    endpoint, secret = await world.add("*")
    (row,) = await world.database.read(lambda tx: tx.fetch(QUERIES["endpoint"], endpoint.id))
    assert secret.removeprefix("whsec_") not in repr(list(row))
    assert str(row[3]).startswith("sealed1.")
