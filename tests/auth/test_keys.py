"""Signing keys: made once, shared by all nodes, turned without a gap."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from joserfc import jwt
from joserfc.jwk import KeySet

from lowtide.audit import COMPONENT as AUDIT
from lowtide.audit import Audit
from lowtide.auth import COMPONENT, Keys, Tokens, auth_routes
from lowtide.auth.keys import LONGEST, PUBLISHED, ROTATED, thumbprint
from lowtide.kernel.clock import ManualClock
from lowtide.kernel.errors import Conflict, NotFound, StorageLost, TokenExpired, Unauthorized, Unavailable
from lowtide.kernel.http import Request, Response
from lowtide.kernel.ids import SeededIds, SystemIds
from lowtide.storage.db import Database, Query, Tx
from lowtide.storage.db.migrate import migrate
from lowtide.storage.vault import COMPONENT as STORAGE
from lowtide.storage.vault import Vault

pytestmark = pytest.mark.anyio


@pytest.fixture
async def tables(database: Database, clock: ManualClock) -> Database:
    await migrate(database, [STORAGE, AUDIT, COMPONENT], clock)
    return database


@pytest.fixture
async def vault(tables: Database, clock: ManualClock, ids: SeededIds) -> Vault:
    vault = Vault(tables, clock, ids, b"k" * 32)
    await vault.load()
    return vault


@pytest.fixture
async def keys(tables: Database, clock: ManualClock, vault: Vault) -> Keys:
    keys = opened(tables, clock, vault)
    await keys.load()
    return keys


def opened(database: Database, clock: ManualClock, vault: Vault) -> Keys:
    """The keys as another node has them, not loaded."""
    return Keys(database, clock, vault, Audit(clock, SystemIds(clock)))


async def audited(database: Database) -> list[tuple[str, str, str]]:
    """(action, actor, target) of every entry, sorted."""
    query = Query("entries", *["SELECT action, actor, target FROM audit_entry"] * 2)
    rows = await database.read(lambda tx: tx.fetch(query))
    return sorted((action, actor, target) for action, actor, target in rows)


def tokens_of(keys: Keys, clock: ManualClock) -> Tokens:
    return Tokens(keys, clock, audience="app", issuer="lowtide")


def kids(keys: Keys) -> list[str]:
    return [key["kid"] for key in keys.jwks()["keys"]]


def key_set(keys: Keys) -> KeySet:
    """The public document, as another library reads it."""
    return KeySet.import_key_set(cast("Any", keys.jwks()))


async def test_keys_are_made_at_the_first_start_only(
    tables: Database, clock: ManualClock, vault: Vault, keys: Keys
) -> None:
    """A second start reads the keys of the first."""
    again = opened(tables, clock, vault)
    await again.load()
    assert kids(again) == kids(keys)
    assert len(set(kids(keys))) == 2
    assert keys.current.kid == kids(keys)[0]


async def test_nodes_that_start_at_once_agree(tables: Database, clock: ManualClock, vault: Vault) -> None:
    """However many start on an empty database, there is one current key and one next."""
    nodes = [opened(tables, clock, vault) for _ in range(5)]
    await asyncio.gather(*(node.load() for node in nodes))
    assert len({tuple(kids(node)) for node in nodes}) == 1
    assert len(kids(nodes[0])) == 2


async def test_nothing_is_signed_before_the_keys_are_loaded(
    tables: Database, clock: ManualClock, vault: Vault
) -> None:
    """A server that is not ready says so, and does not fail."""
    keys = opened(tables, clock, vault)
    assert keys.jwks() == {"keys": []}
    with pytest.raises(Unavailable):
        tokens_of(keys, clock).sign("ann")


async def test_rotation_leaves_no_token_without_its_key(
    tables: Database, clock: ManualClock, vault: Vault, keys: Keys
) -> None:
    """A node that has not heard of a rotation verifies what the new key signs: it knew it before."""
    elsewhere = opened(tables, clock, vault)
    await elsewhere.load()
    old = tokens_of(keys, clock).sign("ann")
    before = kids(keys)
    clock.advance(PUBLISHED)
    assert await keys.rotate("test") == before[1]
    new = tokens_of(keys, clock).sign("ann")
    for node in (keys, elsewhere):
        assert tokens_of(node, clock).verify(old).user == "ann"
        assert tokens_of(node, clock).verify(new).user == "ann"
    await elsewhere.refresh()
    assert kids(elsewhere) == kids(keys)
    assert elsewhere.current.kid == before[1]
    assert len(kids(keys)) == 3


async def test_a_key_that_is_too_new_does_not_sign(keys: Keys, clock: ManualClock) -> None:
    """A second rotation at once would sign with a key that nobody has: refused, and nothing changes."""
    clock.advance(PUBLISHED)
    await keys.rotate("test")
    before = kids(keys)
    with pytest.raises(Conflict):
        await keys.rotate("test")
    assert kids(keys) == before


async def test_nodes_that_rotate_at_once_rotate_once(
    tables: Database, clock: ManualClock, vault: Vault, keys: Keys
) -> None:
    """One wins, the other is told that it came too late, and both nodes know the result."""
    elsewhere = opened(tables, clock, vault)
    await elsewhere.load()
    waiting = kids(keys)[1]
    clock.advance(PUBLISHED)
    done = await asyncio.gather(keys.rotate("test"), elsewhere.rotate("test"), return_exceptions=True)
    assert done.count(waiting) == 1
    assert len([result for result in done if isinstance(result, Conflict)]) == 1
    await keys.refresh()
    await elsewhere.refresh()
    assert kids(keys) == kids(elsewhere)
    assert keys.current.kid == waiting
    assert len(kids(keys)) == 3


async def test_an_old_key_is_kept_until_its_last_token_has_expired(keys: Keys, clock: ManualClock) -> None:
    """The longest token that it signed at the last moment verifies to its end; then the key goes."""
    clock.advance(PUBLISHED)
    tokens = tokens_of(keys, clock)
    old = keys.current.kid
    token = tokens.sign("ann", ttl=LONGEST)
    await keys.rotate("test")
    clock.advance(LONGEST + 59)
    await keys.refresh()
    assert tokens_of(keys, clock).verify(token).user == "ann"
    clock.advance(1)
    with pytest.raises(TokenExpired):
        tokens_of(keys, clock).verify(token)
    clock.advance(120)
    await keys.refresh()
    assert keys.find(old) is None
    assert len(kids(keys)) == 2


async def test_an_old_key_cannot_sign(tables: Database, clock: ManualClock, vault: Vault, keys: Keys) -> None:
    """The private half is forgotten when a key is retired, in the database too."""
    old = keys.current.kid
    clock.advance(PUBLISHED)
    await keys.rotate("test")
    again = opened(tables, clock, vault)
    await again.load()
    found = again.find(old)
    assert found is not None
    assert (found.state, found.private) == ("old", None)
    assert again.current.private is not None


async def test_a_revoked_key_takes_its_tokens_along(
    tables: Database, clock: ManualClock, vault: Vault, keys: Keys
) -> None:
    """Revoking the current key signs everybody out, and the next one signs at once."""
    elsewhere = opened(tables, clock, vault)
    await elsewhere.load()
    here, there = tokens_of(keys, clock), tokens_of(elsewhere, clock)
    token = here.sign("ann")
    assert here.verify(token) == there.verify(token)
    old, waiting = kids(keys)
    await keys.revoke(old, "test")
    with pytest.raises(Unauthorized):
        here.verify(token)
    await elsewhere.refresh()
    with pytest.raises(Unauthorized):
        there.verify(token)
    assert keys.current.kid == waiting
    assert old not in kids(keys)
    assert len(kids(keys)) == 2
    assert there.verify(here.sign("ann")).user == "ann"


async def test_whatever_nodes_do_at_once_there_is_one_key_to_sign_with(
    tables: Database, clock: ManualClock, vault: Vault, keys: Keys
) -> None:
    """Rotations and revocations of every key, side by side, leave one current key and one next."""
    nodes = [opened(tables, clock, vault) for _ in range(3)]
    for _ in range(5):
        for node in nodes:
            await node.load()
        clock.advance(PUBLISHED)
        current, waiting = kids(nodes[0])[:2]
        await asyncio.gather(
            nodes[0].rotate("test"),
            nodes[1].revoke(waiting, "test"),
            nodes[2].revoke(current, "test"),
            return_exceptions=True,
        )
        await keys.refresh()
        states = sorted(found.state for kid in kids(keys) if (found := keys.find(kid)) is not None)
        assert states.count("current") == 1
        assert states.count("next") == 1
        assert waiting not in kids(keys)
        assert current not in kids(keys)
        assert tokens_of(keys, clock).sign("ann")


async def test_a_revoked_next_key_is_replaced(keys: Keys, clock: ManualClock) -> None:
    """There is always a next key, and tokens of the current one stay good."""
    token = tokens_of(keys, clock).sign("ann")
    current, waiting = kids(keys)
    await keys.revoke(waiting, "test")
    assert kids(keys)[0] == current
    assert kids(keys)[1] != waiting
    assert tokens_of(keys, clock).verify(token).user == "ann"


async def test_an_unknown_key_cannot_be_revoked(keys: Keys) -> None:
    """A typing mistake is told, and no key is lost."""
    before = kids(keys)
    with pytest.raises(NotFound):
        await keys.revoke("nobody", "test")
    assert kids(keys) == before


async def test_outside_verifiers_need_only_the_jwks(keys: Keys, clock: ManualClock) -> None:
    """The document at its well-known address verifies our tokens and holds no private part."""
    token = tokens_of(keys, clock).sign("ann")
    (route,) = auth_routes(keys)
    answer = await route.handler(Request(body=None, query=None))
    assert isinstance(answer, Response)
    assert (route.path, route.auth) == ("/.well-known/jwks.json", "none")
    assert answer.body == keys.jwks()
    found = jwt.decode(token, key_set(keys), algorithms=["ES256"])
    assert found.claims["sub"] == "ann"
    for key in answer.body["keys"]:
        assert set(key) == {"kty", "crv", "x", "y", "use", "alg", "kid"}
    assert answer.headers["cache-control"] == "public, max-age=300"


async def test_a_key_is_named_by_its_thumbprint(keys: Keys) -> None:
    """RFC 7638, as another library computes it."""
    (known, *_) = key_set(keys).keys
    assert keys.current.kid == thumbprint(keys.current.public) == known.thumbprint()


async def test_keeping_survives_a_lost_database(
    keys: Keys, monkeypatch: pytest.MonkeyPatch, ids: SeededIds
) -> None:
    """``keep`` logs that the database is away and looks again; the keys in memory stay."""
    looks: list[int] = []
    seen_twice = asyncio.Event()

    async def lost() -> None:
        looks.append(1)
        if len(looks) == 2:
            seen_twice.set()
        raise StorageLost

    monkeypatch.setattr(keys, "refresh", lost)
    monkeypatch.setattr("lowtide.auth.keys.REFRESH", 0.001)
    task = asyncio.create_task(keys.keep(ids))
    async with asyncio.timeout(5):
        await seen_twice.wait()
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert keys.current.private is not None


async def test_what_is_derived_is_the_same_on_every_node(
    keys: Keys, tables: Database, clock: ManualClock, vault: Vault
) -> None:
    """Each purpose has its own secrets; a rotation makes the second the first, and nodes agree on one."""
    other = opened(tables, clock, vault)
    await other.load()
    before = keys.derive("one")
    assert before == other.derive("one")
    assert len({*before, *keys.derive("two")}) == 4
    clock.advance(PUBLISHED)
    await keys.rotate("test")
    after = keys.derive("one")
    assert after[0] == before[1] == other.derive("one")[1]
    assert before[0] not in after


async def private_halves(tables: Database) -> list[str | None]:
    async def work(tx: Tx) -> list[str | None]:
        rows = await tx.fetch(Query("q", *["SELECT private_pem FROM signing_key ORDER BY kid"] * 2))
        return [row[0] for row in rows]

    return await tables.read(work)


async def test_private_halves_are_sealed_at_rest(tables: Database, keys: Keys) -> None:
    """The table holds no private key that can be read without the operator's secret key."""
    halves = await private_halves(tables)
    assert len(halves) == 2
    assert all(half is not None and half.startswith("sealed1.") for half in halves)


