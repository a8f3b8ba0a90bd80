"""Users, the ways in that belong to them, and the spaces in which they may act.

Every function takes the caller's transaction. What is found by an address or an identity is judged by
``SignIn``; here it is only kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from lowtide.auth.model import (
    MAX_CLAIMS,
    MAX_EMAIL,
    MAX_PERSON,
    MAX_PHONE,
    MAX_ROLES,
    Identity,
    Proof,
    User,
)
from lowtide.auth.tokens import ADMIN, REGISTERED
from lowtide.kernel.clock import Clock
from lowtide.kernel.errors import Forbidden, Malformed, NotFound
from lowtide.kernel.ids import Ids
from lowtide.storage.db import Row, Tx, load_queries

QUERIES = load_queries("lowtide.auth", "users.sql")

MAIN = "main"
"""The space that is open to every user."""
ALIASES_KEPT = 180 * 24 * 3600
"""Seconds for which what was written under a merged user's old id still arrives."""
MAX_ALIASES = 16
"""Former ids that a token carries; beyond them the oldest is left out."""
MAX_SUBJECT = 255
"""Characters of what a provider calls a user (OpenID Connect Core, section 2)."""
LAST = "g"
"""After every id."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode
_decode_names = msgspec.json.Decoder(tuple[str, ...]).decode


class Users:
    """Keeps users. Stateless."""

    def __init__(self, clock: Clock, ids: Ids):
        self._clock = clock
        self._ids = ids

    # -- users ------------------------------------------------------------------------------------

    async def find(self, tx: Tx, id: str) -> User | None:
        """The user with this id."""
        return _user(await tx.fetch(QUERIES["user"], id))

    async def get(self, tx: Tx, id: str) -> User:
        """The user with this id, held until the transaction ends. Raises ``NotFound``."""
        user = _user(await tx.fetch(QUERIES["lock_user"], id))
        if user is None:
            raise NotFound("There is no such user.")
        return user

    async def by_identity(self, tx: Tx, provider: str, subject: str) -> User | None:
        """Whose identity this is."""
        return _user(await tx.fetch(QUERIES["user_by_identity"], provider, subject))

    async def by_email(self, tx: Tx, email: str) -> User | None:
        """Whose address this is, verified or not; ``email`` as ``normal_email`` writes it."""
        return _user(await tx.fetch(QUERIES["user_by_email"], email))

    async def search(self, tx: Tx, text: str, before: str, limit: int) -> list[User]:
        """Users whose id is ``text`` or whose address, number or name holds it; all for "". Newest first.

        ``before``: the id of the last one of the page before, or "". A text is looked for in every user.
        """
        before = before or LAST
        if not text:
            rows = await tx.fetch(QUERIES["users"], before, limit)
        else:
            escaped = text.lower().replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
            rows = await tx.fetch(QUERIES["users_named"], before, limit, text, f"%{escaped}%")
        return [_read(row) for row in rows]

    async def create(self, tx: Tx, user: User) -> User:
        """Keep a new user; its id and times are made here. ``NotUnique`` for an address that is taken."""
        now = self._clock.now()
        user = msgspec.structs.replace(user, id=self._ids.uuid(), created_at=now, updated_at=now)
        await tx.execute(QUERIES["insert_user"], user.id, *_columns(user), now, now, user.signed_in_at)
        return user

    async def save(self, tx: Tx, user: User) -> User:
        """Keep what has changed of ``user``. ``NotUnique`` for an address that is taken."""
        user = msgspec.structs.replace(user, updated_at=self._clock.now())
        await tx.execute(QUERIES["update_user"], user.id, *_columns(user), user.updated_at, user.signed_in_at)
        return user

    async def delete(self, tx: Tx, id: str) -> None:
        """Forget the user and everything about them that is kept here."""
        for name in (
            "delete_identities",
            "delete_unlinked",
            "delete_memberships",
            "delete_aliases",
            "delete_tickets",
            "delete_user",
        ):
            await tx.execute(QUERIES[name], id)

    # -- identities -------------------------------------------------------------------------------

    async def identities(self, tx: Tx, user: str) -> list[Identity]:
        """The ways in that ``user`` has, the oldest first."""
        return [
            Identity(
                provider=provider,
                subject=subject,
                user=owner,
                email=email,
                email_verified=bool(verified),
                linked_at=linked_at,
                used_at=used_at,
            )
            for provider, subject, owner, email, verified, linked_at, used_at in await tx.fetch(
                QUERIES["identities"], user
            )
        ]

    async def link(self, tx: Tx, user: str, proof: Proof) -> None:
        """Let whoever proves this again sign in as ``user``. ``NotUnique`` if it is somebody's."""
        check_proof(proof)
        await tx.execute(QUERIES["forget_unlinked"], user, proof.provider, proof.subject)
        await tx.execute(
            QUERIES["insert_identity"],
            proof.provider,
            proof.subject,
            user,
            proof.email,
            int(proof.email_verified),
            self._clock.now(),
        )

    async def used(self, tx: Tx, proof: Proof) -> None:
        """Note that an identity was used, and what its provider says of it now."""
        await tx.execute(
            QUERIES["use_identity"],
            proof.provider,
            proof.subject,
            self._clock.now(),
            proof.email,
            int(proof.email_verified),
        )

    async def unlink(self, tx: Tx, user: str, provider: str, subject: str) -> None:
        """Take one way in away."""
        await tx.execute(QUERIES["delete_identity"], user, provider, subject)

    async def note_unlinked(self, tx: Tx, user: str, provider: str, subject: str) -> None:
        """Remember that ``user`` took this way in away, until it is linked again: see ``unlinked``."""
        await tx.execute(QUERIES["note_unlinked"], user, provider, subject, self._clock.now())

    async def unlinked(self, tx: Tx, user: str, provider: str, subject: str) -> bool:
        """Did ``user`` take this way in away?"""
        return bool(await tx.fetch(QUERIES["unlinked"], user, provider, subject))

    async def unlink_all(self, tx: Tx, user: str) -> None:
        """Take every way in away, and forget those that were taken away before."""
        await tx.execute(QUERIES["delete_identities"], user)
        await tx.execute(QUERIES["delete_unlinked"], user)

    async def forget_tickets(self, tx: Tx, user: str) -> None:
        """End every sign-in of ``user`` that waits for a second factor."""
        await tx.execute(QUERIES["delete_tickets"], user)

    # -- spaces -----------------------------------------------------------------------------------

    async def roles(self, tx: Tx, user: User, space: str) -> tuple[str, ...]:
        """What ``user`` is in ``space``. ``Forbidden`` in one other than main for who is no member."""
        rows = await tx.fetch(QUERIES["member"], space, user.id)
        if not rows and space != MAIN:
            raise Forbidden(
                f"This user is no member of the space {space!r}.", hint="An admin adds members to a space."
            )
        own = _decode_names(rows[0][0]) if rows else ()
        return tuple(dict.fromkeys((*user.roles, *own)))

    async def memberships(self, tx: Tx, user: str) -> dict[str, tuple[str, ...]]:
        """The spaces of which ``user`` is a member, with their roles there; main only where it has some."""
        rows = await tx.fetch(QUERIES["memberships"], user)
        return {space: _decode_names(roles) for space, roles in rows}

    async def set_member(self, tx: Tx, space: str, user: str, roles: Sequence[str]) -> None:
        """Make ``user`` a member of ``space``, or give them other roles there."""
        await tx.execute(QUERIES["set_member"], space, user, _text(tuple(roles)), self._clock.now())

    async def remove_member(self, tx: Tx, space: str, user: str) -> None:
        """Take ``user`` out of ``space``."""
        await tx.execute(QUERIES["delete_member"], space, user)

    # -- former ids -------------------------------------------------------------------------------

    async def aliases(self, tx: Tx, user: str) -> tuple[str, ...]:
        """The ids under which ``user`` wrote before a merge, the latest first."""
        since = self._clock.now() - ALIASES_KEPT * 1000
        return tuple(id for (id,) in await tx.fetch(QUERIES["aliases"], user, since, MAX_ALIASES))

    async def formers(self, tx: Tx, user: str) -> tuple[str, ...]:
        """All ids that ``user`` ever had before a merge: what could not be moved is theirs still."""
        return tuple(id for (id,) in await tx.fetch(QUERIES["formers"], user))

    async def add_alias(self, tx: Tx, old: str, new: str) -> None:
        """What ``old`` was is ``new`` from now on; so is what had become ``old`` before."""
        await tx.execute(QUERIES["move_aliases"], old, new)
        await tx.execute(QUERIES["insert_alias"], old, new, self._clock.now())


