"""Signing in: whose proof it is, who is linked to whom, and who is kept apart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import msgspec
import pytest

from lowtide.auth.admin import Admin
from lowtide.auth.hooks import SignInEvent
from lowtide.auth.identities import RECENT
from lowtide.auth.model import Evidence, Proof, SecondFactorNeeded, Signed
from lowtide.auth.signin import TICKET
from lowtide.kernel.clock import ManualClock
from lowtide.kernel.errors import (
    AccountDisabled,
    Conflict,
    FunctionFailed,
    IdentityTaken,
    IdentityUnlinked,
    InvalidGrant,
    Malformed,
    Refused,
    SessionRevoked,
    SignInRefused,
    StepUpRequired,
)
from lowtide.kernel.ids import SeededIds
from lowtide.kernel.schema import Principal
from lowtide.storage.db import Database, Tx
from tests.auth.world import World, ask_for, code, google, opened, password
from tests.conftest import MakeDatabase

pytestmark = pytest.mark.anyio

ANN = "ann@example.com"
SERVER = Principal(user="ops", space="main", server=True)


class Factors:
    """A method that keeps second factors."""

    def __init__(self) -> None:
        self.of: dict[str, tuple[str, ...]] = {}

    async def factors(self, tx: Tx, user: str) -> tuple[str, ...]:
        return self.of.get(user, ())

    async def forget(self, tx: Tx, user: str) -> None:
        self.of.pop(user, None)


class Spending:
    """A proof that is used up, and how often it was."""

    def __init__(self, proof: Proof):
        self.times = 0
        self.evidence = Evidence(proof, self.spend)

    async def spend(self, tx: Tx) -> None:
        self.times += 1


async def ways(world: World, user: str) -> list[tuple[str, str]]:
    found = await world.write(lambda tx: world.users.identities(tx, user))
    return [(way.provider, way.subject) for way in found]


class TestLinking:
    async def test_the_same_identity_is_the_same_user(self, world: World) -> None:
        """Also when its address has changed meanwhile."""
        first = await world.enter(google("g1", ANN))
        again = await world.enter(google("g1", "new@example.com"))
        assert (first.outcome, again.outcome) == ("created", "signed_in")
        assert first.user.id == again.user.id
        assert first.session_id != again.session_id
        assert await ways(world, first.user.id) == [("google", "g1")]

    @pytest.mark.parametrize(
        ("first", "second", "same"),
        [
            (google("g1", ANN), code(ANN), True),
            (code(ANN), google("g1", ANN), True),
            (code(ANN), google("g1", ANN, verified=False), False),
            (google("g1", ANN, verified=False), google("g2", ANN, verified=False), False),
            (code(ANN), password(ANN), False),
            (google("g1", ANN), google("g2", "bob@example.com"), False),
            (google("g1"), google("g2"), False),
        ],
        ids=lambda value: value.subject if isinstance(value, Proof) else "",
    )
    async def test_verified_addresses_link_and_others_do_not(
        self, world: World, first: Proof, second: Proof, same: bool
    ) -> None:
        """Two proofs are one user only where both vouch for the address."""
        a, b = await world.enter(first), await world.enter(second)
        assert (a.user.id == b.user.id) is same
        if not same:
            assert b.outcome == "created"
            assert b.user.email is None or b.user.email != a.user.email
            assert await ways(world, a.user.id) == [(first.provider, first.subject)]

    async def test_a_hijacker_who_was_there_first_is_thrown_out(self, world: World) -> None:
        """Somebody signed up with the address and never proved it: the owner gets the row, the other nothing.

        No session, no identity, no second factor of the first one survives; the old tokens say so at once.
        """
        kept = Factors()
        world.sign_in.credentials.append(kept)
        squatter = await world.enter(password(ANN))
        kept.of[squatter.user.id] = ("totp",)
        assert not squatter.user.email_verified
        owner = await world.enter(google("g1", ANN))
        assert owner.user.id == squatter.user.id
        assert owner.user.email_verified
        assert kept.of == {}
        assert await ways(world, owner.user.id) == [("google", "g1")]
        with pytest.raises(SessionRevoked):
            world.who(squatter)
        with pytest.raises(SessionRevoked):
            await world.sessions.refresh(squatter.refresh_token)
        assert world.who(owner).user == owner.user.id
        again = await world.enter(password(ANN))
        assert again.user.id != owner.user.id, "the password's old identity must not open the row"
        assert "user.reclaim" in await world.actions()

    async def test_nothing_that_a_hijacker_wrote_is_left_to_the_owner(
        self, database: Database, clock: ManualClock, ids: SeededIds
    ) -> None:
        """Neither name, number nor claims: rules and people would believe them. What an admin gave stays."""
        seen: list[SignInEvent] = []

        async def up(event: SignInEvent) -> Any:
            return {"nick": event.user.name, "plan": "gold"}

        async def again(event: SignInEvent) -> Any:
            seen.append(event)
            return {"seen": 1}

        hooks = {"before_sign_up": up, "before_sign_in": again}
        async with opened(database, clock, ids, hooks=hooks) as world:
            squatter = await world.enter(
                password(ANN, name="Mallory", phone="+41790000000", phone_verified=True)
            )
            assert (squatter.user.name, squatter.user.claims["nick"]) == ("Mallory", "Mallory")
            await Admin(database, world.accounts).change(SERVER, squatter.user.id, roles=("crew",))
            owner = await world.enter(code(ANN))
            assert owner.user.id == squatter.user.id
            assert (owner.user.name, owner.user.phone, owner.user.phone_verified) == (None, None, False)
            assert (owner.user.claims, owner.user.roles) == ({"seen": 1}, ("crew",))
            assert seen[0].user.name is None, "the app's own code is not told it either"
            assert "gold" not in str(await world.rows("SELECT * FROM users"))

    async def test_sign_ups_at_the_same_moment_are_one_user(self, world: World) -> None:
        """Two taps, or two methods with one address: one user, no error."""
        signed = await asyncio.gather(*(world.enter(p) for p in (code(ANN), google("g1", ANN), code(ANN))))
        assert len({one.user.id for one in signed}) == 1
        assert [one.outcome for one in signed].count("created") == 1
        assert len(await world.rows("SELECT id FROM users")) == 1

    @pytest.mark.parametrize(
        "change",
        [
            {"subject": ""},
            {"subject": "x" * 256},
            {"subject": "a\x00"},
            {"provider": ""},
            {"email": "x" * 255},
            {"email": ""},
            {"phone": "+" + "1" * 20},
        ],
    )
    async def test_a_proof_that_cannot_be_kept_is_refused(self, world: World, change: dict[str, str]) -> None:
        """Whatever a provider says; and nothing is written."""
        with pytest.raises(Malformed):
            await world.enter(msgspec.structs.replace(google("g1"), **change))
        assert await world.rows("SELECT id FROM users") == []


class TestAnonymous:
    async def test_an_upgrade_keeps_the_id(self, world: World) -> None:
        """And the session: what the phone holds goes on, as somebody who can come back."""
        guest = await world.sign_in.anonymous(ask_for())
        assert guest.user.anonymous
        assert world.who(guest).claims["anonymous"] is True
        signed = await world.enter(code(ANN), upgrade=world.who(guest))
        assert signed.outcome == "upgraded"
        assert signed.user.id == guest.user.id
        assert signed.session_id == guest.session_id
        assert not signed.user.anonymous
        assert "anonymous" not in world.who(signed).claims
        assert (await world.sessions.refresh(signed.refresh_token)).user.email == ANN
        assert (await world.enter(code(ANN))).user.id == guest.user.id

    async def test_a_guest_who_was_signed_out_elsewhere_is_not_upgraded(self, world: World) -> None:
        """Another node did it, and this one has not heard: whoever copied the token does not get the account,
        and what has proved them is not used up."""
        guest, evidence = await world.sign_in.anonymous(ask_for()), Spending(code(ANN))
        who = world.who(guest)

        async def elsewhere(tx: Tx) -> None:
            session = await world.sessions.find(tx, guest.session_id)
            assert session is not None
            await world.sessions.revoke(tx, session, "sign_out")

        await world.write(elsewhere)
        assert world.who(guest) == who, "nobody has told this node"
        with pytest.raises(SessionRevoked):
            await world.enter(evidence.evidence, upgrade=who)
        assert evidence.times == 0
        assert await ways(world, guest.user.id) == []
        assert (await world.enter(evidence.evidence)).outcome == "created"

    async def test_two_guests_are_two_users(self, world: World) -> None:
        """Nothing is shared by those who proved nothing."""
        a, b = await world.sign_in.anonymous(ask_for()), await world.sign_in.anonymous(ask_for())
        assert a.user.id != b.user.id

    async def test_a_known_identity_signs_its_own_user_in(self, world: World) -> None:
        """An upgrade never takes another user's identity: that user is signed in, the guest stays."""
        ann = await world.enter(code(ANN))
        guest = await world.sign_in.anonymous(ask_for())
        signed = await world.enter(code(ANN), upgrade=world.who(guest))
        assert (signed.outcome, signed.user.id) == ("signed_in", ann.user.id)
        assert world.who(guest).user == guest.user.id
        assert (await world.sessions.refresh(guest.refresh_token)).user.anonymous

    async def test_only_a_guest_is_upgraded(self, world: World) -> None:
        """The token of a full account does not make a new identity its own."""
        ann = await world.enter(code(ANN))
        other = await world.enter(code("bob@example.com"), upgrade=world.who(ann))
        assert other.outcome == "created"
        assert other.user.id != ann.user.id
        assert await ways(world, ann.user.id) == [("email", ANN)]


