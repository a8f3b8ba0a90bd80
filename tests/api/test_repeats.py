"""The Idempotency-Key: sent twice, done once, answered twice, on both databases."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from typing import Any

import pytest

from lowtide.api.edge import Edge
from lowtide.api.limits import Load
from lowtide.api.logs import AccessLog
from lowtide.api.origins import Hosts
from lowtide.api.repeats import read_key
from lowtide.kernel.clock import ManualClock
from lowtide.kernel.errors import Conflict, KeyMissing, Malformed, Unauthorized
from lowtide.kernel.http import Request, Response, Route
from lowtide.kernel.ids import SeededIds
from lowtide.kernel.schema import Principal
from lowtide.storage.db import Database, Query, Tx
from lowtide.storage.db.migrate import migrate
from lowtide.storage.once import KEPT, MAX_ANSWER, SPARE, Once
from lowtide.storage.vault import COMPONENT, Vault
from tests.api.client import Answer, Client

pytestmark = pytest.mark.anyio

KEY = {"idempotency-key": '"8e03978e-40d5-43dd-bc93-6894a57f9324"'}
USERS = {
    "ann": Principal(user="ann"),
    "bob": Principal(user="bob"),
    "far": Principal(user="ann", space="far"),
}


def authenticate(token: str) -> Principal:
    if token not in USERS:
        raise Unauthorized
    return USERS[token]


class Shop:
    """Handlers that count how often they work."""

    def __init__(self, database: Database):
        self.database = database
        self.orders = 0
        self.gate: asyncio.Event | None = None
        self.entered = asyncio.Event()
        self.fails: Callable[[], None] | None = None

    async def order(self, request: Request[dict[str, Any], None]) -> Response:
        self.orders += 1
        self.entered.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.fails is not None:
            self.fails()
        headers = {"location": f"/orders/{self.orders}"}
        return Response(status=201, body={"order": self.orders, "sent": request.body}, headers=headers)

    async def atomic(self, request: Request[dict[str, Any], None]) -> dict[str, int]:
        """One row and the answer, in one transaction; then it crashes if it is told to."""
        mine = self.orders = self.orders + 1
        answer = {"order": mine}

        async def work(tx: Tx) -> None:
            await tx.execute(Query("q", *[f"INSERT INTO made (n) VALUES ({mark}1)" for mark in "?$"]), mine)
            if request.keep is not None:
                await request.keep(tx, answer)

        if self.gate is not None:
            self.entered.set()
            await self.gate.wait()
        await self.database.write(work)
        if self.fails is not None:
            self.fails()
        return answer

    async def big(self, request: Request[None, None]) -> Response:
        self.orders += 1
        return Response(body=b"x" * (MAX_ANSWER + 1), media_type="text/plain")

    async def nothing(self, request: Request[None, None]) -> None:
        self.orders += 1

    def routes(self) -> list[Route]:
        return [
            Route("POST", "/orders", self.order, body=dict[str, Any], status=201),
            Route("POST", "/atomic", self.atomic, body=dict[str, Any]),
            Route("POST", "/big", self.big),
            Route("POST", "/nothing", self.nothing),
            Route("POST", "/needed", self.nothing, key="required"),
            Route("POST", "/own", self.nothing, key="none"),
            Route("POST", "/v1/auth/sign-in", self.order, body=dict[str, Any], auth="none"),
            Route("GET", "/orders", self.nothing),
        ]


@pytest.fixture
async def shop(database: Database, clock: ManualClock) -> Shop:
    await migrate(database, [COMPONENT], clock)

    async def table(tx: Tx) -> None:
        await tx.execute(Query("q", *["CREATE TABLE made (n BIGINT)"] * 2))

    await database.write(table)
    return Shop(database)


@pytest.fixture
async def once(shop: Shop, clock: ManualClock, ids: SeededIds) -> Once:
    vault = Vault(shop.database, clock, ids, b"k" * 32)
    await vault.load()
    return Once(shop.database, clock, vault)


@pytest.fixture
def client(shop: Shop, once: Once, clock: ManualClock, ids: SeededIds) -> Client:
    edge = Edge(
        shop.routes(),
        authenticate=authenticate,
        clock=clock,
        ids=ids,
        hosts=Hosts(["localhost"]),
        access=AccessLog(clock, ids),
        load=Load(),
        once=once,
    )
    return Client(edge)


async def made(shop: Shop) -> int:
    async def work(tx: Tx) -> int:
        return int((await tx.fetch(Query("q", *["SELECT COUNT(*) FROM made"] * 2)))[0][0])

    return await shop.database.read(work)


async def order(client: Client, path: str = "/orders", token: str | None = "ann", **body: Any) -> Answer:
    return await client.post(path, json=body, headers=KEY, token=token)


async def test_a_repeat_is_answered_as_the_first_was(client: Client, shop: Shop) -> None:
    """Status, headers and body come again, the work is done once, and the answer says that it is a repeat."""
    first = await order(client, item="tea")
    again = await order(client, item="tea")
    assert (first.status, again.status) == (201, 201)
    assert again.body == first.body
    assert again.headers["location"] == first.headers["location"] == "/orders/1"
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["x-request-id"] != first.headers["x-request-id"]
    assert shop.orders == 1


async def test_without_a_key_each_request_counts(client: Client, shop: Shop) -> None:
    """Nothing is remembered that was not asked for."""
    for _ in range(2):
        assert (await client.post("/orders", json={}, token="ann")).status == 201
    assert shop.orders == 2


async def test_an_empty_answer_is_repeated_too(client: Client, shop: Shop) -> None:
    """204 has no body, then as now."""
    answers = [await client.post("/nothing", headers=KEY, token="ann") for _ in range(2)]
    assert [(answer.status, answer.body) for answer in answers] == [(204, b"")] * 2
    assert shop.orders == 1


async def test_other_content_under_the_same_key_is_refused(client: Client, shop: Shop) -> None:
    """422, and the first answer stays."""
    await order(client, item="tea")
    refused = await order(client, item="coffee")
    assert (refused.status, refused.code) == (422, "key_reused")
    assert (await order(client, item="tea")).json()["order"] == 1
    assert shop.orders == 1


async def test_keys_of_others_are_others(client: Client, shop: Shop) -> None:
    """Another user, another space, another address: the same key, another request."""
    answers = [await order(client, token=token) for token in ("ann", "bob", "far")]
    assert [answer.json()["order"] for answer in answers] == [1, 2, 3]
    assert (await client.post("/nothing", headers=KEY, token="ann")).status == 204
    assert shop.orders == 4


async def test_a_request_under_way_is_not_begun_again(client: Client, shop: Shop) -> None:
    """409 until it is answered, then its answer."""
    shop.gate = asyncio.Event()
    running = asyncio.create_task(order(client, item="tea"))
    await shop.entered.wait()
    refused = await order(client, item="tea")
    assert (refused.status, refused.code) == (409, "key_in_flight")
    assert refused.json()["retry_after"] >= 1
    shop.gate.set()
    assert (await running).json()["order"] == 1
    assert (await order(client, item="tea")).json()["order"] == 1
    assert shop.orders == 1


async def test_many_at_once_are_done_once(client: Client, shop: Shop) -> None:
    """Whoever comes first works; the others hear 409, or the answer."""
    answers = await asyncio.gather(*(order(client, item="tea") for _ in range(20)))
    assert shop.orders == 1
    assert {answer.status for answer in answers} <= {201, 409}
    assert sum(answer.status == 201 for answer in answers) >= 1


async def test_a_refused_request_may_be_sent_again(client: Client, shop: Shop) -> None:
    """Errors are not kept: nothing was done, and the next try may succeed."""

    def fails() -> None:
        raise Conflict("not now")

    shop.fails = fails
    assert (await order(client)).code == "conflict"
    shop.fails = None
    assert (await order(client)).status == 201
    assert shop.orders == 2


async def test_a_crash_before_the_work_ends_the_lease(
    client: Client, shop: Shop, once: Once, clock: ManualClock
) -> None:
    """A process that died leaves the key locked for the request's deadline, and not for ever."""
    began = await once.begin("main/ann/", "/orders", KEY["idempotency-key"].strip('"'), b"\0{}", 30)
    assert not isinstance(began, Response)
    assert (await order(client)).code == "key_in_flight"
    clock.advance(30 + SPARE + 1)
    assert (await order(client)).status == 201
    assert shop.orders == 1


