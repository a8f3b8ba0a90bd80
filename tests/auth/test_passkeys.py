"""Passkeys from the first to the last day: made, used, copied, named, deleted; and every trick on the way."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lowtide.api import serve
from lowtide.app import Lowtide
from lowtide.auth.challenges import LIFE, Challenges
from lowtide.auth.hooks import SignInEvent
from lowtide.auth.model import Ask, Proof, SecondFactorNeeded, Signed
from lowtide.auth.passkeys import Passkey, Passkeys, passkey_site
from lowtide.auth.passkeys.ceremony import AssertionCredential, RegistrationCredential
from lowtide.auth.passkeys.service import MAX_PASSKEYS, RECENT
from lowtide.declare.app import App
from lowtide.kernel.clock import ManualClock, SystemClock
from lowtide.kernel.errors import (
    Conflict,
    InvalidGrant,
    NotFound,
    Refused,
    SetupError,
    SignInRefused,
    StepUpRequired,
    StorageLost,
)
from lowtide.kernel.ids import SeededIds, SystemIds
from lowtide.kernel.schema import Principal
from lowtide.settings import Settings
from lowtide.storage.db import Database, Tx
from tests.api.client import Client
from tests.auth.authenticator import Authenticator
from tests.auth.world import World, ask_for, code, google, opened
from tests.server_process import SECRET_KEY

pytestmark = pytest.mark.anyio
NODE = Path(__file__).parent.parent / "node"


@pytest.fixture
def passkeys(world: World) -> Passkeys:
    return passkeys_of(world)


def passkeys_of(world: World) -> Passkeys:
    made = Passkeys(
        world.database,
        Challenges(world.vault, world.clock, world.ids),
        world.users,
        world.sessions,
        world.accounts.hooks,
        world.accounts.audit,
        world.clock,
        world.ids,
        passkey_site("app.example", "App", ()),
    )
    world.sign_in.credentials.append(made)
    return made


async def ann(world: World, email: str = "ann@example.com") -> Principal:
    return world.who(await world.enter(google(f"g-{email}", email)))


async def registered(passkeys: Passkeys, who: Principal, device: Authenticator) -> RegistrationCredential:
    return msgspec.convert(device.register(await passkeys.begin_registration(who)), RegistrationCredential)


async def make(passkeys: Passkeys, who: Principal, device: Authenticator) -> Passkey:
    return await passkeys.register(who, await registered(passkeys, who, device), "Phone", "r1")


async def signed_with(
    passkeys: Passkeys, device: Authenticator, user: str | None = None
) -> AssertionCredential:
    return msgspec.convert(device.sign_in(await passkeys.begin_sign_in(user)), AssertionCredential)


async def prove(world: World, passkeys: Passkeys, device: Authenticator) -> Proof:
    return await used(world, passkeys, await signed_with(passkeys, device))


async def used(world: World, passkeys: Passkeys, answer: AssertionCredential, user: str = "") -> Proof:
    return await world.spent(await passkeys.prove(answer, user=user))


class TestSigningIn:
    async def test_a_passkey_signs_its_user_in(self, world: World, passkeys: Passkeys) -> None:
        """Without a name or a second factor; the same user, a session of its own."""
        who, device = await ann(world), Authenticator()
        kept = await make(passkeys, who, device)
        proof = await prove(world, passkeys, device)
        assert (proof.provider, proof.subject, proof.strong) == ("passkey", kept.id, True)
        signed = await world.enter(proof)
        assert (signed.user.id, signed.outcome) == (who.user, "signed_in")
        assert world.who(signed).session != who.session
        assert set(world.who(signed).amr) == {"hwk", "user"}

    async def test_an_anonymous_user_becomes_somebody(self, world: World, passkeys: Passkeys) -> None:
        """Whoever makes a passkey can sign in again, so is anonymous no longer, and keeps their id."""
        guest = world.who(await world.sign_in.anonymous(ask_for()))
        device = Authenticator()
        await make(passkeys, guest, device)
        signed = await world.enter(await prove(world, passkeys, device))
        assert signed.user.id == guest.user
        assert not signed.user.anonymous

    async def test_a_hook_may_refuse_who_becomes_somebody(
        self, database: Database, clock: ManualClock, ids: SeededIds
    ) -> None:
        """It is a sign-up like any other: without leave nothing is kept, with it the hook's claims."""
        asked: list[SignInEvent] = []

        async def hook(told: SignInEvent) -> dict[str, str] | None:
            asked.append(told)
            if told.provider == "passkey" and len(asked) == 2:
                raise Refused("By invitation only.")
            return {"plan": "basic"} if told.provider == "passkey" else None

        async with opened(database, clock, ids, hooks={"before_sign_up": hook}) as world:
            passkeys, device = passkeys_of(world), Authenticator()
            guest = world.who(await world.sign_in.anonymous(ask_for()))
            with pytest.raises(SignInRefused):
                await make(passkeys, guest, device)
            assert await passkeys.list(guest.user) == []
            assert await world.rows("SELECT anonymous FROM users") == [(1,)]
            await make(passkeys, guest, Authenticator())
            assert [told.provider for told in asked] == ["anonymous", "passkey", "passkey"]
            assert await world.rows("SELECT anonymous, claims FROM users") == [(0, '{"plan":"basic"}')]

    async def test_a_merge_takes_passkeys_along(self, world: World, passkeys: Passkeys) -> None:
        """Whose a passkey is follows its identity: the device's handle stays what it was."""
        first, second = await ann(world), await ann(world, "second@example.com")
        device = Authenticator()
        kept = await make(passkeys, first, device)

        async def move(tx: Tx) -> None:
            await world.users.unlink(tx, first.user, "passkey", kept.id)
            await world.users.link(tx, second.user, Proof(provider="passkey", subject=kept.id))

        await world.write(move)
        assert (await world.enter(await prove(world, passkeys, device))).user.id == second.user
        assert [one.id for one in await passkeys.list(second.user)] == [kept.id]
        assert await passkeys.list(first.user) == []

    async def test_a_passkey_alone_makes_no_second_factor_necessary(
        self, world: World, passkeys: Passkeys
    ) -> None:
        """It is a way in: who loses the phone gets in by the others. Beside another factor it counts."""

        class Codes:
            async def factors(self, tx: Tx, user: str) -> tuple[str, ...]:
                return ("totp",)

            async def forget(self, tx: Tx, user: str) -> None:
                pass

        who, device = await ann(world), Authenticator()
        await make(passkeys, who, device)
        again = google("g-ann@example.com", "ann@example.com")
        assert (await world.enter(again)).user.id == who.user
        world.sign_in.credentials.append(Codes())
        waiting = await world.sign_in.complete(again, ask_for())
        assert isinstance(waiting, SecondFactorNeeded)
        assert set(waiting.factors) == {"totp", "passkey"}
        # The passkey by itself is two factors.
        assert isinstance(
            await world.sign_in.complete(await prove(world, passkeys, device), ask_for()), Signed
        )

    async def test_a_second_factor_is_the_same_users(self, world: World, passkeys: Passkeys) -> None:
        """Where a certain user is waited for, no other's passkey and no other challenge will do."""
        who, other = await ann(world), await ann(world, "bob@example.com")
        mine, his = Authenticator(), Authenticator()
        await make(passkeys, who, mine)
        await make(passkeys, other, his)
        options = await passkeys.begin_sign_in(who.user)
        assert [one["id"] for one in options["allowCredentials"]] == [mine.id]
        for device in (his, mine):
            answer = msgspec.convert(device.sign_in(options), AssertionCredential)
            if device is his:
                with pytest.raises(InvalidGrant):
                    await passkeys.prove(answer, user=who.user)
            else:
                assert (await used(world, passkeys, answer, who.user)).strong
        with pytest.raises(InvalidGrant):
            await passkeys.prove(await signed_with(passkeys, mine), user=who.user)
        with pytest.raises(InvalidGrant):
            await passkeys.prove(await signed_with(passkeys, mine, who.user))


