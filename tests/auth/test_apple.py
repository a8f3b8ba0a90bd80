"""Sign in with Apple and Google: tokens, codes, revocations and notifications, against a double of theirs."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from lowtide.auth import jws
from lowtide.auth.challenges import Challenges
from lowtide.auth.model import Evidence
from lowtide.auth.outside import Credentials, Outside, read_credentials
from lowtide.auth.outside.apple import ATTEMPTS, EXCHANGE, ORPHANED, REVOKE
from lowtide.egress import Egress
from lowtide.kernel.errors import InvalidGrant, NotFound, SetupError, StorageLost, Unauthorized
from lowtide.kernel.ids import SeededIds
from lowtide.storage.db import Tx
from lowtide.storage.jobs import Worker
from tests.auth.issuer import NOW, OTHER_KEY, IssuerServer, signed
from tests.auth.world import World, ask_for

pytestmark = pytest.mark.anyio
NONCE = "a nonce of the app's"
APP = "com.example.app"
SUBJECT = "001234.abcdef"
TEAM = Credentials("ABCDE12345", "KEY1234567", ec.generate_private_key(ec.SECP256R1()))


class Impatient(SeededIds):
    """Jitter at its least: a retry comes at once."""

    def jitter(self, low: float, high: float) -> float:
        return low


class Side:
    """Apple's and Google's double, and the part of a server that speaks with it."""

    def __init__(self, world: World, server: IssuerServer, credentials: Credentials | None = TEAM):
        self.world = world
        self.server = server
        self.egress = Egress(allowed=(server.address,))
        self.outside = Outside(
            world.database,
            self.egress,
            world.vault,
            world.jobs,
            Challenges(world.vault, world.clock, world.ids),
            world.accounts,
            world.clock,
            world.ids,
            credentials,
            apple=(APP, "com.example.web"),
            google=("1.apps.example",),
            upstreams=(),
            address="http://localhost",
            redirects=(),
            apple_url=server.url,
            google_keys=f"{server.url}/auth/keys",
        )
        world.sign_in.credentials.append(self.outside.apple)
        self.worker = Worker(
            world.database,
            world.bus,
            world.jobs,
            world.clock,
            Impatient(world.clock),
            queues={"default": 2},
            poll=0.05,
        )

    def claims(self, **changes: Any) -> dict[str, Any]:
        hashed = hashlib.sha256(NONCE.encode()).hexdigest()
        claims = {
            "iss": self.server.url,
            "aud": APP,
            "sub": SUBJECT,
            "iat": NOW,
            "exp": NOW + 600,
            "nonce": hashed,
            "email": "relay@privaterelay.example",
            "email_verified": "true",
            "is_private_email": "true",
            "jti": self.world.ids.token(),
        }
        return {name: value for name, value in (claims | changes).items() if value is not None}

    async def enter(self, code: str | None = "c0de", **changes: Any) -> Any:
        token = signed(self.claims(**changes))
        proof = await self.outside.native.prove("apple", token, NONCE, code=code, name="Ann Example")
        return await self.world.enter(proof)

    def grants(self, subject: str = SUBJECT, token: str = "apples-refresh-token") -> None:
        """Apple's double gives ``token`` for every code from now on."""
        id_token = signed(self.claims(sub=subject))
        answer = {"access_token": "a", "refresh_token": token, "id_token": id_token}
        self.server.answers["/auth/token"] = (200, answer)

    async def kept(self) -> list[str]:
        """The tokens that are kept, in the clear."""
        rows = await self.world.rows("SELECT id, sealed FROM apple_grant")
        return [self.world.vault.open(f"apple:{id}", sealed).decode() for id, sealed in rows]

    async def done(self, kind: str, status: str = "done", count: int = 1) -> None:
        """Wait until ``count`` jobs of ``kind`` ended with ``status``."""
        async with asyncio.timeout(20):
            while True:
                found = await self.world.rows("SELECT status FROM job WHERE kind = ?", kind)
                if [one for (one,) in found].count(status) >= count:
                    return
                await asyncio.sleep(0.02)

    async def forget(self, user: str) -> None:
        """What the deletion of an account does here."""
        await self.world.write(lambda tx: self.outside.apple.forget(tx, user))
        self.world.jobs.wake()

    async def sweep(self) -> None:
        """Run the periodic job."""
        await self.outside.apple.sweep()
        self.world.jobs.wake()

    def notification(self, kind: str, **changes: Any) -> str:
        event = {"type": kind, "sub": SUBJECT, "event_time": NOW * 1000}
        claims = {
            "iss": self.server.url,
            "aud": APP,
            "iat": NOW,
            "exp": NOW + 86_400,
            "jti": f"n-{kind}",
            "events": json.dumps(event),
        }
        return signed({name: value for name, value in (claims | changes).items() if value is not None})


