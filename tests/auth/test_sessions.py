"""Sessions: who may refresh, what a repeat gets, and who is caught."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from lowtide.auth.model import Signed
from lowtide.auth.refresh import MAX_REFRESH_TOKEN, Rotation, Verdict, judge, rotation_digest
from lowtide.auth.sessions import ACCESS, IDLE, IDLE_ANONYMOUS, MAX_SESSIONS
from lowtide.kernel.errors import (
    Forbidden,
    InvalidGrant,
    LowtideError,
    Malformed,
    ProofMismatch,
    SessionRevoked,
    TokenExpired,
)
from tests.auth.world import World, ask_for, code

pytestmark = pytest.mark.anyio

DAY = 24 * 3600
A, B = "a" * 32, "b" * 32


def kept(counter: int, id: str | None = None, at: int = 0, bound: bool = False) -> Rotation:
    return Rotation(counter=counter, id=id, at=at, bound=bound)


@pytest.mark.parametrize(
    ("rotation", "counter", "id", "now", "expected"),
    [
        # the current token
        (kept(5), 5, None, 10**9, "rotate"),
        (kept(5, A), 5, B, 10**9, "rotate"),
        (kept(5, A), 5, None, 10**9, "rotate"),
        # from after a backup that was put back
        (kept(5), 9, A, 0, "rotate"),
        # its parent, with the same id: at any time
        (kept(5, A), 4, A, 10**12, "repeat"),
        (kept(5, A, bound=True), 4, A, 10**12, "repeat"),
        # its parent, without ids: a minute, or with the key
        (kept(5), 4, None, 60_000, "repeat"),
        (kept(5), 4, None, 60_001, "reuse"),
        (kept(5, bound=True), 4, None, 10**12, "repeat"),
        # its parent, from somebody else
        (kept(5, A), 4, B, 0, "reuse"),
        (kept(5, A), 4, None, 0, "reuse"),
        (kept(5, None), 4, A, 0, "reuse"),
        (kept(5, None, bound=True), 4, A, 0, "reuse"),
        # older ones
        (kept(5, A), 3, A, 0, "reuse"),
        (kept(5), 3, None, 0, "reuse"),
        (kept(5, bound=True), 0, None, 0, "reuse"),
    ],
)
def test_a_token_that_comes_again_is_judged(
    rotation: Rotation, counter: int, id: str | None, now: int, expected: Verdict
) -> None:
    """The same client gets the same child; whoever else holds the parent is a thief."""
    assert judge(rotation, counter, id, now) == expected


async def test_a_refresh_brings_the_next_token(world: World) -> None:
    """New access, new refresh token, the same session; the old access token stays good until it expires."""
    first = await world.enter(code("ann@example.com"))
    world.clock.advance(300)
    second = await world.sessions.refresh(first.refresh_token, rotation_id=A)
    assert second.refresh_token != first.refresh_token
    assert second.session_id == first.session_id
    assert second.expires_in == ACCESS
    assert world.who(second).user == world.who(first).user == first.user.id
    assert world.who(second).auth_time == world.who(first).auth_time
    world.clock.advance(400)
    with pytest.raises(TokenExpired):
        world.who(first)
    assert world.who(second).session == first.session_id


async def test_a_lost_answer_is_given_again(world: World) -> None:
    """With the same rotation id the same child, however late; it is not rotated twice."""
    first = await world.enter(code("ann@example.com"))
    lost = await world.sessions.refresh(first.refresh_token, rotation_id=A)
    world.clock.advance(30 * DAY)
    again = await world.sessions.refresh(first.refresh_token, rotation_id=A)
    assert again.refresh_token == lost.refresh_token
    third = await world.sessions.refresh(again.refresh_token, rotation_id=B)
    assert third.refresh_token != again.refresh_token
    assert world.who(third).user == first.user.id


async def test_a_second_holder_ends_the_session(world: World) -> None:
    """The parent with another id: both are out, it is audited, and no other session ends."""
    first = await world.enter(code("ann@example.com"))
    other = await world.enter(code("ann@example.com"))
    thief = await world.sessions.refresh(first.refresh_token, rotation_id=B)
    with pytest.raises(SessionRevoked) as caught:
        await world.sessions.refresh(first.refresh_token, rotation_id=A)
    assert caught.value.details == {"reason": "reuse", "wipe": False}
    for token in (first.refresh_token, thief.refresh_token):
        with pytest.raises(SessionRevoked):
            await world.sessions.refresh(token, rotation_id=A)
    for signed in (first, thief):
        with pytest.raises(SessionRevoked):
            world.who(signed)
    assert world.who(other).session == other.session_id
    assert (await world.sessions.refresh(other.refresh_token)).session_id == other.session_id
    assert (await world.actions()).count("session.reuse") == 1


async def test_a_grandparent_ends_the_session(world: World) -> None:
    """A token two behind was certainly copied, even with its own rotation id."""
    first = await world.enter(code("ann@example.com"))
    second = await world.sessions.refresh(first.refresh_token, rotation_id=A)
    await world.sessions.refresh(second.refresh_token, rotation_id=B)
    with pytest.raises(SessionRevoked):
        await world.sessions.refresh(first.refresh_token, rotation_id=A)


def _other_mac(token: str) -> str:
    return token[:-2] + ("AA" if token[-2:] != "AA" else "BB")


def _counter(by: int) -> Callable[[str], str]:
    def change(token: str) -> str:
        sid, counter, mac = token.split(".")
        return f"{sid}.{int(counter) + by}.{mac}"

    return change


@pytest.mark.parametrize(
    "forge",
    [
        _other_mac,
        _counter(1),
        _counter(10**10),
        lambda token: token.replace(".0.", ".00."),
        lambda token: token.replace(".0.", ".+0."),
        lambda token: token.replace(".0.", ".-1."),
        lambda token: token.replace(".0.", ".\u0660."),
        lambda token: token + "=",
        lambda token: token + "\n",
        lambda token: " " + token,
        lambda token: token.upper(),
        lambda token: token.replace(token[:8], "00000000"),
        lambda token: token.rpartition(".")[0],
        lambda token: "",
        lambda token: "a" * (MAX_REFRESH_TOKEN + 1),
        lambda token: "." * 1_000_000,
        lambda token: "' OR 1=1 --",
    ],
)
async def test_a_forged_token_is_refused_and_harms_nobody(world: World, forge: Callable[[str], str]) -> None:
    """What the session did not give out is invalid; the session goes on."""
    signed = await world.enter(code("ann@example.com"))
    with pytest.raises(InvalidGrant):
        await world.sessions.refresh(forge(signed.refresh_token))
    assert (await world.sessions.refresh(signed.refresh_token)).session_id == signed.session_id


async def test_a_token_of_another_session_is_not_signed_for_this_one(world: World) -> None:
    """Each session has a key of its own."""
    ann, bob = await world.enter(code("ann@example.com")), await world.enter(code("bob@example.com"))
    sid = ann.refresh_token.partition(".")[0]
    with pytest.raises(InvalidGrant):
        await world.sessions.refresh(sid + "." + bob.refresh_token.partition(".")[2])


@pytest.mark.parametrize("id", ["", "short", "x" * 129, "ü" * 20])
async def test_a_strange_rotation_id_changes_nothing(world: World, id: str) -> None:
    """It is refused before the token is looked at: the session goes on."""
    signed = await world.enter(code("ann@example.com"))
    with pytest.raises(Malformed):
        await world.sessions.refresh(signed.refresh_token, rotation_id=id)
    assert (await world.sessions.refresh(signed.refresh_token, rotation_id=A)).session_id


def test_no_rotation_id_is_kept() -> None:
    """Only a digest of it: what the database shows repeats nothing."""
    assert A not in str(rotation_digest(A))
    assert rotation_digest(None) is None


async def test_a_bound_session_wants_its_key(world: World) -> None:
    """Without the key, or with another, nothing happens: no rotation, and no sign-out either."""
    signed = await world.enter(code("ann@example.com"), jkt="k1")
    for jkt in (None, "", "k2"):
        with pytest.raises(ProofMismatch):
            await world.sessions.refresh(signed.refresh_token, jkt=jkt)
    first = await world.sessions.refresh(signed.refresh_token, jkt="k1")
    world.clock.advance(DAY)
    assert (await world.sessions.refresh(signed.refresh_token, jkt="k1")).refresh_token == first.refresh_token


async def test_only_an_oauth_clients_access_token_is_bound(world: World) -> None:
    """The app's own refreshes are bound, its access tokens are bearer tokens."""
    own = await world.enter(code("ann@example.com"), jkt="k1")
    client = await world.enter(code("ann@example.com"), jkt="k1", client_id="tool")
    assert (own.token_type, world.who(own).jkt) == ("Bearer", "")
    assert (client.token_type, world.who(client).jkt) == ("DPoP", "k1")


