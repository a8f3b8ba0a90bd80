"""Accounts over HTTP: what each may do with their own, and nobody with another's."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from lowtide.app import Lowtide
from lowtide.auth.admin import Admin
from lowtide.auth.model import Opened, Proof, Signed
from lowtide.kernel.errors import Conflict
from lowtide.kernel.schema import Principal
from lowtide.storage.db import Tx
from tests.api.client import Answer, Client
from tests.auth.world import ask_for, code, password

pytestmark = pytest.mark.anyio


SERVER = Principal(user="cli", server=True)


async def enter(lowtide: Lowtide, proof: Proof, **ask: Any) -> Signed:
    signed = await lowtide.accounts.sign_in.complete(proof, ask_for(**ask))
    assert isinstance(signed, Signed)
    return signed


async def granted(lowtide: Lowtide, user: Signed) -> Signed:
    """What a third party's app holds to which ``user`` has granted ``api``."""
    sessions = lowtide.accounts.sessions

    async def work(tx: Tx) -> Opened:
        return await sessions.open(tx, user.user, ask_for(), (), client="tool", scope="api")

    return sessions.signed(await lowtide.database.write(work))


def problem(answer: Answer, status: int, code: str) -> dict[str, Any]:
    assert answer.status == status, answer.body
    told: dict[str, Any] = answer.json()
    assert told["code"] == code
    return told