@pytest.fixture
def server() -> Iterator[IssuerServer]:
    with IssuerServer() as running:
        running.answers["/auth/keys"] = (200, running.key_set())
        running.answers["/auth/revoke"] = (200, b"")
        yield running


@pytest.fixture
async def side(world: World, server: IssuerServer) -> AsyncIterator[Side]:
    made = Side(world, server)
    made.grants()
    await made.worker.start()
    yield made
    await made.worker.stop()
    made.egress.close()


class TestSigningIn:
    async def test_apple_signs_in(self, side: Side) -> None:
        """The same Apple user is the same user here; the name is what the app was told the first time."""
        first = await side.enter()
        assert (first.outcome, first.user.name) == ("created", "Ann Example")
        assert (first.user.email, first.user.email_verified) == ("relay@privaterelay.example", True)
        again = await side.enter(code=None)
        assert (again.outcome, again.user.id) == ("signed_in", first.user.id)

    async def test_a_token_signs_in_once(self, side: Side) -> None:
        """Whoever recorded it has a day with Apple's: it is worth nothing, and the next one is."""
        token = signed(side.claims())
        first = await side.world.enter(await side.outside.native.prove("apple", token, NONCE))
        with pytest.raises(InvalidGrant, match="used before"):
            await side.world.enter(await side.outside.native.prove("apple", token, NONCE))
        assert (await side.enter()).user.id == first.user.id

    async def test_a_token_is_used_up_with_its_sign_in(self, side: Side) -> None:
        """A server that dies in between leaves token and code as good as they were; of two at the same moment
        one signs in."""
        token = signed(side.claims())

        async def proved() -> Evidence:
            return await side.outside.native.prove("apple", token, NONCE, code="c0de")

        async def died(tx: Tx, outcome: Any) -> None:
            raise StorageLost

        first = await proved()
        with pytest.raises(StorageLost):
            await side.world.sign_in.complete(first.proof, ask_for(), spend=first.spend, also=died)
        assert await side.world.rows("SELECT kind FROM job WHERE kind = ?", EXCHANGE) == []
        both = [await proved(), await proved()]
        found = await asyncio.gather(*map(side.world.enter, both), return_exceptions=True)
        assert sorted(type(one).__name__ for one in found) == ["InvalidGrant", "Signed"]
        assert len(await side.world.rows("SELECT kind FROM job WHERE kind = ?", EXCHANGE)) == 1
        with pytest.raises(InvalidGrant, match="used before"):
            await side.world.enter(await proved())

    async def test_a_token_is_as_old_as_it_says(self, side: Side) -> None:
        """It is good for hours: sent late, it is no proof of now, and no step-up."""
        side.world.clock.advance(500)
        for told, proved in ((None, NOW), (NOW - 3600, NOW - 3600), (NOW + 9000, NOW + 500)):
            token = signed(side.claims(auth_time=told))
            found = await side.outside.native.prove("apple", token, NONCE)
            assert found.proof.auth_time == proved * 1000

    async def test_google_signs_in(self, side: Side) -> None:
        """Both spellings of Google's issuer, its own keys, its own client ids."""
        token = ""
        for issuer in ("https://accounts.google.com", "accounts.google.com"):
            token = signed(side.claims(iss=issuer, aud="1.apps.example", name="Ann", nonce=NONCE))
            proof = (await side.outside.native.prove("google", token, NONCE)).proof
            assert (proof.provider, proof.name) == ("google", "Ann")
            assert proof.auth_time == NOW * 1000, "it was made then, whenever it is sent"
        for wrong in (
            side.claims(iss="https://accounts.google.com", aud=APP, nonce=NONCE),
            side.claims(aud="1.apps.example", nonce=NONCE),
        ):
            with pytest.raises(InvalidGrant):
                await side.outside.native.prove("google", signed(wrong), NONCE)
        # Google's token signs nobody in as Apple's.
        with pytest.raises(InvalidGrant):
            await side.outside.native.prove("apple", token, NONCE)

    async def test_what_is_not_set_up_is_not_there(self, side: Side) -> None:
        """A provider without client ids takes no token at all."""
        with pytest.raises(NotFound):
            await side.outside.native.prove("facebook", signed(side.claims()), NONCE)


