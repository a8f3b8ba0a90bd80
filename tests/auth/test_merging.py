"""Merging and deleting accounts: no write is lost, nothing is applied twice, and nobody else is touched."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import msgspec
import pytest

from lowtide.app import Lowtide
from lowtide.auth.deletion import PURGE
from lowtide.auth.merging import SWEEP
from lowtide.auth.model import Proof, Signed
from lowtide.kernel.errors import TokenExpired
from lowtide.storage.db import Query, Tx
from lowtide.sync.uploads import SentBatch
from tests.api.client import Answer, Client
from tests.auth.test_account_routes import enter, problem
from tests.auth.world import ask_for, code

pytestmark = pytest.mark.anyio

Change = tuple[str, str, str, dict[str, Any]]


def batch(client_id: str, first: int, *changes: Change) -> dict[str, Any]:
    """One upload; each change is a transaction of its own."""
    return {
        "client_id": client_id,
        "transactions": [
            {"mutations": [{"n": first + i, "op": op, "model": model, "id": id, "data": data}]}
            for i, (op, model, id, data) in enumerate(changes)
        ],
    }


LEFT = [
    Query(name, *[text] * 2)
    for name, text in (
        ("record", "SELECT id FROM record WHERE model = 'membership' AND deleted = 0 AND $1 != ''"),
        ("user", "SELECT id FROM users WHERE id = $1"),
        (
            "audit",
            "SELECT id FROM audit_entry JOIN audit_detail ON entry = id WHERE salt IS NOT NULL "
            "AND action != 'audit.erase' AND target = $1",
        ),
    )
]
"""What a deletion must not leave of the user ``$1``."""


PASSKEY = Query(
    "passkey",
    *["INSERT INTO passkey VALUES ($1, $1, 'h', '', 0, '', '[]', 0, 0, $2, 1, 1)"] * 2,
)


class Shop:
    """The app with a guest and somebody who has an account, both on the same phone."""

    def __init__(self, lowtide: Lowtide, client: Client, guest: Signed, ann: Signed):
        self.lowtide = lowtide
        self.client = client
        self.guest = guest
        self.ann = ann

    async def upload(self, who: Signed, body: dict[str, Any]) -> list[str]:
        """What became of each mutation."""
        answer = await self.client.post("/v1/sync/batches", json=body, token=who.access_token)
        assert answer.status == 200, answer.body
        return [result["status"] for result in answer.json()["results"]]

    async def held(self, who: Signed) -> dict[str, dict[str, Any]]:
        """The rows that a user receives, by model and id."""
        answer = await self.client.post("/v1/sync/pull", json={}, token=who.access_token)
        assert answer.status == 200, answer.body
        rows = answer.json()["rows"]
        return {f"{row['model']}/{row['id']}": row["data"] for row in rows if row["data"] is not None}

    async def merge(self, token: str | None = None, *, by: Signed | None = None) -> Answer:
        body = {"token": token or self.guest.refresh_token}
        return await self.client.post("/v1/auth/merge", json=body, token=(by or self.ann).access_token)

    async def merged(self) -> Signed:
        """Merge; Ann's new tokens."""
        answer = await self.merge()
        assert answer.status == 200, answer.body
        return msgspec.structs.replace(self.ann, access_token=answer.json()["signed"]["access_token"])

    async def run(self, kind: str, **payload: Any) -> None:
        """Run a job that is due later."""
        handler = self.lowtide.jobs.handler(kind)
        await handler.call(None, handler.decode(msgspec.json.encode(payload).decode()))  # type: ignore[arg-type]


@pytest.fixture
async def shop_at_work(lowtide: Lowtide, client: Client) -> Shop:
    guest = await lowtide.accounts.sign_in.anonymous(ask_for())
    return Shop(lowtide, client, guest, await enter(lowtide, code("ann@example.com")))


@pytest.fixture
def shop(shop_at_work: Shop) -> Shop:
    return shop_at_work