class TestOwn:
    async def test_begin_without_a_name_and_refresh(self, client: Client) -> None:
        """Anonymous start, refresh, the same answer to a repeat, and who I am."""
        device = {"name": "Ann's phone", "platform": "ios", "app_version": "3.1"}
        begun = await client.post("/v1/auth/anonymous", json={"device": device})
        assert begun.status == 201, begun.body
        first = begun.json()
        assert first["user"]["anonymous"]
        assert first["status"] == "signed_in"
        body = {"refresh_token": first["refresh_token"], "rotation_id": "r" * 32}
        second = (await client.post("/v1/auth/token/refresh", json=body)).json()
        again = (await client.post("/v1/auth/token/refresh", json=body)).json()
        assert second["refresh_token"] == again["refresh_token"] != first["refresh_token"]
        me = await client.get("/v1/auth/me", token=again["access_token"])
        assert me.json()["id"] == first["user"]["id"]
        listed = (await client.get("/v1/auth/sessions", token=again["access_token"])).json()["sessions"]
        assert [(one["name"], one["platform"], one["current"]) for one in listed] == [
            ("Ann's phone", "ios", True)
        ]

    async def test_addresses_of_one_customer_begin_as_one(self, lowtide: Lowtide) -> None:
        """New users are counted by IPv6 /64, of which each customer has 2^64 addresses."""

        async def begin(address: str) -> int:
            async def there(scope: Any, receive: Any, send: Any) -> None:
                await lowtide.asgi({**scope, "client": (address, 1)}, receive, send)

            return (await Client(there).post("/v1/auth/anonymous", json={})).status

        assert [await begin(f"2001:db8:1:2::{n:x}") for n in range(31)] == [201] * 30 + [429]
        assert await begin("2001:db8:1:3::1") == 201

    async def test_a_thief_is_told_so(self, client: Client, lowtide: Lowtide) -> None:
        """401 ``session_revoked`` with the reason; what is no token is ``invalid_grant``."""
        signed = await enter(lowtide, code("ann@example.com"))
        url, token = "/v1/auth/token/refresh", signed.refresh_token
        assert (await client.post(url, json={"refresh_token": token, "rotation_id": "a" * 32})).status == 200
        told = problem(
            await client.post(url, json={"refresh_token": token, "rotation_id": "b" * 32}),
            401,
            "session_revoked",
        )
        assert (told["reason"], told["wipe"]) == ("reuse", False)
        problem(await client.post(url, json={"refresh_token": "nonsense"}), 401, "invalid_grant")

    @pytest.mark.parametrize(
        "body",
        [
            {},
            {"refresh_token": None},
            {"refresh_token": 7},
            {"refresh_token": "x" * 129},
            {"refresh_token": "x", "rotation_id": "short"},
            {"refresh_token": "x", "rotation_id": "r" * 129},
            {"refresh_token": "x", "space": ""},
            {"refresh_token": "x", "user": "bob"},
            [],
            "x",
        ],
    )
    async def test_a_strange_refresh_is_refused(self, client: Client, body: Any) -> None:
        """400, and never a fault of the server."""
        problem(await client.post("/v1/auth/token/refresh", json=body), 400, "malformed")

    async def test_a_device_is_signed_out_from_another(self, client: Client, lowtide: Lowtide) -> None:
        """At once: its next request is refused, with the wipe; the one that asked goes on."""
        lost = await enter(lowtide, code("ann@example.com"), name="Lost")
        mine = await enter(lowtide, code("ann@example.com"), name="Mine")
        url = f"/v1/auth/sessions/{lost.session_id}?wipe=true"
        assert (await client.request("DELETE", url, token=mine.access_token)).status == 204
        told = problem(await client.get("/v1/auth/me", token=lost.access_token), 401, "session_revoked")
        assert told["wipe"] is True
        body = {"refresh_token": lost.refresh_token}
        assert (await client.post("/v1/auth/token/refresh", json=body)).json()["wipe"] is True
        left = (await client.get("/v1/auth/sessions", token=mine.access_token)).json()["sessions"]
        assert [one["name"] for one in left] == ["Mine"]
        problem(await client.request("DELETE", url, token=mine.access_token), 404, "not_found")

    async def test_nobody_ends_anothers_session(self, client: Client, lowtide: Lowtide) -> None:
        """404, as if it did not exist; nothing happens to it."""
        ann, eve = (
            await enter(lowtide, code("ann@example.com")),
            await enter(lowtide, code("eve@example.com")),
        )
        url = f"/v1/auth/sessions/{ann.session_id}"
        problem(await client.request("DELETE", url, token=eve.access_token), 404, "not_found")
        await client.post("/v1/auth/sessions/end-others", json={}, token=eve.access_token)
        assert (await client.get("/v1/auth/me", token=ann.access_token)).status == 200

    async def test_all_others_and_oneself(self, client: Client, lowtide: Lowtide) -> None:
        """End-others leaves the one that asks; sign-out ends that."""
        others = [await enter(lowtide, code("ann@example.com")) for _ in range(2)]
        mine = await enter(lowtide, code("ann@example.com"))
        assert (
            await client.post("/v1/auth/sessions/end-others", json={}, token=mine.access_token)
        ).status == 204
        for other in others:
            problem(await client.get("/v1/auth/me", token=other.access_token), 401, "session_revoked")
        assert (await client.post("/v1/auth/sign-out", token=mine.access_token)).status == 204
        told = problem(await client.get("/v1/auth/me", token=mine.access_token), 401, "session_revoked")
        assert told["reason"] == "sign_out"

    async def test_an_oauth_clients_token_changes_no_account(self, client: Client, lowtide: Lowtide) -> None:
        """A third party's token reads who its user is, and neither their devices nor their ways in."""
        signed = await granted(lowtide, await enter(lowtide, code("ann@example.com")))
        assert (await client.get("/v1/auth/me", token=signed.access_token)).status == 200
        for method, url in (
            ("GET", "/v1/auth/sessions"),
            ("GET", "/v1/auth/identities"),
            ("DELETE", f"/v1/auth/sessions/{signed.session_id}"),
            ("POST", "/v1/auth/sign-out"),
            ("DELETE", "/v1/auth/identities/email/ann@example.com"),
        ):
            problem(await client.request(method, url, token=signed.access_token), 403, "forbidden")

    @pytest.mark.parametrize(
        ("name", "kept"),
        [("Ann", "Ann"), ("  Ann ", "Ann"), ("", None), (None, None), ("x" * 200, "x" * 200)],
    )
    async def test_a_name_can_be_changed(
        self, client: Client, lowtide: Lowtide, name: str | None, kept: str | None
    ) -> None:
        """Trimmed; an empty one is none."""
        ann = await enter(lowtide, code("ann@example.com"))
        answer = await client.request("PATCH", "/v1/auth/me", json={"name": name}, token=ann.access_token)
        assert answer.json()["name"] == kept

    @pytest.mark.parametrize("body", [{"name": "x" * 201}, {"name": "a\nb"}, {"roles": ["admin"]}, {}])
    async def test_nothing_else_can(self, client: Client, lowtide: Lowtide, body: dict[str, Any]) -> None:
        """No roles, no claims, no address: whatever a client sends besides is refused."""
        ann = await enter(lowtide, code("ann@example.com"))
        problem(
            await client.request("PATCH", "/v1/auth/me", json=body, token=ann.access_token), 400, "malformed"
        )

    async def test_a_stream_of_an_ended_session_ends(self, client: Client, lowtide: Lowtide) -> None:
        """The download of a session that is signed out is over within a moment; another one goes on."""
        lost, mine = (
            await enter(lowtide, code("ann@example.com")),
            await enter(lowtide, code("ann@example.com")),
        )
        asked: dict[str, Any] = {"client_id": "c1", "raw_data": True}

        async def follow(signed: Signed) -> None:
            async with client.open("POST", "/sync/stream", json=asked, token=signed.access_token) as call:
                while (await call.next(10))["type"] != "end":
                    pass

        ended, other = asyncio.create_task(follow(lost)), asyncio.create_task(follow(mine))
        while lowtide.load.streams < 2:
            await asyncio.sleep(0)
        url = f"/v1/auth/sessions/{lost.session_id}"
        assert (await client.request("DELETE", url, token=mine.access_token)).status == 204
        await asyncio.wait_for(ended, 5)
        assert not other.done()
        other.cancel()
        await asyncio.gather(other, return_exceptions=True)

    async def test_a_stream_ends_with_the_key_of_its_token(self, client: Client, lowtide: Lowtide) -> None:
        """Who signed a token with a copied key keeps no open download; another key's end ends none."""
        forged = lowtide.tokens.sign("ann", space="main", ttl=3600)
        asked: dict[str, Any] = {"client_id": "c1", "raw_data": True}

        async def follow() -> None:
            async with client.open("POST", "/sync/stream", json=asked, token=forged) as call:
                while (await call.next(10))["type"] != "end":
                    pass

        following = asyncio.create_task(follow())
        while lowtide.load.streams < 1:
            await asyncio.sleep(0)
        keys = {key.state: key.kid for key in lowtide.keys.all()}
        await lowtide.keys.revoke(keys["next"], "cli:root")
        good = lowtide.tokens.sign("ann", space="main", ttl=60)
        assert (await client.get("/v1/auth/me", token=good)).status != 401
        assert not following.done()
        await lowtide.keys.revoke(keys["current"], "cli:root")
        await asyncio.wait_for(following, 5)