async def test_a_token_is_its_clients(world: World) -> None:
    """Another OAuth client, or the app itself, cannot refresh it, and harms nobody by trying."""
    signed = await world.enter(code("ann@example.com"), client_id="tool")
    for client in ("", "other"):
        with pytest.raises(InvalidGrant):
            await world.sessions.refresh(signed.refresh_token, client=client)
    assert (await world.sessions.refresh(signed.refresh_token, client="tool")).session_id


async def test_an_idle_session_ends(world: World) -> None:
    """After 90 days without a refresh; each refresh begins them anew."""
    signed = await world.enter(code("ann@example.com"))
    world.clock.advance((IDLE - 1) * DAY)
    signed = await world.sessions.refresh(signed.refresh_token)
    world.clock.advance((IDLE - 1) * DAY)
    signed = await world.sessions.refresh(signed.refresh_token)
    world.clock.advance(IDLE * DAY + 1)
    with pytest.raises(SessionRevoked) as caught:
        await world.sessions.refresh(signed.refresh_token)
    assert caught.value.details["reason"] == "idle"


async def test_an_anonymous_session_waits_longer(world: World) -> None:
    """Nobody could sign in as that user again."""
    signed = await world.sign_in.anonymous(ask_for())
    world.clock.advance((IDLE_ANONYMOUS - 1) * DAY)
    assert (await world.sessions.refresh(signed.refresh_token)).user.id == signed.user.id