class TestSecondFactor:
    async def test_nothing_happens_before_the_second_factor(self, world: World) -> None:
        """No session, no link, no sign-in time; then the ticket is good once."""
        kept = Factors()
        world.sign_in.credentials.append(kept)
        ann = await world.enter(code(ANN))
        kept.of[ann.user.id] = ("totp", "recovery")
        asked = await world.sign_in.complete(google("g1", ANN), ask_for())
        assert isinstance(asked, SecondFactorNeeded)
        assert asked.factors == ("totp", "recovery")
        assert await ways(world, ann.user.id) == [("email", ANN)]
        assert len(await world.rows("SELECT id FROM session")) == 1
        assert (await world.sign_in.waiting(asked.ticket)).id == ann.user.id
        signed = await world.sign_in.finish(asked.ticket, ask_for(), ("otp",))
        assert signed.user.id == ann.user.id
        assert world.who(signed).amr == ("fed", "otp", "mfa")
        assert await ways(world, ann.user.id) == [("email", ANN), ("google", "g1")]
        with pytest.raises(InvalidGrant):
            await world.sign_in.finish(asked.ticket, ask_for(), ("otp",))

    async def test_a_ticket_expires_and_cannot_be_guessed(self, world: World) -> None:
        """Ten minutes; what the database shows of it is no ticket."""
        kept = Factors()
        world.sign_in.credentials.append(kept)
        ann = await world.enter(code(ANN))
        kept.of[ann.user.id] = ("totp",)
        asked = await world.sign_in.complete(code(ANN), ask_for())
        assert isinstance(asked, SecondFactorNeeded)
        ((stored,),) = await world.rows("SELECT hash FROM sign_in_ticket")
        for wrong in ("", "x", stored, asked.ticket[:-1]):
            with pytest.raises(InvalidGrant):
                await world.sign_in.waiting(wrong)
        world.clock.advance(TICKET + 1)
        with pytest.raises(InvalidGrant):
            await world.sign_in.finish(asked.ticket, ask_for(), ("otp",))
        assert len(await world.rows("SELECT id FROM session")) == 1

    async def test_a_strong_proof_needs_no_second(self, world: World) -> None:
        """A passkey with user verification is two factors."""
        kept = Factors()
        world.sign_in.credentials.append(kept)
        ann = await world.enter(code(ANN))
        kept.of[ann.user.id] = ("totp",)
        strong = msgspec.structs.replace(google("g1", ANN), strong=True)
        assert (await world.enter(strong)).user.id == ann.user.id

    async def test_a_step_up_goes_on_with_the_same_session(self, world: World) -> None:
        """The same person proves it again: a new auth_time, no second session, the refresh token stays
        good.
        """
        ann = await world.enter(code(ANN))
        world.clock.advance(3600)
        again = await world.sessions.refresh(ann.refresh_token)
        proved = await world.enter(code(ANN), upgrade=world.who(again))
        assert proved.session_id == ann.session_id
        assert world.who(proved).auth_time == world.clock.now() // 1000 * 1000
        assert proved.refresh_token == again.refresh_token
        assert len(await world.rows("SELECT id FROM session")) == 1

    async def test_a_proof_is_as_old_as_it_says(self, world: World) -> None:
        """Who signed in at a provider this morning has proved nothing anew: not for a step-up, not as a guest
        who becomes somebody, not in a new session. What was proved later stays proved; a second factor is
        always of now."""
        start = world.clock.now() // 1000 * 1000
        old = google("g1", ANN, auth_time=start - 7_200_000)
        guest = await world.sign_in.anonymous(ask_for())
        assert world.who(guest).auth_time == start
        upgraded = await world.enter(old, upgrade=world.who(guest))
        assert (upgraded.outcome, world.who(upgraded).auth_time) == ("upgraded", start)
        assert world.who(await world.enter(old)).auth_time == start - 7_200_000
        world.clock.advance(3600)
        again = await world.sessions.refresh(upgraded.refresh_token)
        proved = await world.enter(old, upgrade=world.who(again))
        assert (proved.session_id, world.who(proved).auth_time) == (guest.session_id, start)
        later = google("g1", ANN, auth_time=start + 3_000_000)
        proved = await world.enter(later, upgrade=world.who(proved))
        assert (proved.session_id, world.who(proved).auth_time) == (guest.session_id, start + 3_000_000)
        kept = Factors()
        world.sign_in.credentials.append(kept)
        kept.of[guest.user.id] = ("totp",)
        asked = await world.sign_in.complete(old, ask_for())
        assert isinstance(asked, SecondFactorNeeded)
        signed = await world.sign_in.finish(asked.ticket, ask_for(), ("otp",))
        assert world.who(signed).auth_time == start + 3_600_000


