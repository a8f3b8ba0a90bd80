"""What is kept of sessions: a row each, with the key of its refresh tokens under the vault's seal."""

from __future__ import annotations

import msgspec

from lowtide.auth.model import MAX_FACT, DeviceFacts, Session
from lowtide.auth.refresh import Rotation
from lowtide.storage.db import Row, Tx, load_queries
from lowtide.storage.vault import Vault

QUERIES = load_queries("lowtide.auth", "sessions.sql")
FORGET_UNSEEN = QUERIES["trim_sessions"]
"""Deletes those that were last seen before a time; for ``storage.purge``."""

PURPOSE = "auth.session:{}"
"""Under which the vault seals a session's key."""

_decode_device = msgspec.json.Decoder(DeviceFacts).decode
_decode_amr = msgspec.json.Decoder(tuple[str, ...]).decode


class Stored(msgspec.Struct, frozen=True):
    """A session with what only its refreshes need."""

    session: Session
    secret: str
    rotation: Rotation


class SessionStore:
    """Every function takes the caller's transaction; times are milliseconds since 1970."""

    def __init__(self, vault: Vault):
        self._vault = vault

    async def add(self, tx: Tx, session: Session, key: bytes) -> None:
        """Keep a new session, and the key of its refresh tokens."""
        await tx.execute(
            QUERIES["insert_session"],
            session.id,
            session.user,
            session.space,
            session.client,
            session.scope,
            msgspec.json.encode(session.device).decode(),
            session.jkt,
            msgspec.json.encode(session.amr).decode(),
            session.auth_time,
            self._vault.seal(PURPOSE.format(session.id), key),
            session.created_at,
            session.ip,
            session.user_agent,
        )

    async def find(self, tx: Tx, id: str) -> Stored | None:
        """The session with this id, over or not."""
        rows = await tx.fetch(QUERIES["session"], id)
        return _stored(rows[0]) if rows else None

    async def hold(self, tx: Tx, id: str) -> Stored | None:
        """The same, held until the transaction ends."""
        rows = await tx.fetch(QUERIES["lock_session"], id)
        return _stored(rows[0]) if rows else None

    async def of_user(self, tx: Tx, user: str, since: int, limit: int) -> list[Session]:
        """At most ``limit`` sessions of ``user`` that go on and were seen ``since``, the newest first."""
        return [_stored(row).session for row in await tx.fetch(QUERIES["sessions_of"], user, since, limit)]

    def key(self, stored: Stored) -> bytes:
        """The key of its refresh tokens."""
        return self._vault.open(PURPOSE.format(stored.session.id), stored.secret)

    async def rotate(self, tx: Tx, id: str, counter: int, rotation: str | None, ip: str, now: int) -> None:
        """Note that the refresh token ``counter`` was given out, and to whom."""
        await tx.execute(QUERIES["rotate_session"], id, counter, rotation, now, ip)

    async def prove(self, tx: Tx, id: str, amr: tuple[str, ...], auth_time: int, now: int) -> None:
        """Note when its user has proved anew who they are; its access tokens are refused from now on."""
        await tx.execute(QUERIES["prove_session"], id, msgspec.json.encode(amr).decode(), auth_time, now)

    async def end(self, tx: Tx, id: str, by: str, wipe: bool, now: int) -> None:
        """End it, unless it is over."""
        await tx.execute(QUERIES["end_session"], id, now, by, int(wipe))

    async def end_all(self, tx: Tx, user: str, by: str, wipe: bool, but: str, now: int) -> list[str]:
        """End every session of ``user`` except ``but``; their ids."""
        return [id for (id,) in await tx.fetch(QUERIES["end_sessions"], user, now, by, int(wipe), but)]

    async def end_client(self, tx: Tx, client: str, by: str, now: int) -> list[str]:
        """End every session of an OAuth client; their ids."""
        return [id for (id,) in await tx.fetch(QUERIES["end_sessions_of_client"], client, now, by)]

    async def change(self, tx: Tx, user: str, now: int) -> None:
        """Have the access tokens of ``user`` refused; their sessions go on."""
        await tx.fetch(QUERIES["change_sessions"], user, now)

    async def move(self, tx: Tx, old: str, new: str, now: int) -> list[str]:
        """Give the sessions of ``old`` to ``new``; their ids."""
        return [id for (id,) in await tx.fetch(QUERIES["move_sessions"], old, new, now)]

    async def scrub(self, tx: Tx, user: str) -> None:
        """Forget the devices and addresses of ``user``."""
        await tx.execute(QUERIES["scrub_sessions"], user)


def facts(device: DeviceFacts) -> DeviceFacts:
    """What a device says of itself, cut to what is kept."""
    return DeviceFacts(
        name=cut(device.name, MAX_FACT),
        platform=cut(device.platform, MAX_FACT),
        app_version=cut(device.app_version, MAX_FACT),
        locale=cut(device.locale, MAX_FACT),
        installation=cut(device.installation, MAX_FACT),
    )


def cut(text: str, most: int) -> str:
    """``text`` without what cannot be shown or stored, at most ``most`` characters."""
    if not text.isprintable():
        text = "".join(character for character in text if character.isprintable())
    return text[:most]


def _stored(row: Row) -> Stored:
    (
        id,
        user,
        space,
        client,
        scope,
        device,
        jkt,
        amr,
        auth_time,
        epoch,
        counter,
        created_at,
        seen_at,
        ip,
        user_agent,
        ended_at,
        ended_by,
        wipe,
        secret,
        rotation,
        rotated_at,
    ) = row
    session = Session(
        id=id,
        user=user,
        space=space,
        client=client,
        scope=scope,
        device=_decode_device(device),
        jkt=jkt,
        amr=_decode_amr(amr),
        auth_time=auth_time,
        epoch=epoch,
        counter=counter,
        created_at=created_at,
        seen_at=seen_at,
        ip=ip,
        user_agent=user_agent,
        ended_at=ended_at,
        ended_by=ended_by,
        wipe=bool(wipe),
    )
    kept = Rotation(counter=counter, id=rotation, at=rotated_at, bound=jkt is not None)
    return Stored(session, secret, kept)