async def test_a_session_that_is_ended_is_refused_at_once(world: World) -> None:
    """Access and refresh tokens; the wipe is told at every later use, also long after."""
    signed, other = await world.enter(code("ann@example.com")), await world.enter(code("ann@example.com"))

    async def end(tx: Any) -> None:
        session = await world.sessions.find(tx, signed.session_id)
        assert session is not None
        await world.sessions.revoke(tx, session, "user", wipe=True)

    await world.write(end)
    await world.accounts.revocations.committed()
    with pytest.raises(SessionRevoked) as caught:
        world.who(signed)
    assert caught.value.details == {"reason": "user", "wipe": True}
    world.clock.advance(200 * DAY)
    with pytest.raises(SessionRevoked) as caught:
        await world.sessions.refresh(signed.refresh_token)
    assert caught.value.details == {"reason": "user", "wipe": True}
    with pytest.raises(SessionRevoked) as caught:
        await world.sessions.refresh(other.refresh_token)
    assert caught.value.details == {"reason": "idle", "wipe": False}


async def test_memory_forgets_what_no_token_can_say(world: World) -> None:
    """A quarter of an hour after a session's end none of its tokens is good, and nothing is remembered."""
    signed = await world.enter(code("ann@example.com"))
    await world.write(lambda tx: world.sessions.revoke_all(tx, signed.user.id, "user"))
    await world.accounts.revocations.committed()
    assert signed.session_id in world.accounts.revocations.changes
    world.clock.advance(16 * 60)
    await world.accounts.revocations.load()
    assert world.accounts.revocations.changes == {}
    with pytest.raises(TokenExpired):
        world.who(signed)


async def test_another_node_hears_of_an_end(world: World) -> None:
    """By looking at the database; a hint only makes it sooner. Who listens is told once."""
    there = World(world.database, world.clock, world.ids)
    await there.start()
    there.tokens._keys = world.tokens._keys
    told: list[set[str]] = []
    there.accounts.revocations.on_change = lambda ids: told.append(set(ids))
    signed = await world.enter(code("ann@example.com"))
    assert there.who(signed).session == signed.session_id
    await world.write(lambda tx: world.sessions.revoke_all(tx, signed.user.id, "user"))
    await there.accounts.revocations.load()
    with pytest.raises(SessionRevoked):
        there.who(signed)
    await there.accounts.revocations.load()
    assert told == [{signed.session_id}]
    await there.bus.close()


async def test_the_same_installation_has_one_session(world: World) -> None:
    """Who signs in again after a lost answer does not leave ghosts; another phone's session stays."""
    first = await world.enter(code("ann@example.com"), installation="i1")
    other = await world.enter(code("ann@example.com"), installation="i2")
    again = await world.enter(code("ann@example.com"), installation="i1")
    live = await world.write(lambda tx: world.sessions.of_user(tx, first.user.id))
    assert {session.id for session in live} == {other.session_id, again.session_id}