class TestExchange:
    async def test_the_code_becomes_a_token_that_is_kept_sealed(self, side: Side) -> None:
        """The server proves who it is with a token of the team's key; what it gets lies sealed."""
        await side.enter()
        await side.done(EXCHANGE)
        assert await side.kept() == ["apples-refresh-token"]
        ((sealed,),) = await side.world.rows("SELECT sealed FROM apple_grant")
        assert "apples" not in sealed
        ((payload,),) = await side.world.rows("SELECT payload FROM job WHERE kind = ?", EXCHANGE)
        assert "c0de" not in payload
        (form,) = [form for _, path, form in side.server.requests if path == "/auth/token"]
        assert (form["grant_type"], form["code"], form["client_id"]) == ("authorization_code", "c0de", APP)
        secret = jws.read(form["client_secret"], most=2000)
        assert secret.header == {"alg": "ES256", "kid": "KEY1234567"}
        assert jws.verified(secret, TEAM.private.public_key())
        assert (secret.claims["iss"], secret.claims["sub"]) == ("ABCDE12345", APP)
        assert secret.claims["aud"] == side.server.url
        assert 0 < secret.claims["exp"] - secret.claims["iat"] <= 300

    @pytest.mark.parametrize("fault", ["500", "cut", "text"])
    async def test_apples_bad_day_does_not_hold_up_a_sign_in(self, side: Side, fault: str) -> None:
        """The user is in at once; the code is tried again, and there is an end to that."""
        await side.outside.native.prove("apple", signed(side.claims()), NONCE)
        side.server.fault = fault
        assert (await side.enter()).user.id
        async with asyncio.timeout(20):
            while side.server.fetches("/auth/token") < 2:
                await asyncio.sleep(0.02)
        side.server.fault = ""
        await side.done(EXCHANGE)
        assert await side.kept() == ["apples-refresh-token"]
        assert side.server.fetches("/auth/token") <= ATTEMPTS

    async def test_a_code_that_apple_refuses_is_not_tried_again(self, side: Side) -> None:
        """invalid_grant is final: logged, and the sign-in stands."""
        side.server.answers["/auth/token"] = (400, {"error": "invalid_grant"})
        await side.enter()
        await side.done(EXCHANGE)
        assert side.server.fetches("/auth/token") == 1
        assert await side.kept() == []

    async def test_another_users_code_is_not_kept(self, side: Side) -> None:
        """A code that was sent along with a stranger's token would revoke the wrong user's later."""
        side.grants(subject="somebody-else")
        await side.enter()
        await side.done(EXCHANGE)
        assert await side.kept() == []

    async def test_without_a_key_nothing_is_exchanged(self, world: World, server: IssuerServer) -> None:
        """Signing in works without the team's key; codes are then left alone."""
        side = Side(world, server, None)
        await side.enter()
        assert await world.rows("SELECT id FROM job WHERE kind = ?", EXCHANGE) == []
        side.egress.close()