class TestTricks:
    async def test_an_answer_is_good_once(self, world: World, passkeys: Passkeys) -> None:
        """A copied answer is refused, also when both come at the same time."""
        device = Authenticator()
        await make(passkeys, await ann(world), device)
        answer = await signed_with(passkeys, device)
        both = await asyncio.gather(
            *(used(world, passkeys, answer) for _ in range(2)), return_exceptions=True
        )
        assert sorted(type(one).__name__ for one in both) == ["InvalidGrant", "Proof"]
        with pytest.raises(InvalidGrant):
            await used(world, passkeys, answer)

    async def test_an_answer_is_used_up_with_its_sign_in(self, world: World, passkeys: Passkeys) -> None:
        """A server that dies in between leaves it good, counter and all; a phone that heard nothing and sends
        it again is refused, and called no copy."""
        device = Authenticator()
        await make(passkeys, await ann(world), device)
        device.counter = 7
        answer = await signed_with(passkeys, device)

        async def died(tx: Tx, outcome: Any) -> None:
            raise StorageLost

        first = await passkeys.prove(answer)
        with pytest.raises(StorageLost):
            await world.sign_in.complete(first.proof, ask_for(), spend=first.spend, also=died)
        assert (await world.enter(await passkeys.prove(answer))).outcome == "signed_in"
        with pytest.raises(InvalidGrant, match="used before"):
            await passkeys.prove(answer)
        assert "passkey.counter_back" not in await world.actions()

    async def test_nobody_is_made_of_a_passkey(
        self, database: Database, clock: ManualClock, ids: SeededIds
    ) -> None:
        """Its user deletes the account, or it, while it signs in: nobody new begins with it, nor becomes a
        guest somebody, and no hook hears of a sign-up."""
        asked: list[str] = []

        async def hook(told: SignInEvent) -> None:
            asked.append(told.provider)

        async with opened(database, clock, ids, hooks={"before_sign_up": hook}) as world:
            passkeys, device = passkeys_of(world), Authenticator()
            who = await ann(world)
            kept = await make(passkeys, who, device)
            late = [await passkeys.prove(await signed_with(passkeys, device)) for _ in range(2)]
            await passkeys.delete(who, kept.id, "r1")
            guest = world.who(await world.sign_in.anonymous(ask_for()))
            users = await world.rows("SELECT id, anonymous FROM users ORDER BY id")
            with pytest.raises(InvalidGrant, match="does not know"):
                await world.enter(late[0])
            with pytest.raises(InvalidGrant, match="does not know"):
                await world.enter(late[1], upgrade=guest)
            assert await world.rows("SELECT id, anonymous FROM users ORDER BY id") == users
            assert asked == ["google", "anonymous"]

    async def test_an_answer_comes_in_time(
        self, world: World, passkeys: Passkeys, clock: ManualClock
    ) -> None:
        """Five minutes after the question it is too late."""
        who, device = await ann(world), Authenticator()
        options = await passkeys.begin_registration(who)
        await make(passkeys, who, device)
        answer = await signed_with(passkeys, device)
        clock.advance(LIFE)
        with pytest.raises(InvalidGrant, match="expired"):
            await passkeys.prove(answer)
        late = msgspec.convert(Authenticator().register(options), RegistrationCredential)
        with pytest.raises(InvalidGrant, match="expired"):
            await passkeys.register(who, late, "Late", "r1")

    async def test_a_challenge_is_for_one_ceremony_and_one_user(
        self, world: World, passkeys: Passkeys
    ) -> None:
        """Another user's challenge registers nothing, nor does one for signing in; and none signs in."""
        who, other = await ann(world), await ann(world, "bob@example.com")
        theirs = await passkeys.begin_registration(other)
        entering = await passkeys.begin_sign_in()
        for challenge in (theirs["challenge"], entering["challenge"], "AAAA"):
            options = await passkeys.begin_registration(who) | {"challenge": challenge}
            answer = msgspec.convert(Authenticator().register(options), RegistrationCredential)
            with pytest.raises(InvalidGrant):
                await passkeys.register(who, answer, "Mine", "r1")
        device = Authenticator()
        await make(passkeys, who, device)
        asked = await passkeys.begin_sign_in() | {
            "challenge": (await passkeys.begin_registration(who))["challenge"]
        }
        with pytest.raises(InvalidGrant):
            await passkeys.prove(msgspec.convert(device.sign_in(asked), AssertionCredential))
        assert await passkeys.list(other.user) == []

    async def test_a_counter_that_goes_back_is_refused_and_written_down(
        self, world: World, passkeys: Passkeys
    ) -> None:
        """A copy gives itself away; authenticators that do not count (always 0) are let in."""
        who, device = await ann(world), Authenticator()
        await make(passkeys, who, device)
        assert (await prove(world, passkeys, device)).strong
        assert (await prove(world, passkeys, device)).strong
        device.counter = 5
        assert (await prove(world, passkeys, device)).strong
        for counter in (5, 4, 0):
            device.counter = counter
            with pytest.raises(InvalidGrant, match="backwards"):
                await prove(world, passkeys, device)
        assert (await world.actions()).count("passkey.counter_back") == 3
        device.counter = 6
        assert (await prove(world, passkeys, device)).strong

    async def test_of_two_answers_with_one_count_one_is_refused(
        self, world: World, passkeys: Passkeys
    ) -> None:
        """Also when both come at the same time, with challenges of their own."""
        device = Authenticator()
        await make(passkeys, await ann(world), device)
        device.counter = 1
        answers = [await signed_with(passkeys, device) for _ in range(2)]
        both = await asyncio.gather(
            *(used(world, passkeys, answer) for answer in answers), return_exceptions=True
        )
        assert sorted(type(one).__name__ for one in both) == ["InvalidGrant", "Proof"]

    async def test_the_handle_names_the_owner(self, world: World, passkeys: Passkeys) -> None:
        """An answer without a handle, or with another user's, signs nobody in (section 7.2, step 6)."""
        device, other = Authenticator(), Authenticator()
        await make(passkeys, await ann(world), device)
        await make(passkeys, await ann(world, "bob@example.com"), other)
        handle = device.handle
        for wrong in ("", other.handle, "AAAA"):
            device.handle = wrong
            with pytest.raises(InvalidGrant):
                await prove(world, passkeys, device)
        device.handle = handle
        assert (await prove(world, passkeys, device)).strong

    async def test_an_unknown_passkey_signs_nobody_in(self, world: World, passkeys: Passkeys) -> None:
        """Nobody is made up for it, either."""
        stranger = Authenticator()
        stranger.handle = "A" * 43
        users = await world.rows("SELECT id FROM users")
        with pytest.raises(InvalidGrant, match="does not know"):
            await prove(world, passkeys, stranger)
        assert await world.rows("SELECT id FROM users") == users