def check_proof(proof: Proof) -> None:
    """Raise ``Malformed`` for a proof whose texts cannot be kept."""
    for what, value, most in (
        ("provider", proof.provider, 64),
        ("subject", proof.subject, MAX_SUBJECT),
        ("e-mail address", proof.email, MAX_EMAIL),
        ("phone number", proof.phone, MAX_PHONE),
    ):
        if value is not None and not (0 < len(value) <= most and value.isprintable()):
            raise Malformed(f"The {what} is not a text of 1 to {most} printable characters.")


def person_name(name: str | None) -> str | None:
    """A person's name as it is kept: trimmed, None for an empty one. ``Malformed`` for one that cannot be."""
    if name is None or not name.strip():
        return None
    name = name.strip()
    if len(name) > MAX_PERSON or not name.isprintable():
        raise Malformed(f"A name is at most {MAX_PERSON} printable characters.")
    return name


def check_claims(claims: Mapping[str, Any]) -> None:
    """Raise ``Malformed`` for custom claims that no token can carry."""
    if taken := REGISTERED & claims.keys():
        raise Malformed(f"These claims have a meaning of their own: {', '.join(sorted(taken))}.")
    if not all(0 < len(name) <= 64 and name.isprintable() for name in claims):
        raise Malformed("A claim's name is 1 to 64 printable characters.")
    if len(_encode(claims)) > MAX_CLAIMS:
        raise Malformed(f"A user's claims are at most {MAX_CLAIMS} bytes as JSON.", limit=MAX_CLAIMS)