class TestIdentities:
    async def test_identify_opens_no_session(self, world: World) -> None:
        """The provider's pages keep their own; the user is found or made all the same."""
        user = await world.sign_in.identify(code(ANN), ask_for())
        assert not isinstance(user, SecondFactorNeeded)
        assert (user.email, user.email_verified) == (ANN, True)
        assert await world.rows("SELECT id FROM session") == []

    async def test_another_way_in_can_be_linked_and_taken_away(self, world: World) -> None:
        """But never another user's, and never the last."""
        ann, bob = await world.enter(code(ANN)), await world.enter(google("g1", "bob@example.com"))
        with pytest.raises(IdentityTaken):
            await world.accounts.identities.link(world.who(ann), google("g1"), ask_for())
        with pytest.raises(IdentityTaken):
            await world.accounts.identities.link(world.who(ann), google("g9", "bob@example.com"), ask_for())
        await world.accounts.identities.link(world.who(ann), google("g2"), ask_for())
        assert (await world.enter(google("g2"))).user.id == ann.user.id
        ann = await world.enter(code(ANN))
        await world.accounts.identities.unlink(world.who(ann), "google", "g1", ask_for())
        assert await ways(world, bob.user.id) == [("google", "g1")], "another user's is not touched"
        await world.accounts.identities.unlink(world.who(ann), "google", "g2", ask_for())
        with pytest.raises(Conflict):
            await world.accounts.identities.unlink(world.who(ann), "email", ANN, ask_for())
        assert await ways(world, ann.user.id) == [("email", ANN)]

    async def test_a_provider_that_was_taken_away_links_by_no_address(self, world: World) -> None:
        """Its word for the address is not the user's: it comes back by the user's own hand only."""
        ann = await world.enter(code(ANN))
        await world.enter(google("g1", ANN))
        ann = await world.enter(code(ANN))
        await world.accounts.identities.unlink(world.who(ann), "google", "g1", ask_for())
        for upgrade in (None, world.who(await world.sign_in.anonymous(ask_for()))):
            with pytest.raises(IdentityUnlinked):
                await world.enter(google("g1", ANN), upgrade=upgrade)
        assert await ways(world, ann.user.id) == [("email", ANN)]
        other = await world.enter(google("g2", ANN))
        assert other.user.id == ann.user.id, "another account of that provider was not taken away"
        signed = await world.accounts.identities.link(world.who(ann), google("g1", ANN), ask_for())
        assert world.who(signed).user == ann.user.id
        assert (await world.enter(google("g1", ANN))).user.id == ann.user.id
        # What the provider ends, as Apple does, was not taken away by the user.
        await world.write(lambda tx: world.users.unlink(tx, ann.user.id, "google", "g1"))
        assert (await world.enter(google("g1", ANN))).user.id == ann.user.id

    async def test_a_way_in_is_linked_only_soon_after_a_sign_in(self, world: World) -> None:
        """A token that was copied makes its holder no way in that stays."""
        ann = await world.enter(code(ANN))
        who = world.who(ann)
        world.clock.advance(RECENT + 1)
        with pytest.raises(StepUpRequired):
            await world.accounts.identities.link(who, google("g1"), ask_for())
        assert await ways(world, ann.user.id) == [("email", ANN)]

    async def test_an_address_goes_with_the_last_way_in_that_proved_it(self, world: World) -> None:
        """Whoever gets the mailbox later is somebody else; one that another way vouches for stays."""
        ann = await world.enter(code(ANN))
        for way in (google("g1", ANN), Proof(provider="phone", subject="+15550001", phone="+15550001")):
            await world.accounts.identities.link(world.who(ann), way, ask_for())
            ann = await world.enter(code(ANN))
        await world.accounts.identities.unlink(world.who(ann), "email", ANN, ask_for())
        assert (await world.enter(code(ANN))).user.id == ann.user.id, "Google still vouches for it"
        for provider, subject in (("email", ANN), ("google", "g1")):
            await world.accounts.identities.unlink(world.who(ann), provider, subject, ask_for())
        later = await world.enter(code(ANN))
        assert (later.outcome, later.user.id == ann.user.id) == ("created", False)
        kept = await world.write(lambda tx: world.users.get(tx, ann.user.id))
        assert (kept.email, kept.email_verified, kept.phone) == (None, False, "+15550001")

    async def test_another_address_takes_the_place_of_one_that_went(self, world: World) -> None:
        """Whoever changes their address has one all the time; what nobody verified is none."""
        ann, new = await world.enter(code(ANN)), "ann@example.org"
        for way in (google("g1", "bob@example.com", verified=False), code(new)):
            await world.accounts.identities.link(world.who(ann), way, ask_for())
            ann = await world.enter(code(ANN))
        await world.accounts.identities.unlink(world.who(ann), "email", ANN, ask_for())
        kept = await world.write(lambda tx: world.users.get(tx, ann.user.id))
        assert (kept.email, kept.email_verified) == (new, True)
        other = await world.enter(google("g3", new))
        assert other.user.id == ann.user.id, "the address would have been free for a second user"
        assert (await world.enter(code(ANN))).user.id != ann.user.id

    async def test_a_way_in_goes_only_soon_after_a_sign_in(self, world: World) -> None:
        """A token that was copied later shuts its owner out of nothing, by no provider's name."""
        ann = await world.enter(code(ANN))
        await world.enter(google("g1", ANN))
        world.clock.advance(RECENT + 1)
        late = await world.sessions.refresh(ann.refresh_token)
        with pytest.raises(StepUpRequired):
            await world.accounts.identities.unlink(world.who(late), "google", "g1", ask_for())
        assert len(await ways(world, ann.user.id)) == 2
        again = await world.enter(code(ANN), upgrade=world.who(late))
        await world.accounts.identities.unlink(world.who(again), "google", "g1", ask_for())
        assert await ways(world, ann.user.id) == [("email", ANN)]

    async def test_an_address_of_somebody_else_locks_nobody_out(self, world: World) -> None:
        """A provider says another's address of a user it knew without one: they get in, not the address."""
        ann, bob = await world.enter(code(ANN)), await world.enter(google("g1"))
        again = await world.enter(google("g1", ANN))
        assert (again.user.id, again.user.email) == (bob.user.id, None)
        assert (await world.enter(code(ANN))).user.id == ann.user.id

    async def test_linking_a_verified_address_takes_it_from_who_only_claimed_it(self, world: World) -> None:
        """The claimer keeps the account, without the address and the way in that was named by it."""
        squatter = await world.enter(password(ANN))
        owner = await world.enter(google("g1"))
        user = (await world.accounts.identities.link(world.who(owner), code(ANN), ask_for())).user
        assert (user.email, user.email_verified) == (ANN, True)
        assert await ways(world, squatter.user.id) == []

    async def test_a_disabled_user_is_told_so(self, world: World) -> None:
        """By every way in; and nothing is linked."""
        ann = await world.enter(code(ANN))

        async def disable(tx: Tx) -> None:
            user = await world.users.get(tx, ann.user.id)
            await world.users.save(tx, msgspec.structs.replace(user, status="disabled"))

        await world.write(disable)
        for proof in (code(ANN), google("g1", ANN)):
            with pytest.raises(AccountDisabled):
                await world.enter(proof)
        with pytest.raises(SessionRevoked):
            await world.sessions.refresh(ann.refresh_token)
        assert await ways(world, ann.user.id) == [("email", ANN)]

    async def test_everything_is_audited(self, world: World) -> None:
        """Sign-ups, links, sessions: each in the transaction that did it."""
        ann = await world.enter(code(ANN))
        await world.enter(google("g1", ANN))
        await world.accounts.identities.unlink(world.who(ann), "google", "g1", ask_for())
        assert sorted(await world.actions()) == [
            "identity.link",
            "identity.unlink",
            "session.open",
            "session.open",
            "user.create",
        ]