class TestKeeping:
    async def test_a_passkey_is_kept_once(self, world: World, passkeys: Passkeys) -> None:
        """The same credential for another user is refused, and stays whose it is."""
        who, other, device = await ann(world), await ann(world, "bob@example.com"), Authenticator()
        await make(passkeys, who, device)
        with pytest.raises(Conflict):
            await make(passkeys, other, device)
        assert await passkeys.list(other.user) == []
        excluded = (await passkeys.begin_registration(who))["excludeCredentials"]
        assert excluded == [{"type": "public-key", "id": device.id, "transports": ["hybrid", "internal"]}]

    async def test_there_is_an_end_to_them(self, world: World, passkeys: Passkeys) -> None:
        """A user has at most 32, also if the last places are filled at the same time."""
        who = await ann(world)
        for _ in range(MAX_PASSKEYS - 1):
            await make(passkeys, who, Authenticator())
        answers = [await registered(passkeys, who, Authenticator()) for _ in range(2)]
        both = await asyncio.gather(
            *[passkeys.register(who, answer, "x", "r") for answer in answers], return_exceptions=True
        )
        assert sorted(type(one).__name__ for one in both) == ["Conflict", "Passkey"]
        with pytest.raises(Conflict):
            await passkeys.begin_registration(who)

    async def test_making_one_needs_a_recent_sign_in(
        self, world: World, passkeys: Passkeys, clock: ManualClock
    ) -> None:
        """A token that was copied does not turn into a way in that lasts."""
        who = await ann(world)
        kept = await make(passkeys, who, Authenticator())
        answer = await registered(passkeys, who, Authenticator())
        clock.advance(RECENT + 1)
        with pytest.raises(StepUpRequired):
            await passkeys.begin_registration(who)
        with pytest.raises(StepUpRequired):
            await passkeys.register(who, answer, "x", "r")
        with pytest.raises(StepUpRequired):
            await passkeys.delete(who, kept.id, "r")
        assert [one.id for one in await passkeys.list(who.user)] == [kept.id]

    async def test_only_the_owner_names_and_deletes(self, world: World, passkeys: Passkeys) -> None:
        """Another's passkey is not found. A deleted one signs nobody in. All of it is written down."""
        who, other, device = await ann(world), await ann(world, "bob@example.com"), Authenticator()
        kept = await make(passkeys, who, device)
        for work in (passkeys.rename(other, kept.id, "His", "r"), passkeys.delete(other, kept.id, "r")):
            with pytest.raises(NotFound):
                await work
        await passkeys.rename(who, kept.id, "Work phone", "r")
        assert [one.name for one in await passkeys.list(who.user)] == ["Work phone"]
        await passkeys.delete(who, kept.id, "r")
        with pytest.raises(InvalidGrant):
            await prove(world, passkeys, device)
        assert await passkeys.list(who.user) == []
        assert await world.rows("SELECT id FROM passkey") == []
        actions = [one for one in await world.actions() if one.startswith("passkey.")]
        assert sorted(actions) == ["passkey.add", "passkey.delete", "passkey.rename"]

    async def test_the_only_way_in_stays(self, world: World, passkeys: Passkeys) -> None:
        """Who could never sign in again keeps the passkey."""
        signed = await world.sign_in.anonymous(ask_for())
        kept = await make(passkeys, world.who(signed), Authenticator())
        guest = world.who(await world.sessions.refresh(signed.refresh_token))
        with pytest.raises(Conflict, match="only way in"):
            await passkeys.delete(guest, kept.id, "r")
        other = await make(passkeys, guest, Authenticator())
        await passkeys.delete(guest, kept.id, "r")
        assert [one.id for one in await passkeys.list(guest.user)] == [other.id]

    async def test_a_passkey_is_not_half_taken_away(self, world: World, passkeys: Passkeys) -> None:
        """As a way in alone it is not unlinked: it would go on as a second factor. Deleted, it is neither."""
        device = Authenticator()
        ann = world.who(await world.enter(code("ann@example.com")))
        kept = await make(passkeys, ann, device)
        with pytest.raises(Conflict, match="where passkeys are"):
            await world.accounts.identities.unlink(ann, "passkey", kept.id, ask_for())
        assert ("passkey", kept.id) in [
            (way.provider, way.subject)
            for way in await world.write(lambda tx: world.users.identities(tx, ann.user))
        ]
        await passkeys.delete(ann, kept.id, "r")
        assert await world.write(lambda tx: passkeys.factors(tx, ann.user)) == ()

    async def test_an_address_that_is_reclaimed_loses_its_passkeys(
        self, world: World, passkeys: Passkeys
    ) -> None:
        """Whoever signed up with another's address and made a passkey is out, and nothing of it stays."""
        thief = world.who(await world.enter(google("thief", "ann@example.com", verified=False)))
        device = Authenticator()
        await make(passkeys, thief, device)
        await world.enter(google("ann", "ann@example.com"))
        with pytest.raises(InvalidGrant):
            await prove(world, passkeys, device)
        assert await world.rows("SELECT id FROM passkey") == []

    @pytest.mark.parametrize(
        ("rp_id", "origins"),
        [
            ("https://app.example", ()),
            ("", ()),
            ("app.example/", ()),
            ("app.example", ("https://app.example/",)),
            ("app.example", ("http://app.example",)),
            ("app.example", ("*",)),
            ("app.example", ("android:apk-key-hash:AA=",)),
        ],
    )
    def test_a_site_that_cannot_be_is_found_at_start(self, rp_id: str, origins: tuple[str, ...]) -> None:
        """Paths, patterns and http are mistakes of the operator, not of users later."""
        with pytest.raises(SetupError):
            passkey_site(rp_id, "App", origins)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


