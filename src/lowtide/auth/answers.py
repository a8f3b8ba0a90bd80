"""What clients are told of accounts, and how a request becomes an ``Ask``. For every method's routes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from lowtide.auth.model import (
    Also,
    Ask,
    DeviceFacts,
    Identity,
    SecondFactorNeeded,
    Session,
    Signed,
    User,
    nothing,
)
from lowtide.kernel.errors import Forbidden
from lowtide.kernel.http import Keep, Request
from lowtide.kernel.schema import Principal
from lowtide.storage.db import Tx


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """A user, as they and the app's servers see them."""

    id: str
    anonymous: bool
    name: str | None
    email: str | None
    email_verified: bool
    phone: str | None
    phone_verified: bool
    claims: Mapping[str, Any]
    roles: tuple[str, ...]
    created_at: int


class SignedIn(msgspec.Struct, frozen=True, kw_only=True, tag_field="status", tag="signed_in"):
    """Signed in. The refresh token is kept where no backup takes it to another device."""

    access_token: str
    refresh_token: str
    token_type: Literal["Bearer", "DPoP"]
    expires_in: int
    """Seconds."""
    session_id: str
    outcome: Literal["signed_in", "created", "upgraded"]
    """``signed_in`` with another ``user.id`` than the anonymous one that asked: the two may be merged."""
    user: Account


class SecondFactor(msgspec.Struct, frozen=True, kw_only=True, tag_field="status", tag="second_factor_needed"):
    """The first factor was right: send one of ``factors`` with the ``ticket``."""

    ticket: str
    factors: tuple[str, ...]
    expires_in: int


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """One of a user's sessions. Times are milliseconds since 1970."""

    id: str
    current: bool
    """Is it the one that asks?"""
    name: str
    platform: str
    app_version: str
    client: str
    """The OAuth client, or "" for the app itself."""
    ip: str
    user_agent: str
    created_at: int
    seen_at: int


class WayIn(msgspec.Struct, frozen=True, kw_only=True):
    """One way in of a user."""

    provider: str
    subject: str
    email: str | None
    linked_at: int
    used_at: int


def told(outcome: Signed | SecondFactorNeeded) -> SignedIn | SecondFactor:
    """The answer to a sign-in."""
    if isinstance(outcome, SecondFactorNeeded):
        return SecondFactor(ticket=outcome.ticket, factors=outcome.factors, expires_in=outcome.expires_in)
    return signed_in(outcome)


def kept(keep: Keep | None, also: Also = nothing) -> Also:
    """``also``, and the answer kept for who repeats the request. ``keep``: the request's."""
    if keep is None:
        return also

    async def work(tx: Tx, outcome: Signed | SecondFactorNeeded) -> None:
        await also(tx, outcome)
        await keep(tx, told(outcome))

    return work


def signed_in(signed: Signed) -> SignedIn:
    """The answer to a sign-in that has come to its end."""
    return SignedIn(
        access_token=signed.access_token,
        refresh_token=signed.refresh_token,
        token_type=signed.token_type,
        expires_in=signed.expires_in,
        session_id=signed.session_id,
        outcome=signed.outcome,
        user=account(signed.user),
    )


def account(user: User) -> Account:
    """A user, without what only the server needs."""
    return Account(
        id=user.id,
        anonymous=user.anonymous,
        name=user.name,
        email=user.email,
        email_verified=user.email_verified,
        phone=user.phone,
        phone_verified=user.phone_verified,
        claims=user.claims,
        roles=user.roles,
        created_at=user.created_at,
    )


def device(session: Session, current: str) -> Device:
    """A session, without what only the server needs."""
    return Device(
        id=session.id,
        current=session.id == current,
        name=session.device.name,
        platform=session.device.platform,
        app_version=session.device.app_version,
        client=session.client,
        ip=session.ip,
        user_agent=session.user_agent,
        created_at=session.created_at,
        seen_at=session.seen_at,
    )


def way_in(identity: Identity) -> WayIn:
    """An identity, as its user sees it."""
    return WayIn(
        provider=identity.provider,
        subject=identity.subject,
        email=identity.email,
        linked_at=identity.linked_at,
        used_at=identity.used_at,
    )


def ask_of(
    request: Request[Any, Any],
    *,
    device: DeviceFacts | None = None,
    space: str = "main",
    jkt: str | None = None,
    upgrade: Principal | None = None,
    alone: bool = False,
) -> Ask:
    """Who asks to sign in with ``request``."""
    return Ask(
        space=space,
        device=device or DeviceFacts(),
        jkt=jkt,
        upgrade=upgrade,
        alone=alone,
        ip=request.client,
        request_id=request.id,
        user_agent=request.header("user-agent") or "",
    )


def own_session(who: Principal) -> Principal:
    """``who``, if they speak for themselves: a session of the app's own, and not an OAuth client's.

    Raises ``Forbidden`` otherwise: a third party's token does not change its user's account.
    """
    if not who.session or who.client:
        raise Forbidden(
            "Only the app itself may do this, with a token of a sign-in.",
            hint="Sign in through the app; tokens of other clients and of servers do not count here.",
        )
    return who