class Meanwhile(Factors):
    """Lets something else happen while a sign-in is being written down."""

    def __init__(self, happen: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        super().__init__()
        self.happen = happen
        self.task: asyncio.Task[Any] | None = None

    async def factors(self, tx: Tx, user: str) -> tuple[str, ...]:
        if self.task is None:
            self.task = asyncio.create_task(self.happen())
            # It either ends meanwhile, or waits for this transaction: then nothing tells so.
            await asyncio.wait([self.task], timeout=0.5)
        return ()


class TestMeanwhile:
    """What others do to the user while a sign-in is under way is neither undone nor escaped.

    On PostgreSQL: SQLite has one writer.
    """

    @pytest.fixture
    async def world(
        self, make_database: MakeDatabase, clock: ManualClock, ids: SeededIds
    ) -> AsyncIterator[World]:
        async with opened(await make_database("postgres"), clock, ids) as world:
            yield world

    async def test_who_is_disabled_meanwhile_stays_so(self, world: World) -> None:
        """And the session that was just opened is over, whichever came first."""
        ann = await world.enter(code(ANN))
        admin = Admin(world.database, world.accounts)
        meanwhile = Meanwhile(lambda: admin.change(SERVER, ann.user.id, disabled=True))
        world.sign_in.credentials.append(meanwhile)
        try:
            again = await world.enter(code(ANN))
        except AccountDisabled:
            again = ann
        assert meanwhile.task is not None
        await meanwhile.task
        ((status,),) = await world.rows("SELECT status FROM users WHERE id = ?", ann.user.id)
        assert status == "disabled"
        with pytest.raises(SessionRevoked):
            await world.sessions.refresh(again.refresh_token)

    async def test_a_role_that_is_taken_meanwhile_does_not_come_back(self, world: World) -> None:
        """Signing in writes down what it changes, on top of what others have written."""
        admin = Admin(world.database, world.accounts)
        made = await admin.create(SERVER, email=ANN, roles=("admin",))
        meanwhile = Meanwhile(lambda: admin.change(SERVER, made.id, roles=()))
        world.sign_in.credentials.append(meanwhile)
        await world.enter(code(ANN))
        assert meanwhile.task is not None
        await meanwhile.task
        assert await world.rows("SELECT roles FROM users WHERE id = ?", made.id) == [("[]",)]
        assert not world.who(await world.enter(code(ANN))).admin


class TestHooks:
    @pytest.fixture
    def told(self) -> list[SignInEvent]:
        return []

    async def test_a_hook_may_set_claims(
        self, database: Database, clock: ManualClock, ids: SeededIds, told: list[SignInEvent]
    ) -> None:
        """At sign-up and at sign-in; they are in the token at once and stay."""

        async def up(event: SignInEvent) -> Any:
            told.append(event)
            return {"plan": "trial"}

        async def again(event: SignInEvent) -> Any:
            return {"seen": 1}

        async with opened(
            database, clock, ids, hooks={"before_sign_up": up, "before_sign_in": again}
        ) as world:
            first = await world.enter(google("g1", ANN, claims={"hd": "example.com"}))
            assert world.who(first).claims == {"plan": "trial"}
            assert (told[0].user.id, told[0].provider, told[0].claims) == (
                "",
                "google",
                {"hd": "example.com"},
            )
            second = await world.enter(google("g1", ANN))
            assert world.who(second).claims == {"plan": "trial", "seen": 1}
            assert len(told) == 1

    async def test_a_hook_may_refuse(self, database: Database, clock: ManualClock, ids: SeededIds) -> None:
        """With the app's own words; nothing is written."""

        async def no(event: SignInEvent) -> Any:
            raise Refused("Only for the crew.", code="not_crew")

        async with opened(database, clock, ids, hooks={"before_sign_up": no}) as world:
            for enter in (world.enter(code(ANN)), world.sign_in.anonymous(ask_for())):
                with pytest.raises(SignInRefused, match="Only for the crew") as caught:
                    await enter
                assert caught.value.details == {"refusal": "not_crew"}
            assert await world.rows("SELECT id FROM users") == []

    @pytest.mark.parametrize(
        "answer", [{"sub": "bob"}, {"roles": ["admin"]}, {"x": "y" * 3000}, [1], object()]
    )
    async def test_a_hook_that_fails_lets_nobody_in(
        self, database: Database, clock: ManualClock, ids: SeededIds, answer: Any
    ) -> None:
        """Whatever it returns or raises: an error of the app's code, and no user."""

        async def bad(event: SignInEvent) -> Any:
            if type(answer) is object:
                raise RuntimeError("oops")
            return answer

        async with opened(database, clock, ids, hooks={"before_sign_up": bad}) as world:
            with pytest.raises(FunctionFailed):
                await world.enter(code(ANN))
            assert await world.rows("SELECT id FROM users") == []

    async def test_an_after_hook_is_a_job(
        self, database: Database, clock: ManualClock, ids: SeededIds, told: list[SignInEvent]
    ) -> None:
        """It exists exactly if the sign-in does, and is told the user's id."""

        async def after(event: SignInEvent) -> Any:
            told.append(event)

        async with opened(database, clock, ids, hooks={"after_sign_up": after}) as world:
            signed = await world.enter(code(ANN))
            assert isinstance(signed, Signed)
            assert [kind for (kind,) in await world.rows("SELECT kind FROM job")] == ["auth.after_sign_up"]
            ((payload,),) = await world.rows("SELECT payload FROM job")
            await world.jobs.handler("auth.after_sign_up").call(
                None,  # type: ignore[arg-type]
                msgspec.json.decode(payload, type=SignInEvent),
            )
            assert told[0].user.id == signed.user.id
