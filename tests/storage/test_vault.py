"""Secrets at rest: sealed, bound to their purpose, and keys that change without a flag day."""

from __future__ import annotations

import base64
import importlib
import pkgutil
import stat
from pathlib import Path
from typing import Any

import pytest

import lowtide
from lowtide.kernel.clock import ManualClock
from lowtide.kernel.errors import SealBroken, SetupError, Unavailable
from lowtide.kernel.ids import SeededIds, SystemIds
from lowtide.opening import open_vault
from lowtide.settings import Settings, load
from lowtide.storage.db import Database, Query, Tx
from lowtide.storage.db.migrate import migrate
from lowtide.storage.master import load_master, make_master, read_master
from lowtide.storage.vault import COMPONENT, PAGE, PUBLISHED, SealedColumn, Vault
from lowtide.tables import SEALED

pytestmark = pytest.mark.anyio

MASTER, OTHER = b"m" * 32, b"o" * 32


@pytest.fixture
async def tables(database: Database, clock: ManualClock) -> Database:
    await migrate(database, [COMPONENT], clock)
    return database


@pytest.fixture
async def vault(tables: Database, clock: ManualClock, ids: SeededIds) -> Vault:
    return await opened(tables, clock, ids)


async def opened(
    tables: Database, clock: ManualClock, ids: SeededIds | SystemIds, master: bytes = MASTER
) -> Vault:
    vault = Vault(tables, clock, ids, master)
    await vault.load()
    return vault


async def ask(database: Database, sql: str, *params: Any) -> list[Any]:
    query = Query("q", sql.replace("$", "?"), sql)

    async def work(tx: Tx) -> list[Any]:
        return list(await tx.fetch(query, *params))

    return await database.write(work)


async def test_what_is_sealed_opens_again(vault: Vault) -> None:
    """Any bytes come back; the text holds none of them, and no two seals are equal."""
    for plain in (b"", b"secret", bytes(range(256)) * 300):
        one, two = vault.seal("totp:ann", plain), vault.seal("totp:ann", plain)
        assert vault.open("totp:ann", one) == vault.open("totp:ann", two) == plain
        assert one != two
        assert base64.urlsafe_b64encode(plain[:30]).rstrip(b"=").decode() not in one or not plain


async def test_a_text_opens_for_its_purpose_only(vault: Vault) -> None:
    """A sealed text that is copied to another user, or into another column, does not open there."""
    sealed = vault.seal("totp:ann", b"secret")
    for purpose in ("totp:bob", "webhook", "", "totp:ann "):
        with pytest.raises(SealBroken):
            vault.open(purpose, sealed)


async def test_a_changed_text_does_not_open(vault: Vault) -> None:
    """Every changed, cut or invented part is refused with the one error."""
    sealed = vault.seal("p", b"a longer secret")
    mark, kid, body = sealed.split(".")
    flipped = body[:20] + ("A" if body[20] != "A" else "B") + body[21:]
    for text in (
        f"{mark}.{kid}.{flipped}",
        f"{mark}.{kid}.{body[:10]}",
        f"{mark}.{kid}.",
        f"{mark}.{kid}.!{body[1:]}",
        f"{mark}.00000000.{body}",
        f"sealed2.{kid}.{body}",
        "",
        "-----BEGIN PRIVATE KEY-----",
        sealed + "\u00e9",
    ):
        with pytest.raises(SealBroken):
            vault.open("p", text)


async def test_nothing_is_sealed_before_the_keys_are_read(
    tables: Database, clock: ManualClock, ids: SeededIds
) -> None:
    """A vault that is not loaded says that it is not ready."""
    vault = Vault(tables, clock, ids, MASTER)
    with pytest.raises(Unavailable):
        vault.seal("p", b"x")
    with pytest.raises(Unavailable):
        vault.open("p", "sealed1.a.b")