@pytest.fixture
def built(tmp_path: Path, listener: socket.socket) -> Lowtide:
    """A whole backend whose passkeys are localhost's. Compiling an app reads its source: not on a loop."""
    clock = SystemClock()
    port = listener.getsockname()[1]
    settings = Settings(
        database=str(tmp_path / "data.db"),
        secret_key=SECRET_KEY,
        rate_limits=0,
        passkey_origins=(f"http://localhost:{port}",),
    )
    return Lowtide(settings, App("passkeys"), clock, SystemIds(clock))


@pytest.fixture
async def backend(built: Lowtide) -> AsyncIterator[Lowtide]:
    await built.start()
    yield built
    await built.stop()


class TestOverHttp:
    async def test_a_passkeys_life_in_a_real_browser(self, backend: Lowtide, listener: socket.socket) -> None:
        """Chromium with @simplewebauthn/browser makes a passkey and signs in with it, without a name."""
        guest = await backend.accounts.sign_in.anonymous(Ask())
        stop = asyncio.Event()
        serving = asyncio.create_task(serve(backend.asgi, listener, stop=stop))
        address = f"http://localhost:{listener.getsockname()[1]}"
        process = await asyncio.create_subprocess_exec(
            "node",
            "passkeys.mjs",
            address,
            guest.access_token,
            cwd=NODE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(120):
            output, errors = await process.communicate()
        stop.set()
        await serving
        assert process.returncode == 0, errors.decode()
        result: dict[str, Any] = json.loads(output)
        assert result["made"]["status"] == 201, result["made"]
        assert result["made"]["body"]["name"] == "Phone"
        assert result["stale"]["status"] == 401
        # The device holds one already.
        assert result["twice"] == "InvalidStateError"
        for entered in (result["first"], result["second"]):
            assert entered["status"] == 200, entered
            assert entered["body"]["user"]["id"] == guest.user.id
            assert not entered["body"]["user"]["anonymous"]
        assert result["replayed"]["status"] == 401
        assert result["replayed"]["body"]["code"] == "invalid_grant"
        assert result["unverified"] in ("NotAllowedError", 401)
        assert result["resident"] == [True]
        (listed,) = result["listed"]["body"]["passkeys"]
        assert listed["id"] == result["made"]["body"]["id"]

    async def test_what_is_no_credential_is_malformed(self, backend: Lowtide) -> None:
        """Wrong shapes, huge parts and unknown names of ours are 400, and a made-up answer is 401."""
        client = Client(backend.asgi)
        path = "/v1/auth/passkeys/sign-in"
        good = {"clientDataJSON": "AAAA", "authenticatorData": "AAAA", "signature": "AAAA"}
        shape = {"id": "AAAA", "rawId": "AAAA", "type": "public-key", "response": good}
        credential: Any
        for credential in (
            {},
            [],
            shape | {"type": "password"},
            shape | {"response": {}},
            shape | {"response": good | {"signature": "A" * 20_000}},
            shape | {"id": 5},
            shape,
        ):
            assert (await client.post(path, json={"credential": credential})).status == 400
        assert (await client.post(path, json={"credential": shape, "admin": True})).status == 400
        deep = await client.post(path, body=b"[" * 60_000, headers={"content-type": "application/json"})
        assert deep.status == 400
        begun = (await client.post(f"{path}/begin", json={})).json()["publicKey"]
        device = Authenticator(rp_id="localhost", origin="https://localhost")
        device.handle = "A" * 43
        answer = await client.post(path, json={"credential": device.sign_in(begun)})
        assert (answer.status, answer.code) == (401, "invalid_grant")
        assert (await client.post(f"{path}/begin", json={"ticket": "made-up"})).code == "invalid_grant"