async def test_what_a_transaction_kept_is_never_done_again(client: Client, shop: Shop) -> None:
    """The answer is lost after the commit: the repeat has the first answer, and there is one row."""

    def dies() -> None:
        raise RuntimeError("the process is killed here")

    shop.fails = dies
    assert (await order(client, "/atomic", item="tea")).status == 500
    shop.fails = None
    again = await order(client, "/atomic", item="tea")
    assert (again.status, again.json()) == (200, {"order": 1})
    assert await made(shop) == 1


async def test_two_tries_that_both_reach_the_end_commit_once(
    client: Client, shop: Shop, clock: ManualClock
) -> None:
    """A first try that outlived its lease, and the second that began after it: one of them is undone."""
    shop.gate = asyncio.Event()
    slow = asyncio.create_task(order(client, "/atomic"))
    await shop.entered.wait()
    clock.advance(30 + SPARE + 1)
    quick = asyncio.create_task(order(client, "/atomic"))
    while shop.orders < 2:
        await asyncio.sleep(0)
    shop.gate.set()
    answers = await asyncio.gather(slow, quick)
    assert sorted(answer.status for answer in answers) == [200, 409]
    assert await made(shop) == 1


async def test_an_answer_too_large_to_keep_is_not_worked_for_again(client: Client, shop: Shop) -> None:
    """The repeat hears that it is done."""
    assert (await client.post("/big", headers=KEY, token="ann")).status == 200
    again = await client.post("/big", headers=KEY, token="ann")
    assert (again.status, again.code) == (409, "conflict")
    assert shop.orders == 1