class TestRevocation:
    async def test_a_deleted_account_is_revoked_at_apple(self, side: Side) -> None:
        """In the transaction of the deletion a job is kept; the token is gone here at once."""
        user = (await side.enter()).user.id
        await side.done(EXCHANGE)
        side.server.fault = "500"
        await side.forget(user)
        assert await side.kept() == []
        async with asyncio.timeout(20):
            while side.server.fetches("/auth/revoke") < 2:
                await asyncio.sleep(0.02)
        side.server.fault = ""
        await side.done(REVOKE)
        form = [form for _, path, form in side.server.requests if path == "/auth/revoke"][-1]
        assert (form["token"], form["token_type_hint"]) == ("apples-refresh-token", "refresh_token")
        assert form["client_id"] == APP
        ((payload,),) = await side.world.rows("SELECT payload FROM job WHERE kind = ?", REVOKE)
        assert "apples" not in payload

    async def test_what_comes_after_the_deletion_is_revoked_too(self, side: Side) -> None:
        """Whoever proves themselves to Apple in order to delete: the exchange may end when they are gone."""
        user = (await side.enter()).user.id
        await side.done(EXCHANGE)
        await side.forget(user)
        await side.done(REVOKE)
        await side.world.write(lambda tx: side.world.users.unlink_all(tx, user))
        side.grants(token="granted-late")
        late = await side.outside.native.prove("apple", signed(side.claims()), NONCE, code="late")
        await side.world.spent(late)
        await side.done(EXCHANGE, count=2)
        await side.sweep()
        assert await side.kept() == ["granted-late"], "the user of a sign-in that goes on is not here yet"
        side.world.clock.advance(ORPHANED + 1)
        await side.sweep()
        await side.done(REVOKE, count=2)
        assert await side.kept() == []
        revoked = [form["token"] for _, path, form in side.server.requests if path == "/auth/revoke"]
        assert revoked == ["apples-refresh-token", "granted-late"]

    async def test_a_sweep_leaves_who_is_here(self, side: Side) -> None:
        """However old a grant is, it is its user's; one whose way in was taken away is nobody's."""
        user = (await side.enter()).user.id
        await side.done(EXCHANGE)
        side.world.clock.advance(ORPHANED + 1)
        await side.sweep()
        assert await side.kept() == ["apples-refresh-token"]
        await side.world.write(lambda tx: side.world.users.unlink(tx, user, "apple", SUBJECT))
        await side.sweep()
        assert await side.kept() == []

    async def test_an_undone_deletion_revokes_nothing(self, side: Side) -> None:
        """What did not commit did not happen, at Apple neither."""
        user = (await side.enter()).user.id
        await side.done(EXCHANGE)

        async def work(tx: Any) -> None:
            await side.outside.apple.forget(tx, user)
            raise NotFound

        with pytest.raises(NotFound):
            await side.world.write(work)
        assert await side.kept() == ["apples-refresh-token"]
        assert await side.world.rows("SELECT id FROM job WHERE kind = ?", REVOKE) == []

    async def test_others_keep_theirs(self, side: Side) -> None:
        """Only the tokens of the user who goes are revoked."""
        await side.enter()
        await side.done(EXCHANGE)
        side.grants(subject="other", token="others-token")
        other = await side.enter(sub="other", email="other@example.com")
        await side.done(EXCHANGE, count=2)
        await side.forget(other.user.id)
        await side.done(REVOKE)
        assert await side.kept() == ["apples-refresh-token"]