class TestMerge:
    async def test_everything_of_the_guest_becomes_anns(self, shop: Shop) -> None:
        """By stream, by lookup and by rule alike; her own records and strangers' stay as they are."""
        old, new = shop.guest.user.id, shop.ann.user.id
        bob = await enter(shop.lowtide, code("bob@example.com"))
        assert (
            await shop.upload(
                shop.guest,
                batch(
                    "phone",
                    1,
                    ("put", "note", "n1", {"owner_id": old, "title": "guest's"}),
                    ("put", "membership", "m1", {"user_id": old, "team_id": "red"}),
                    ("put", "task", "t1", {"team_id": "red", "made_by": old, "title": "tidy"}),
                    ("put", "post", "p1", {"author_id": old, "text": "hello"}),
                ),
            )
            == ["applied"] * 4
        )
        await shop.upload(
            shop.ann, batch("tablet", 1, ("put", "note", "n2", {"owner_id": new, "title": "hers"}))
        )
        await shop.upload(
            bob, batch("b", 1, ("put", "post", "p2", {"author_id": bob.user.id, "text": "bob's"}))
        )
        answer = await shop.merge()
        assert answer.status == 200, answer.body
        assert (answer.json()["records"], answer.json()["left"]) == (4, [])
        held = await shop.held(shop.ann)
        assert held["note/n1"]["owner_id"] == held["note/n2"]["owner_id"] == new
        assert held["membership/m1"]["user_id"] == new
        assert held["task/t1"]["made_by"] == new
        assert held["post/p1"]["author_id"] == new
        assert held["post/p2"]["author_id"] == bob.user.id
        ann = await enter(shop.lowtide, code("ann@example.com"))
        assert ann.user.id == new

    async def test_what_was_queued_offline_arrives(self, shop: Shop) -> None:
        """Written under the old id, sent with the new token: applied as the new user's, not refused."""
        old, new = shop.guest.user.id, shop.ann.user.id
        await shop.upload(
            shop.guest, batch("phone", 1, ("put", "note", "n1", {"owner_id": old, "title": "one"}))
        )
        ann = await shop.merged()
        assert shop.lowtide.tokens.verify(ann.access_token).aliases == (old,)
        assert (
            await shop.upload(
                ann,
                batch(
                    "phone",
                    2,
                    ("put", "note", "n2", {"owner_id": old, "title": "offline"}),
                    ("patch", "note", "n1", {"title": "changed offline"}),
                    ("put", "post", "p1", {"author_id": old, "text": "offline"}),
                ),
            )
            == ["applied"] * 3
        )
        held = await shop.held(ann)
        assert held["note/n2"] | {"seen": 0} == {"owner_id": new, "title": "offline", "seen": 0}
        assert held["note/n1"]["title"] == "changed offline"
        assert held["post/p1"]["author_id"] == new

    async def test_rest_reads_a_former_id_as_uploads_do(self, shop: Shop) -> None:
        """In a new record, in its repeat, in a change, in several writes, and in a list's filter."""
        old, new = shop.guest.user.id, shop.ann.user.id
        token = (await shop.merged()).access_token

        async def post(path: str, body: dict[str, Any], status: int) -> dict[str, Any]:
            answer = await shop.client.post(f"/v1/records{path}", json=body, token=token)
            assert answer.status == status, answer.body
            return dict(answer.json())

        sent = {"id": "n1", "data": {"owner_id": old, "title": "offline"}}
        made = await post("/note", sent, 201)
        assert made["data"]["owner_id"] == new
        assert (await post("/note", sent, 200))["data"]["owner_id"] == new
        changed = await shop.client.request(
            "PATCH",
            "/v1/records/note/n1",
            json={"data": {"title": "later", "owner_id": old}, "base": {"owner_id": old, "title": "offline"}},
            token=token,
        )
        assert (changed.status, changed.json()["data"]["owner_id"]) == (200, new)
        writes = [{"op": "create", "model": "post", "id": "p1", "data": {"author_id": old, "text": "hi"}}]
        await post("", {"writes": writes}, 200)
        held = await shop.held(shop.ann)
        assert (held["note/n1"]["owner_id"], held["post/p1"]["author_id"]) == (new, new)

        async def listed(token: str, text: str) -> list[str]:
            answer = await shop.client.get(f"/v1/records/post?filter={quote(text)}&count=true", token=token)
            assert answer.status == 200, answer.body
            return [record["id"] for record in answer.json()["records"]]

        for text in (f'author_id = "{old}"', f'not author_id != "{old}"', f'author_id in ("x", "{old}")'):
            assert await listed(token, text) == ["p1"], text
        assert await listed(token, f'text = "{old}"') == []
        bob = await enter(shop.lowtide, code("bob@example.com"))
        assert await listed(bob.access_token, f'author_id = "{old}"') == [], (
            "it is Ann's former id, not Bob's"
        )

    async def test_a_strangers_id_is_not_a_former_one(self, shop: Shop) -> None:
        """Only ids that were merged into hers are read as hers."""
        bob = await enter(shop.lowtide, code("bob@example.com"))
        ann = await shop.merged()
        body = batch("phone", 1, ("put", "note", "n1", {"owner_id": bob.user.id, "title": "x"}))
        assert await shop.upload(ann, body) == ["refused"]

    async def test_a_repeat_of_what_was_applied_is_not_applied_again(self, shop: Shop) -> None:
        """The answer was lost, the accounts were merged, the phone sends again with the new token."""
        old = shop.guest.user.id
        await shop.upload(
            shop.guest, batch("phone", 1, ("put", "note", "n1", {"owner_id": old, "title": "x"}))
        )
        again = batch("phone", 2, ("patch", "note", "n1", {"seen": 5}))
        again["transactions"][0]["mutations"][0]["base"] = {"seen": 0}
        first = await shop.upload(shop.guest, again)
        ann = await shop.merged()
        assert await shop.upload(ann, again) == first
        assert (await shop.held(ann))["note/n1"]["seen"] == 5

    async def test_the_guests_name_is_forgotten(self, shop: Shop) -> None:
        """Nothing personal stays in the row of who is no more: a deletion does not find it again."""
        token = shop.guest.access_token
        named = await shop.client.request("PATCH", "/v1/auth/me", json={"name": "Ann Guest"}, token=token)
        assert named.status == 200
        await shop.merged()
        work = shop.lowtide.accounts.users.find
        old = await shop.lowtide.database.read(lambda tx: work(tx, shop.guest.user.id))
        assert old is not None
        assert (old.status, old.name) == ("merged", None)

    async def test_old_tokens_lead_to_the_new_user(self, shop: Shop) -> None:
        """The old access token is refused as expired, the old refresh token brings the new user's."""
        ann = await shop.merged()
        refused = await shop.client.post("/v1/sync/pull", json={}, token=shop.guest.access_token)
        problem(refused, 401, "token_expired")
        fresh = await shop.lowtide.accounts.sessions.refresh(shop.guest.refresh_token)
        assert fresh.user.id == ann.user.id
        assert shop.lowtide.tokens.verify(fresh.access_token).aliases == (shop.guest.user.id,)

    async def test_nothing_is_written_as_who_is_no_more(self, shop: Shop) -> None:
        """A node that has not heard of the merge yet lets the old token in: the writer does not."""
        stale = shop.lowtide.tokens.verify(shop.guest.access_token)
        body = batch("phone", 1, ("put", "note", "n1", {"owner_id": stale.user, "title": "late"}))
        sent = msgspec.convert(body, SentBatch)
        ann = await shop.merged()
        with pytest.raises(TokenExpired):
            await shop.lowtide.sync.upload(stale, sent)
        assert await shop.upload(ann, body) == ["applied"]
        assert (await shop.held(ann))["note/n1"]["owner_id"] == ann.user.id

    async def test_what_came_in_between_is_swept_up(self, shop: Shop) -> None:
        """A record that still names the old id a quarter of an hour later becomes the new user's, too."""
        old, new = shop.guest.user.id, shop.ann.user.id
        ann = await shop.merged()
        server = shop.lowtide.tokens.sign("app", server=True)
        body = batch("server", 1, ("put", "note", "n1", {"owner_id": old, "title": "late"}))
        assert (await shop.client.post("/v1/sync/batches", json=body, token=server)).status == 200
        assert "note/n1" not in await shop.held(ann)
        await shop.run(SWEEP, old=old, new=new, spaces=["main"])
        assert (await shop.held(ann))["note/n1"]["owner_id"] == new

    async def test_a_repeated_merge_is_answered_like_the_first(self, shop: Shop) -> None:
        """Its answer was lost: the same token again, and new tokens once more."""
        await shop.merged()
        again = await shop.merge()
        assert again.status == 200, again.body
        token = again.json()["signed"]["access_token"]
        assert shop.lowtide.tokens.verify(token).aliases == (shop.guest.user.id,)
        users = await shop.lowtide.database.read(
            lambda tx: shop.lowtide.accounts.users.aliases(tx, shop.ann.user.id)
        )
        assert users == (shop.guest.user.id,)

    async def test_what_the_user_has_already_stays(self, shop: Shop) -> None:
        """A unique value that is taken: the guest's record is kept as it was, and named in the answer."""
        old, new = shop.guest.user.id, shop.ann.user.id
        await shop.upload(
            shop.guest, batch("phone", 1, ("put", "membership", "m1", {"user_id": old, "team_id": "red"}))
        )
        await shop.upload(
            shop.ann, batch("tablet", 1, ("put", "membership", "m2", {"user_id": new, "team_id": "red"}))
        )
        answer = (await shop.merge()).json()
        assert answer["records"] == 0
        assert [(one["model"], one["id"]) for one in answer["left"]] == [("membership", "m1")]
        assert "membership/m2" in await shop.held(shop.ann)

    @pytest.mark.parametrize("kind", ["refresh", "access"])
    async def test_both_proofs_are_needed(self, shop: Shop, kind: str) -> None:
        """The guest's own token, valid and of a guest: nobody takes another account over."""
        bob = await enter(shop.lowtide, code("bob@example.com"))
        token = bob.refresh_token if kind == "refresh" else bob.access_token
        problem(await shop.merge(token), 409, "conflict")
        forged = shop.guest.refresh_token[:-2] + "zz"
        problem(await shop.merge(forged), 401, "invalid_grant")
        problem(await shop.merge(shop.lowtide.tokens.sign(shop.guest.user.id)), 401, "invalid_grant")
        problem(await shop.merge("x"), 401, "invalid_grant")
        other = await shop.lowtide.accounts.sign_in.anonymous(ask_for())
        problem(await shop.merge(other.refresh_token, by=shop.guest), 409, "conflict")
        guest = shop.guest.refresh_token if kind == "refresh" else shop.guest.access_token
        assert (await shop.merge(guest)).status == 200

    async def test_a_bound_guest_must_prove_the_key(self, shop: Shop) -> None:
        """A copied refresh token alone merges nothing."""
        bound = await shop.lowtide.accounts.sign_in.anonymous(ask_for(jkt="k1"))
        problem(await shop.merge(bound.refresh_token), 401, "proof_mismatch")
        problem(await shop.merge(bound.access_token), 401, "proof_mismatch")

    async def test_a_merge_that_fails_has_done_nothing(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Users, sessions and records are one transaction."""
        old = shop.guest.user.id
        await shop.upload(
            shop.guest, batch("phone", 1, ("put", "note", "n1", {"owner_id": old, "title": "x"}))
        )
        monkeypatch.setattr("lowtide.sync.ownership.MAX_OWNED", 0)
        problem(await shop.merge(), 413, "too_large")
        assert (await shop.held(shop.guest))["note/n1"]["owner_id"] == old
        assert (await shop.lowtide.accounts.sessions.refresh(shop.guest.refresh_token)).user.id == old

    async def test_a_merge_counts_what_it_moves(self, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where the writer's queue has no place for so many changes it is told so, and nothing has moved."""
        old = shop.guest.user.id
        notes = [("put", "note", f"n{number}", {"owner_id": old, "title": "x"}) for number in range(5)]
        await shop.upload(shop.guest, batch("phone", 1, *notes))
        monkeypatch.setattr("lowtide.sync.writer.MAX_WAITING_MUTATIONS", 4)
        problem(await shop.merge(), 503, "busy")
        assert (await shop.held(shop.guest))["note/n1"]["owner_id"] == old


class TestDeletion:
    async def test_out_at_once_and_gone_soon(self, shop: Shop) -> None:
        """Sessions end with a wipe; the records go with the job; the address is free; others keep theirs."""
        new = shop.ann.user.id
        bob = await enter(shop.lowtide, code("bob@example.com"))
        await shop.upload(
            shop.ann,
            batch(
                "phone",
                1,
                ("put", "note", "n1", {"owner_id": new, "title": "hers"}),
                ("put", "post", "p1", {"author_id": new, "text": "hers"}),
            ),
        )
        await shop.upload(
            bob, batch("b", 1, ("put", "post", "p2", {"author_id": bob.user.id, "text": "bob's"}))
        )
        gone = await shop.client.request("DELETE", "/v1/auth/me", token=shop.ann.access_token)
        assert gone.status == 204, gone.body
        told = problem(
            await shop.client.get("/v1/auth/me", token=shop.ann.access_token), 401, "session_revoked"
        )
        assert told["wipe"] is True
        again = await enter(shop.lowtide, code("ann@example.com"))
        assert (again.outcome, again.user.id != new) == ("created", True)
        await shop.run(PURGE, user=new, spaces=["main"])
        held = await shop.held(bob)
        assert "post/p1" not in held
        assert "post/p2" in held
        told = problem(
            await shop.client.post("/v1/auth/token/refresh", json={"refresh_token": shop.ann.refresh_token}),
            401,
            "session_revoked",
        )
        assert (told["reason"], told["wipe"]) == ("deleted", True)
        await shop.run(PURGE, user=new, spaces=["main"])

    async def test_what_a_merge_left_is_the_users_still(self, shop: Shop) -> None:
        """It is handed out and deleted with the account, and so is what the audit log knew of the guest."""
        old, new = shop.guest.user.id, shop.ann.user.id
        for who, id, user in ((shop.guest, "m1", old), (shop.ann, "m2", new)):
            sent = batch(id, 1, ("put", "membership", id, {"user_id": user, "team_id": "red"}))
            assert await shop.upload(who, sent) == ["applied"]
        ann = await shop.merged()
        export = await shop.client.get("/v1/auth/me/export", token=ann.access_token)
        assert {b'"m1"' in export.body, b'"m2"' in export.body} == {True}
        gone = await shop.client.request("DELETE", "/v1/auth/me", token=ann.access_token)
        assert gone.status == 204, gone.body
        await shop.run(PURGE, user=new, spaces=["main"])

        async def left(tx: Tx) -> list[str]:
            found = []
            for kind in LEFT:
                found += [
                    kind.name for _ in await tx.fetch(kind, f"user:{old}" if kind.name == "audit" else old)
                ]
            return found

        assert await shop.lowtide.database.read(left) == []

    async def test_an_old_sign_in_deletes_nothing(self, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
        """A phone that lies open must not be enough: the user signs in once more."""
        monkeypatch.setattr("lowtide.auth.deletion.STEP_UP", -1)
        told = problem(
            await shop.client.request("DELETE", "/v1/auth/me", token=shop.ann.access_token),
            403,
            "step_up_required",
        )
        assert "max_age" in told
        assert (await shop.client.get("/v1/auth/me", token=shop.ann.access_token)).status == 200
        guest = await shop.client.request("DELETE", "/v1/auth/me", token=shop.guest.access_token)
        assert guest.status == 204, "who cannot sign in again has nothing to prove"

    async def test_an_export_holds_everything_of_the_user_and_nothing_else(self, shop: Shop) -> None:
        """Account, ways in, sessions, passkeys, apps and records, as lines of JSON."""
        new, bare = shop.ann.user.id, shop.lowtide

        async def more(tx: Tx) -> None:
            for id, user in (("p1", new), ("p2", shop.guest.user.id)):
                await bare.accounts.users.link(tx, user, Proof(provider="passkey", subject=id))
                await tx.execute(PASSKEY, id, f"{user}'s phone")
                await bare.provider.store.agree(tx, user, f"app-{id}", frozenset({"openid"}))

        await bare.database.write(more)
        await shop.upload(
            shop.ann, batch("phone", 1, ("put", "note", "n1", {"owner_id": new, "title": "hers"}))
        )
        await shop.upload(
            shop.guest,
            batch("g", 1, ("put", "note", "n2", {"owner_id": shop.guest.user.id, "title": "not hers"})),
        )
        answer = await shop.client.get("/v1/auth/me/export", token=shop.ann.access_token)
        lines = [msgspec.json.decode(line) for line in answer.body.splitlines()]
        by_type: dict[str, list[Any]] = {}
        for line in lines:
            by_type.setdefault(line["type"], []).append(line["value"])
        assert by_type["account"][0]["email"] == "ann@example.com"
        assert [way["provider"] for way in by_type["identity"]] == ["email", "passkey"]
        assert len(by_type["session"]) == 1
        assert [(one["id"], one["name"]) for one in by_type["passkey"]] == [("p1", f"{new}'s phone")]
        assert [one["client"] for one in by_type["app"]] == ["app-p1"]
        assert [(one["model"], one["id"]) for one in by_type["record"]] == [("note", "n1")]
        assert b"not hers" not in answer.body