async def test_nodes_share_their_keys(tables: Database, clock: ManualClock, vault: Vault) -> None:
    """What one node seals another opens, and only the first start makes a key."""
    elsewhere = await opened(tables, clock, SystemIds(clock))
    assert elsewhere.open("p", vault.seal("p", b"x")) == b"x"
    assert len(await ask(tables, "SELECT id FROM data_key")) == 1


async def test_another_secret_key_does_not_start(
    tables: Database, clock: ManualClock, ids: SeededIds, vault: Vault
) -> None:
    """The mistake is found at the start, with a hint, and nothing is written."""
    before = await ask(tables, "SELECT id, wrapped FROM data_key")
    with pytest.raises(SetupError, match="secret key") as caught:
        await opened(tables, clock, ids, OTHER)
    assert "secret_key_file" in caught.value.hint
    assert await ask(tables, "SELECT id, wrapped FROM data_key") == before


async def test_a_wrapped_key_does_not_serve_under_another_name(
    tables: Database, clock: ManualClock, ids: SeededIds, vault: Vault
) -> None:
    """Who can write to the database cannot pass an old data key off as a new one."""
    await ask(tables, "UPDATE data_key SET id = 'ffffffff' RETURNING 1")
    with pytest.raises(SetupError):
        await opened(tables, clock, SystemIds(clock))


async def test_a_new_key_seals_only_when_every_node_knows_it(
    tables: Database, clock: ManualClock, vault: Vault
) -> None:
    """During a rotation no node meets a text that it cannot open, and old texts open for ever."""
    elsewhere = await opened(tables, clock, SystemIds(clock))
    old = vault.seal("p", b"old")
    new = await vault.rotate()
    assert not vault.stale(vault.seal("p", b"between"))
    assert elsewhere.open("p", vault.seal("p", b"between")) == b"between"
    clock.advance(PUBLISHED)
    await elsewhere.refresh()
    sealed = vault.seal("p", b"new")
    assert f".{new}." in sealed
    assert elsewhere.open("p", sealed) == b"new"
    assert elsewhere.open("p", old) == b"old"
    assert vault.stale(old)
    assert not vault.stale(sealed)


async def test_old_texts_are_sealed_anew(tables: Database, clock: ManualClock, vault: Vault) -> None:
    """After a rotation every text in a known place is sealed by the new key, over several pages."""
    await ask(tables, "CREATE TABLE kept (id TEXT PRIMARY KEY, secret TEXT)")
    count = PAGE + 7
    for number in range(count):
        sealed = vault.seal(f"kept:{number:04}", b"%d" % number)
        await ask(tables, "INSERT INTO kept VALUES ($1, $2) RETURNING 1", f"{number:04}", sealed)
    await ask(tables, "INSERT INTO kept VALUES ('none', NULL) RETURNING 1")
    place = SealedColumn("kept", "id", "secret", "kept:{key}")
    assert await vault.reseal([place]) == 0
    new = await vault.rotate()
    clock.advance(PUBLISHED)
    assert await vault.reseal([place]) == count
    for id, sealed in await ask(tables, "SELECT id, secret FROM kept WHERE secret IS NOT NULL"):
        assert f".{new}." in sealed
        assert vault.open(f"kept:{id}", sealed) == b"%d" % int(id)
    assert await vault.reseal([place]) == 0


async def test_the_secret_key_can_be_changed(tables: Database, clock: ManualClock, vault: Vault) -> None:
    """Afterwards the new one opens everything, the old one nothing; what runs goes on and can rotate."""
    sealed = vault.seal("p", b"x")
    stale = await opened(tables, clock, SystemIds(clock))
    assert await vault.rewrap(OTHER) == 1
    assert (await opened(tables, clock, SystemIds(clock), OTHER)).open("p", sealed) == b"x"
    with pytest.raises(SetupError):
        await opened(tables, clock, SystemIds(clock))
    assert stale.open("p", sealed) == b"x"
    # A node with the old secret key must not add a data key that the next start cannot read.
    with pytest.raises(SetupError):
        await stale.rotate()
    await vault.rotate()
    await opened(tables, clock, SystemIds(clock), OTHER)