async def test_rows_that_are_plain_are_sealed_at_the_next_start(
    tables: Database, clock: ManualClock, vault: Vault, keys: Keys
) -> None:
    """Keys from before the vault go on signing, and are no longer readable."""
    token = tokens_of(keys, clock).sign("ann")

    async def unseal(tx: Tx) -> None:
        for kid, sealed in await tx.fetch(
            Query("q", *["SELECT kid, private_pem FROM signing_key WHERE private_pem IS NOT NULL"] * 2)
        ):
            plain = vault.open("auth.signing_key", sealed).decode()
            query = "UPDATE signing_key SET private_pem = {0}2 WHERE kid = {0}1"
            await tx.execute(Query("q", query.format("?"), query.format("$")), kid, plain)

    await tables.write(unseal)
    assert all(half is not None and "PRIVATE KEY" in half for half in await private_halves(tables))
    again = opened(tables, clock, vault)
    await again.load()
    assert tokens_of(again, clock).verify(token).user == "ann"
    assert tokens_of(keys, clock).verify(tokens_of(again, clock).sign("bob")).user == "bob"
    assert not any(half is None or "PRIVATE KEY" in half for half in await private_halves(tables))


async def test_who_turned_or_revoked_a_key_is_in_the_audit_log(
    tables: Database, clock: ManualClock, keys: Keys
) -> None:
    """One entry for each change, naming the key; none for one that did not happen."""
    clock.advance(PUBLISHED)
    old = keys.current.kid
    kid = await keys.rotate("user:eve")
    with pytest.raises(Conflict):
        await keys.rotate("user:eve")
    await keys.revoke(old, "cli:ops")
    with pytest.raises(NotFound):
        await keys.revoke(old, "cli:ops")
    assert await audited(tables) == [
        ("key.revoke", "cli:ops", f"key:{old}"),
        ("key.rotate", "user:eve", f"key:{kid}"),
    ]


async def test_keys_turn_by_themselves(tables: Database, clock: ManualClock, keys: Keys) -> None:
    """After ninety days the next key signs, once, and what the old one signed is still good."""
    old = keys.current.kid
    clock.advance(ROTATED)
    await keys.rotate_when_due()
    assert keys.current.kid == old
    clock.advance(1)
    await keys.rotate_when_due()
    await keys.rotate_when_due()
    assert {key.kid: key.state for key in keys.all()}[old] == "old"
    assert len(await audited(tables)) == 1