async def test_answers_are_sealed_and_forgotten(
    client: Client, shop: Shop, once: Once, clock: ManualClock
) -> None:
    """The table shows neither answers nor keys; after a day the key is free."""
    assert (await order(client, "/v1/auth/sign-in", None, password="hunter2hunter2")).status == 201

    async def rows(tx: Tx) -> str:
        return repr(await tx.fetch(Query("q", *["SELECT scope, fingerprint, answer, until FROM once"] * 2)))

    shown = await shop.database.read(rows)
    assert "sealed1." in shown
    for secret in ("hunter2", "8e03978e", "order", "location"):
        assert secret not in shown
    assert await once.purge() == 0
    clock.advance(KEPT + 1)
    assert await once.purge() == 1
    assert (await order(client, "/v1/auth/sign-in", None, password="other")).status == 201


async def test_what_was_sent_cannot_be_guessed_from_the_table(client: Client, shop: Shop) -> None:
    """A body may hold a password: its digest is keyed by what is not in the table."""
    sent = b'{"password":"hunter2hunter2"}'
    assert (await order(client, "/v1/auth/sign-in", None, password="hunter2hunter2")).status == 201

    async def rows(tx: Tx) -> Any:
        return await tx.fetch(Query("q", *["SELECT fingerprint FROM once"] * 2))

    ((fingerprint,),) = await shop.database.read(rows)
    guesses = [b"\0" + sent, sent, b"\0" + sent.replace(b":", b": ")]
    assert fingerprint not in {hashlib.sha256(guess).hexdigest() for guess in guesses}


async def test_strangers_do_not_share_an_answer(client: Client, shop: Shop) -> None:
    """Without a token nothing but the key tells two phones apart: one that others may choose is refused."""
    weak = {"idempotency-key": "1"}
    for _ in range(2):
        answer = await client.post("/v1/auth/sign-in", json={}, headers=weak)
        assert (answer.status, answer.code) == (400, "malformed")
    assert shop.orders == 0
    assert (await client.post("/orders", json={}, headers=weak, token="ann")).status == 201


async def test_an_address_may_want_a_key_or_none(client: Client, shop: Shop) -> None:
    """Wanted: 400 without one. Not wanted: each request counts."""
    assert (await client.post("/needed", token="ann")).code == "key_missing"
    assert (await client.post("/needed", token="ann", headers=KEY)).status == 204
    again = await client.post("/needed", token="ann", headers=KEY)
    assert again.headers["idempotency-replayed"] == "true"
    for _ in range(2):
        assert (await client.post("/own", token="ann", headers=KEY)).status == 204
    assert shop.orders == 3


@pytest.mark.parametrize(
    "header", [b"", b'""', b'"a', b'a"b', b"a b", b"a,b", b"\xc3\xa9", b"a" * 256, b"a\tb"]
)
def test_a_key_that_is_none_is_refused(header: bytes) -> None:
    """One token, bare or in quotes, of a bounded length."""
    with pytest.raises(Malformed):
        read_key(header, needed=False)


def test_quotes_do_not_count() -> None:
    """The draft's form and the bare one name the same key."""
    assert read_key(b'"a-1"', needed=True) == read_key(b"a-1", needed=False) == "a-1"
    assert read_key(None, needed=False) is None
    with pytest.raises(KeyMissing):
        read_key(None, needed=True)


async def test_a_bad_key_is_a_bad_request(client: Client, shop: Shop) -> None:
    """And so are two of them; the handler is not run."""
    assert (await client.post("/nothing", token="ann", headers={"idempotency-key": "a b"})).status == 400
    pairs = [("idempotency-key", "a"), ("idempotency-key", "b"), ("authorization", "Bearer ann")]
    assert (await client.post("/nothing", headers=pairs)).status == 400
    assert shop.orders == 0
