"""Challenges: sealed and not stored, good once, for one purpose, for a few minutes."""

from __future__ import annotations

import asyncio

import pytest

from lowtide.auth import COMPONENT as AUTH
from lowtide.auth.challenges import LIFE, MAX_CHALLENGE, REMEMBERED, Challenge, Challenges
from lowtide.kernel.clock import ManualClock
from lowtide.kernel.errors import InvalidGrant
from lowtide.kernel.ids import SystemIds
from lowtide.storage.db import Database, Tx
from lowtide.storage.db.migrate import migrate
from lowtide.storage.vault import COMPONENT as STORAGE
from lowtide.storage.vault import Vault

pytestmark = pytest.mark.anyio


@pytest.fixture
async def challenges(database: Database, clock: ManualClock) -> Challenges:
    await migrate(database, (STORAGE, AUTH), clock)
    ids = SystemIds(clock)
    vault = Vault(database, clock, ids, bytes(32))
    await vault.load()
    return Challenges(vault, clock, ids)


async def use(database: Database, challenges: Challenges, challenge: Challenge) -> None:
    async def work(tx: Tx) -> None:
        await challenges.use(tx, challenge)

    await database.write(work)


async def used(database: Database) -> int:
    async def work(tx: Tx) -> int:
        from lowtide.storage.db import Query

        count = Query("count", "SELECT count(*) FROM used_challenge", "SELECT count(*) FROM used_challenge")
        return int((await tx.fetch(count))[0][0])

    return await database.read(work)


async def test_what_was_put_in_comes_out(challenges: Challenges, database: Database) -> None:
    """The client sees neither the user nor the data, and gives both back; nothing is stored for it."""
    sealed = challenges.issue("p", user="ann", data="secret")
    assert "ann" not in sealed
    assert "secret" not in sealed
    assert sealed.isascii()
    assert sealed != challenges.issue("p", user="ann", data="secret")
    found = challenges.open("p", sealed, user="ann")
    assert (found.user, found.data) == ("ann", "secret")
    assert await used(database) == 0


async def test_a_challenge_is_good_once(challenges: Challenges, database: Database) -> None:
    """The second use is refused, also when two come at the same time."""
    challenge = challenges.open("p", challenges.issue("p"))
    tries = [use(database, challenges, challenge) for _ in range(4)]
    results = await asyncio.gather(*tries, return_exceptions=True)
    assert [type(one) for one in results].count(InvalidGrant) == 3
    assert results.count(None) == 1
    await use(database, challenges, challenges.open("p", challenges.issue("p")))


async def test_a_challenge_ends(challenges: Challenges, database: Database, clock: ManualClock) -> None:
    """After five minutes it does not open; that it was used is remembered for a while longer."""
    sealed = challenges.issue("p")
    first = challenges.open("p", sealed)
    await use(database, challenges, first)
    clock.advance(LIFE - 1)
    assert challenges.open("p", sealed).expires_at == first.expires_at
    clock.advance(1)
    with pytest.raises(InvalidGrant, match="expired"):
        challenges.open("p", sealed)
    clock.advance(REMEMBERED + 1)
    await use(database, challenges, challenges.open("p", challenges.issue("p")))
    assert await used(database) == 1


async def test_who_came_just_before_the_end_does_not_use_it_again(
    challenges: Challenges, database: Database, clock: ManualClock
) -> None:
    """Opened in time, and kept waiting by a slow hook until the challenge is over: it counts once all the
    same, and still counts if it was not used."""
    sealed, other = challenges.issue("p"), challenges.issue("p")
    clock.advance(LIFE - 1)
    early, late, unused = (challenges.open("p", text) for text in (sealed, sealed, other))
    await use(database, challenges, early)
    clock.advance(30)
    await use(database, challenges, unused)
    with pytest.raises(InvalidGrant, match="used before"):
        await use(database, challenges, late)


async def test_a_challenge_has_one_purpose(challenges: Challenges) -> None:
    """One made for signing in does not register, and one for a user not another."""
    with pytest.raises(InvalidGrant):
        challenges.open("q", challenges.issue("p"))
    for owner, asked in (("ann", "bob"), ("ann", ""), ("", "ann")):
        with pytest.raises(InvalidGrant, match="another user"):
            challenges.open("p", challenges.issue("p", user=owner), user=asked)


async def test_a_made_up_challenge_is_refused(challenges: Challenges) -> None:
    """Neither an empty, a cut, a changed nor a huge one opens."""
    good = challenges.issue("p")
    # Not the last character: some of its bits stand for nothing.
    flipped = good[:-5] + ("A" if good[-5] != "A" else "B") + good[-4:]
    for text in ("", "x", good[:-4], flipped, good + "A", "x" * (MAX_CHALLENGE + 1), "sealed1..", "é"):
        with pytest.raises(InvalidGrant):
            challenges.open("p", text)