def check_roles(roles: Sequence[str], *, member: bool = False) -> None:
    """Raise ``Malformed`` for what cannot be roles. ``member``: of one space, where nobody is ``admin``."""
    if len(roles) > MAX_ROLES or len(set(roles)) != len(roles):
        raise Malformed(f"Roles are at most {MAX_ROLES}, each once.")
    if not all(0 < len(role) <= 64 and role.isprintable() for role in roles):
        raise Malformed("A role is 1 to 64 printable characters.")
    if member and ADMIN in roles:
        raise Malformed(
            "The role 'admin' is for the whole server.", hint="Call it otherwise within a space: 'owner'."
        )


def check_space(space: str) -> None:
    """Raise ``Malformed`` for what cannot be a space's name."""
    if not 0 < len(space) <= 128 or not space.isprintable() or "/" in space:
        raise Malformed("A space's name is 1 to 128 printable characters without '/'.")


def _columns(user: User) -> tuple[Any, ...]:
    return (
        user.status,
        int(user.anonymous),
        user.name,
        user.email,
        int(user.email_verified),
        user.phone,
        int(user.phone_verified),
        _text(user.claims),
        _text(user.roles),
    )


def _text(value: Any) -> str:
    return _encode(value).decode()


def _user(rows: list[Row]) -> User | None:
    return _read(rows[0]) if rows else None


def _read(row: Row) -> User:
    (
        id,
        status,
        anonymous,
        name,
        email,
        email_verified,
        phone,
        phone_verified,
        claims,
        roles,
        created_at,
        updated_at,
        signed_in_at,
    ) = row
    return User(
        id=id,
        status=status,
        anonymous=bool(anonymous),
        name=name,
        email=email,
        email_verified=bool(email_verified),
        phone=phone,
        phone_verified=bool(phone_verified),
        claims=_decode(claims),
        roles=_decode_names(roles),
        created_at=created_at,
        updated_at=updated_at,
        signed_in_at=signed_in_at,
    )