class TestNotifications:
    async def hear(self, side: Side, payload: str) -> None:
        await side.outside.native.hear_apple(payload)

    async def test_withdrawn_consent_signs_out(self, side: Side) -> None:
        """Every session ends and Apple's token is forgotten; the user may come back as the same one."""
        entered = await side.enter()
        await side.done(EXCHANGE)
        await self.hear(side, side.notification("consent-revoked"))
        with pytest.raises(Unauthorized):
            side.world.who(entered)
        assert await side.kept() == []
        assert side.server.fetches("/auth/revoke") == 0
        assert (await side.enter(code=None)).user.id == entered.user.id
        assert "apple.consent_revoked" in await side.world.actions()

    @pytest.mark.parametrize("kind", ["account-delete", "account-deleted"])
    async def test_a_deleted_apple_account_is_a_way_in_no_longer(self, side: Side, kind: str) -> None:
        """The identity goes; the user and the data stay, and their address still lets them in."""
        entered = await side.enter()
        await self.hear(side, side.notification(kind))
        with pytest.raises(Unauthorized):
            side.world.who(entered)
        assert await side.world.rows("SELECT subject FROM identity WHERE provider = 'apple'") == []
        assert await side.world.rows("SELECT id FROM users") == [(entered.user.id,)]

    async def test_a_repeat_changes_nothing(self, side: Side) -> None:
        """Apple sends again what it thinks was lost: who has come back is not signed out again."""
        await side.enter()
        payload = side.notification("consent-revoked")
        await self.hear(side, payload)
        again = await side.enter(code=None)
        await self.hear(side, payload)
        assert side.world.who(again).user == again.user.id

    async def test_other_news_is_taken_and_changes_nothing(self, side: Side) -> None:
        """Mail that is forwarded no longer, kinds that do not exist yet, users that are not known."""
        entered = await side.enter()
        for kind in ("email-disabled", "email-enabled", "brand-new"):
            await self.hear(side, side.notification(kind))
        stranger = json.dumps({"type": "account-delete", "sub": "stranger"})
        await self.hear(side, side.notification("x", events=stranger))
        assert side.world.who(entered).user == entered.user.id
        assert "apple.email_disabled" in await side.world.actions()

    async def test_a_forged_notification_does_nothing(self, side: Side) -> None:
        """Not Apple's key, not for this app, over, nameless, or not a notification: refused."""
        entered = await side.enter()
        event = {"type": "account-delete", "sub": SUBJECT}
        good = {"iss": side.server.url, "aud": APP, "iat": NOW, "jti": "x", "events": json.dumps(event)}
        for payload in (
            "",
            "a.b.c",
            signed(good, OTHER_KEY),
            signed(good, header={"alg": "none"}),
            signed(good | {"aud": "com.other.app"}),
            signed(good | {"iss": "https://evil.example"}),
            signed(good | {"iat": NOW - 200_000}),
            signed(good | {"exp": NOW - 1000}),
            signed({name: value for name, value in good.items() if name != "jti"}),
            signed(good | {"events": event}),
            signed(good | {"events": "[" * 3000}),
            signed(good | {"events": '{"type":5}'}),
            # An id token of the user is no notification.
            signed(side.claims()),
        ):
            with pytest.raises(InvalidGrant):
                await self.hear(side, payload)
        assert side.world.who(entered).user == entered.user.id


class TestCredentials:
    def test_apples_key_is_read(self, tmp_path: Path) -> None:
        """A .p8 file is a P-256 key; everything else is found at start."""

        def written(key: Any) -> Path:
            file = tmp_path / "key.p8"
            pem = key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            file.write_bytes(pem)
            return file

        assert read_credentials("T", "K", written(TEAM.private)).key_id == "K"
        with pytest.raises(SetupError, match="apple_team_id"):
            read_credentials("", "K", written(TEAM.private))
        with pytest.raises(SetupError, match="P-256"):
            read_credentials("T", "K", written(rsa.generate_private_key(65537, 2048)))
        with pytest.raises(SetupError, match="P-256"):
            read_credentials("T", "K", written(ec.generate_private_key(ec.SECP384R1())))
        with pytest.raises(SetupError, match="read"):
            read_credentials("T", "K", tmp_path / "nowhere.p8")
        (tmp_path / "text.p8").write_text("no key")
        with pytest.raises(SetupError, match="read"):
            read_credentials("T", "K", tmp_path / "text.p8")