class TestSecretKeyFile:
    def test_it_is_made_once_for_its_owner_only(self, tmp_path: Path) -> None:
        """The first start writes it with mode 0600; a second call returns the same key."""
        ids = SystemIds(ManualClock())
        path = tmp_path / "new" / "data.db.key"
        key = make_master(path, ids)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert make_master(path, ids) == load_master(path) == key
        assert len(key) == 32
        assert [file.name for file in path.parent.iterdir()] == ["data.db.key"]

    @pytest.mark.parametrize("text", ["", "short", "a" * 42 + "!", "a" * 44, "\u00e9" * 43, "a" * 5000])
    def test_what_is_no_key_is_refused(self, tmp_path: Path, text: str) -> None:
        """A file that was cut, or holds something else, is a mistake that is told."""
        path = tmp_path / "key"
        path.write_text(text, "utf-8")
        with pytest.raises(SetupError, match="does not hold a secret key"):
            load_master(path)

    def test_a_key_that_others_may_read_is_told(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The file's mode is looked at: a warning, because some systems mount secrets so."""
        path = tmp_path / "key"
        make_master(path, SystemIds(ManualClock()))
        load_master(path)
        assert not caplog.messages
        path.chmod(0o644)
        load_master(path)
        assert "may read the secret key" in caplog.text

    def test_postgres_needs_a_key_from_the_operator(self, clock: ManualClock, ids: SeededIds) -> None:
        """Nodes that each made their own could not read each other's secrets."""
        settings = Settings(database="postgresql://u:p@db/app")
        with pytest.raises(SetupError, match="every node") as caught:
            open_vault(settings, None, clock, ids)  # type: ignore[arg-type]
        assert "LOWTIDE_SECRET_KEY" in caught.value.hint

    def test_a_named_file_that_is_missing_is_not_made(
        self, tmp_path: Path, clock: ManualClock, ids: SeededIds
    ) -> None:
        """A typing mistake in a path must not start a server with another key."""
        settings = load(tmp_path, {"LOWTIDE_SECRET_KEY_FILE": "kye"})
        with pytest.raises(SetupError, match="no secret key"):
            open_vault(settings, None, clock, ids)  # type: ignore[arg-type]
        assert not (tmp_path / "kye").exists()

    def test_a_lost_key_is_not_replaced(self, tmp_path: Path, clock: ManualClock, ids: SeededIds) -> None:
        """Beside a database that is there no key is made: it would open nothing."""
        settings = load(tmp_path, {"LOWTIDE_DATABASE": "data.db"})
        (tmp_path / "data.db").write_bytes(b"SQLite format 3\0")
        with pytest.raises(SetupError, match="no secret key"):
            open_vault(settings, None, clock, ids)  # type: ignore[arg-type]
        assert not (tmp_path / "data.db.key").exists()
        (tmp_path / "data.db").unlink()
        open_vault(settings, None, clock, ids)  # type: ignore[arg-type]
        assert (tmp_path / "data.db.key").exists()

    def test_the_key_itself_is_read_from_the_environment_only(self, tmp_path: Path) -> None:
        """A key in lowtide.toml would end in a repository."""
        (tmp_path / "lowtide.toml").write_text('secret_key = "x"')
        with pytest.raises(SetupError, match="does not belong"):
            load(tmp_path, {})
        (tmp_path / "lowtide.toml").unlink()
        text = base64.urlsafe_b64encode(MASTER).rstrip(b"=").decode()
        assert read_master(load(tmp_path, {"LOWTIDE_SECRET_KEY": text}).secret_key, "x") == MASTER


def test_every_sealed_column_is_sealed_anew() -> None:
    """Whatever a component says that it keeps sealed, the job after a rotation looks at."""
    said = set()
    for found in pkgutil.walk_packages(lowtide.__path__, "lowtide."):
        if found.name.endswith("__main__"):
            continue
        said |= set(getattr(importlib.import_module(found.name), "SEALED", ()))
    assert said
    assert said == set(SEALED)