async def test_sessions_are_bounded(world: World) -> None:
    """Beyond the bound the one that was seen least lately ends."""
    signed = latest = await world.enter(code("ann@example.com"))
    for _ in range(MAX_SESSIONS):
        world.clock.advance(1)
        latest = await world.enter(code("ann@example.com"))
    live = await world.write(lambda tx: world.sessions.of_user(tx, signed.user.id))
    assert len(live) == MAX_SESSIONS
    assert signed.session_id not in {session.id for session in live}
    assert latest.session_id in {session.id for session in live}


async def test_spaces_are_for_members(world: World) -> None:
    """``main`` is everybody's; another space is its members', with their roles there and nowhere else."""
    signed = await world.enter(code("ann@example.com"))
    with pytest.raises(Forbidden):
        await world.enter(code("ann@example.com"), space="acme")
    with pytest.raises(Forbidden):
        await world.sessions.refresh(signed.refresh_token, space="acme", rotation_id=A)
    await world.write(lambda tx: world.users.set_member(tx, "acme", signed.user.id, ["editor"]))
    there = await world.sessions.refresh(signed.refresh_token, space="acme", rotation_id=A)
    assert (world.who(there).space, world.who(there).roles) == ("acme", ("editor",))
    here = await world.sessions.refresh(there.refresh_token)
    assert (world.who(here).space, world.who(here).roles) == ("main", ())
    await world.write(lambda tx: world.users.remove_member(tx, "acme", signed.user.id))
    with pytest.raises(Forbidden):
        await world.sessions.refresh(here.refresh_token, space="acme")


async def test_what_a_token_says_is_renewed(world: World) -> None:
    """After a change of roles an old token is called expired, and the refresh brings the new ones."""
    signed = await world.enter(code("ann@example.com"))

    async def promote(tx: Any) -> None:
        user = await world.users.get(tx, signed.user.id)
        user = msgspec.structs.replace(user, roles=("admin",), claims={"plan": "pro"})
        await world.users.save(tx, user)
        await world.sessions.change(tx, user.id)

    await world.write(promote)
    await world.accounts.revocations.committed()
    with pytest.raises(TokenExpired):
        world.who(signed)
    who = world.who(await world.sessions.refresh(signed.refresh_token))
    assert who.admin
    assert who.claims == {"plan": "pro", "roles": ["admin"]}


async def test_a_refresh_that_was_not_written_can_be_repeated(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transient fault is no sign-out: the same request works afterwards."""
    signed = await world.enter(code("ann@example.com"))
    write = world.database.write

    async def lost(work: Any) -> Any:
        await write(work)
        raise LowtideError("the line is down")

    monkeypatch.setattr(world.database, "write", lost)
    with pytest.raises(LowtideError, match="line is down"):
        await world.sessions.refresh(signed.refresh_token, rotation_id=A)
    monkeypatch.undo()
    again = await world.sessions.refresh(signed.refresh_token, rotation_id=A)
    assert isinstance(again, Signed)
    assert (await world.sessions.refresh(again.refresh_token, rotation_id=B)).session_id


async def test_whose_a_refresh_token_is(world: World) -> None:
    """It proves its session until its grandchild is made; a forged one proves nothing."""
    signed = await world.enter(code("ann@example.com"))

    async def owner(token: str) -> str | None:
        session = await world.write(lambda tx: world.sessions.of_token(tx, token))
        return None if session is None else session.user

    assert await owner(signed.refresh_token) == signed.user.id
    assert await owner(_other_mac(signed.refresh_token)) is None
    assert await owner("nonsense") is None
    second = await world.sessions.refresh(signed.refresh_token)
    assert await owner(signed.refresh_token) == signed.user.id
    await world.sessions.refresh(second.refresh_token)
    assert await owner(signed.refresh_token) is None


async def test_sessions_that_nobody_can_refresh_are_forgotten(world: World) -> None:
    """Not before even an anonymous one is over, and its end has been told for long enough."""
    signed = await world.enter(code("ann@example.com"))
    world.clock.advance((IDLE_ANONYMOUS + IDLE) * DAY)
    assert await world.sessions.trim() == 0
    world.clock.advance(1)
    assert await world.sessions.trim() == 1
    with pytest.raises(InvalidGrant):
        await world.sessions.refresh(signed.refresh_token)