class TestAdmin:
    @pytest.fixture
    async def root(self, lowtide: Lowtide) -> str:
        """The token of an admin."""

        admin = Admin(lowtide.database, lowtide.accounts)
        await admin.make_admin("Root@Example.com", "cli:root")
        return (await enter(lowtide, code("root@example.com"))).access_token

    async def test_an_admins_oauth_client_is_no_admin(self, client: Client, lowtide: Lowtide) -> None:
        """What an admin grants a third party's app are its own data, and not the server."""
        made = await Admin(lowtide.database, lowtide.accounts).make_admin("root@example.com", "cli:root")
        root = await enter(lowtide, code("root@example.com"))
        assert (await client.get("/v1/admin/users", token=root.access_token)).status == 200
        theirs = (await granted(lowtide, root)).access_token
        for method, url in (("GET", "/v1/admin/users"), ("DELETE", f"/v1/admin/users/{made.id}")):
            problem(await client.request(method, url, token=theirs), 403, "forbidden")
        assert (await client.get("/v1/auth/me", token=theirs)).status == 200

    async def test_users_are_found(self, client: Client, lowtide: Lowtide, root: str) -> None:
        """Newest first, by page, and by a part of address or name, in which nothing is a wildcard."""
        for name in ("ann", "bob", "a_b"):
            await enter(lowtide, code(f"{name}@example.com"))

        async def emails(query: str) -> list[str]:
            found = await client.get(f"/v1/admin/users{query}", token=root)
            return [user["email"].partition("@")[0] for user in found.json()["users"]]

        assert sorted(await emails("")) == ["a_b", "ann", "bob", "root"]
        page = (await client.get("/v1/admin/users?limit=3", token=root)).json()["users"]
        rest = await emails(f"?limit=3&before={page[-1]['id']}")
        assert len(page) == 3
        assert len(rest) == 1
        assert await emails("?search=ANN@") == ["ann"]
        assert await emails("?search=_b") == ["a_b"]
        assert await emails("?search=%25") == []
        assert await emails("?search=%5C") == []
        assert await emails(f"?search={page[0]['id']}")

    async def test_a_change_is_in_the_next_token(self, client: Client, lowtide: Lowtide, root: str) -> None:
        """Roles and claims; the old token is refused as expired, so the client refreshes."""
        ann = await enter(lowtide, code("ann@example.com"))
        change = {"roles": ["editor"], "claims": {"plan": "pro"}, "name": "Ann"}
        url = f"/v1/admin/users/{ann.user.id}"
        changed = await client.request("PATCH", url, json=change, token=root)
        assert changed.json()["roles"] == ["editor"]
        problem(await client.get("/v1/auth/me", token=ann.access_token), 401, "token_expired")
        fresh = await lowtide.accounts.sessions.refresh(ann.refresh_token)
        who = lowtide.tokens.verify(fresh.access_token)
        assert (who.roles, who.claims["plan"]) == (("editor",), "pro")
        known = (await client.get(url, token=root)).json()
        assert known["user"]["name"] == "Ann"
        assert [one["provider"] for one in known["identities"]] == ["email"]

    async def test_a_user_is_locked_out_and_let_in_again(
        self, client: Client, lowtide: Lowtide, root: str
    ) -> None:
        """Disabling ends every session at once; enabling lets them sign in, and opens no old session."""
        ann = await enter(lowtide, code("ann@example.com"))
        url = f"/v1/admin/users/{ann.user.id}"
        await client.request("PATCH", url, json={"disabled": True}, token=root)
        problem(await client.get("/v1/auth/me", token=ann.access_token), 401, "session_revoked")
        await client.request("PATCH", url, json={"disabled": False}, token=root)
        body = {"refresh_token": ann.refresh_token}
        problem(await client.post("/v1/auth/token/refresh", json=body), 401, "session_revoked")
        assert (await enter(lowtide, code("ann@example.com"))).user.id == ann.user.id

    async def test_a_made_user_is_whoever_proves_the_address(
        self, client: Client, lowtide: Lowtide, root: str
    ) -> None:
        """And the address is taken for every other."""
        made = await client.post("/v1/admin/users", json={"email": "New@Example.com "}, token=root)
        assert made.status == 201
        problem(
            await client.post("/v1/admin/users", json={"email": "new@example.com"}, token=root),
            409,
            "identity_taken",
        )
        assert (await enter(lowtide, code("new@example.com"))).user.id == made.json()["id"]

    async def test_membership_is_heeded_at_once(self, client: Client, lowtide: Lowtide, root: str) -> None:
        """Who leaves a space has no token for it any more, and gets none."""
        ann = await enter(lowtide, code("ann@example.com"))
        url = f"/v1/admin/users/{ann.user.id}/spaces/acme"
        assert (await client.request("PUT", url, json={"roles": ["lead"]}, token=root)).status == 204
        there = await enter(lowtide, code("ann@example.com"), space="acme")
        assert lowtide.tokens.verify(there.access_token).roles == ("lead",)
        assert (await client.request("DELETE", url, token=root)).status == 204
        problem(await client.get("/v1/auth/me", token=there.access_token), 401, "token_expired")
        body = {"refresh_token": there.refresh_token}
        problem(await client.post("/v1/auth/token/refresh", json=body), 403, "forbidden")

    @pytest.mark.parametrize(
        ("method", "path", "body"),
        [
            ("PATCH", "", {"claims": {"sub": "x"}}),
            ("PATCH", "", {"claims": {"roles": ["admin"]}}),
            ("PATCH", "", {"claims": {"x": "y" * 3000}}),
            ("PATCH", "", {"roles": ["a", "a"]}),
            ("PATCH", "", {"roles": ["a"] * 40}),
            ("PATCH", "", {"roles": [""]}),
            ("PATCH", "", {"email": "x@example.com"}),
            ("PATCH", "", {"disabled": "yes"}),
            ("PUT", "/spaces/acme", {"roles": ["admin"]}),
            ("PUT", "/spaces/a%2Fb", {"roles": []}),
            ("PUT", "/spaces/" + "x" * 129, {"roles": []}),
        ],
    )
    async def test_what_cannot_be_is_refused(
        self, client: Client, lowtide: Lowtide, root: str, method: str, path: str, body: dict[str, Any]
    ) -> None:
        """And changes nothing; in particular nobody becomes admin through a claim or a space."""
        ann = await enter(lowtide, code("ann@example.com"))
        answer = await client.request(method, f"/v1/admin/users/{ann.user.id}{path}", json=body, token=root)
        problem(answer, 400, "malformed")
        assert lowtide.tokens.verify(ann.access_token).user == ann.user.id

    async def test_an_admin_of_nothing_is_nobody(self, client: Client, lowtide: Lowtide) -> None:
        """A plain user gets 403 at every admin address, for others and for themselves."""
        ann = await enter(lowtide, code("ann@example.com"))
        url = f"/v1/admin/users/{ann.user.id}"
        for method, target, body in (
            ("GET", "/v1/admin/users", None),
            ("PATCH", url, {"roles": ["admin"]}),
            ("PUT", url + "/spaces/acme", {}),
            ("POST", url + "/end-sessions", {}),
        ):
            problem(await client.request(method, target, json=body, token=ann.access_token), 403, "forbidden")

    async def test_admins_change_themselves_too(self, client: Client, lowtide: Lowtide) -> None:
        """What ends the admin's own token is done, and not undone by that."""
        made = await Admin(lowtide.database, lowtide.accounts).make_admin("root@example.com", "cli:root")
        url = f"/v1/admin/users/{made.id}"
        for method, path, body, wanted in (
            ("PATCH", "", {"roles": ["admin", "editor"]}, 200),
            ("PUT", "/spaces/acme", {"roles": ["chief"]}, 204),
            ("DELETE", "/spaces/acme", None, 204),
            ("POST", "/end-sessions", {}, 200),
        ):
            root = (await enter(lowtide, code("root@example.com"))).access_token
            answer = await client.request(method, url + path, json=body, token=root)
            assert answer.status == wanted, answer.body
            assert (await client.get(url, token=root)).status == 401
        root = (await enter(lowtide, code("root@example.com"))).access_token
        assert (await client.get(url, token=root)).json()["user"]["roles"] == ["admin", "editor"]

    async def test_the_first_admin_must_have_proved_the_address(
        self, client: Client, lowtide: Lowtide
    ) -> None:
        """Whoever only typed the address somewhere does not become admin by it."""

        await enter(lowtide, password("root@example.com"))
        with pytest.raises(Conflict):
            await Admin(lowtide.database, lowtide.accounts).make_admin("root@example.com", "cli:root")
