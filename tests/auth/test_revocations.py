"""What a session that has ended still does: nothing, also where nobody has heard of its end yet."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from lowtide.app import Lowtide
from lowtide.auth.admin import Admin
from lowtide.auth.model import Signed
from lowtide.storage.db import Query, Row, Tx
from tests.api.client import Answer, Client
from tests.auth.test_account_routes import enter
from tests.auth.test_merging import batch
from tests.auth.world import code, google

pytestmark = pytest.mark.anyio


async def end_unheard(lowtide: Lowtide, signed: Signed, how: str) -> None:
    """What another node has made durable while its hint is on the way."""

    async def work(tx: Tx) -> None:
        if how == "changed":
            await lowtide.accounts.sessions.change(tx, signed.user.id)
            return
        session = await lowtide.accounts.sessions.find(tx, signed.session_id)
        assert session is not None
        await lowtide.accounts.sessions.revoke(tx, session, "user", wipe=True)

    await lowtide.database.write(work)


async def written(client: Client, signed: Signed, id: str) -> list[Answer]:
    """A record by REST and one by an upload."""
    note = {"owner_id": signed.user.id, "title": "late"}
    made = {"id": f"{id}r", "data": note}
    return [
        await client.post("/v1/records/note", json=made, token=signed.access_token),
        await client.post(
            "/v1/sync/batches",
            json=batch(f"phone-{id}", 1, ("put", "note", f"{id}u", note)),
            token=signed.access_token,
        ),
    ]


async def notes(lowtide: Lowtide, client: Client, ann: Signed) -> list[str]:
    """What is there, to a device of Ann's that is signed in."""
    answer = await client.get(
        "/v1/records/note", token=(await enter(lowtide, code("ann@example.com"))).access_token
    )
    return [record["id"] for record in answer.json()["records"]]


class TestWrites:
    @pytest.mark.parametrize(
        ("how", "expected"), [("ended", "session_revoked"), ("changed", "token_expired")]
    )
    async def test_nothing_is_written_after_an_end_that_is_durable(
        self, lowtide: Lowtide, client: Client, how: str, expected: str
    ) -> None:
        """The request was let in, for this node has not heard; the writer looks in its own transaction."""
        ann, bob = (
            await enter(lowtide, code("ann@example.com")),
            await enter(lowtide, code("bob@example.com")),
        )
        assert [answer.status for answer in await written(client, ann, "before")] == [201, 200]
        await end_unheard(lowtide, ann, how)
        lowtide.tokens.verify(ann.access_token)  # nobody has heard
        late, others = await asyncio.gather(written(client, ann, "late"), written(client, bob, "bobs"))
        assert [(answer.status, answer.code) for answer in late] == [(401, expected)] * 2
        if how == "ended":
            assert all(answer.json()["wipe"] for answer in late)
        assert [answer.status for answer in others] == [201, 200], (
            "who writes in the same group is not held up"
        )
        assert await notes(lowtide, client, ann) == ["beforer", "beforeu"]

    async def test_a_new_token_goes_on(self, lowtide: Lowtide, client: Client) -> None:
        """The same upload, sent again with it, is applied: a change of the account loses no write."""
        ann = await enter(lowtide, code("ann@example.com"))
        await end_unheard(lowtide, ann, "changed")
        sent: dict[str, Any] = batch(
            "phone", 1, ("put", "note", "n1", {"owner_id": ann.user.id, "title": "x"})
        )
        refused = await client.post("/v1/sync/batches", json=sent, token=ann.access_token)
        assert (refused.status, refused.code) == (401, "token_expired")
        fresh = await lowtide.accounts.sessions.refresh(ann.refresh_token)
        answer = await client.post("/v1/sync/batches", json=sent, token=fresh.access_token)
        assert [result["status"] for result in answer.json()["results"]] == ["applied"]


class TestAccounts:
    """What changes an account looks in its own transaction, too."""

    @pytest.mark.parametrize(
        ("method", "path", "body"),
        [
            ("PATCH", "/v1/auth/me", {"name": "Mallory"}),
            ("DELETE", "/v1/auth/me", None),
            ("DELETE", "/v1/auth/identities/google/g1", None),
            ("POST", "/v1/auth/sessions/end-others", {}),
            ("PUT", "/v1/auth/me/password", {"password": "seven grey herons wait"}),
            ("POST", "/v1/auth/me/second-factor", None),
            ("PATCH", "/v1/admin/users/{user}", {"name": "Mallory"}),
        ],
    )
    async def test_a_thief_who_was_signed_out_changes_nothing(
        self, lowtide: Lowtide, client: Client, method: str, path: str, body: dict[str, Any] | None
    ) -> None:
        """On a node that has not heard of it, a moment later."""
        await Admin(lowtide.database, lowtide.accounts).make_admin("ann@example.com", "cli:ops")
        await enter(lowtide, google("g1", "ann@example.com"))
        ann = await enter(lowtide, code("ann@example.com"))
        await end_unheard(lowtide, ann, "ended")
        before = await everything(lowtide)
        answer = await client.request(
            method, path.format(user=ann.user.id), json=body, token=ann.access_token
        )
        assert (answer.status, answer.code) == (401, "session_revoked")
        assert await everything(lowtide) == before


async def everything(lowtide: Lowtide) -> list[list[Row]]:
    """What is kept of accounts."""
    texts = [
        f"SELECT * FROM {name} ORDER BY 1" for name in ("users", "identity", "session", "password", "totp")
    ]
    # What the chain adds to an entry comes a moment later.
    queries = [
        Query("test", text, text) for text in (*texts, "SELECT id, action FROM audit_entry ORDER BY 1")
    ]

    async def read(tx: Tx) -> list[list[Row]]:
        return [await tx.fetch(query) for query in queries]

    return await lowtide.database.read(read)
