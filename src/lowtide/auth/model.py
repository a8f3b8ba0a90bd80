"""The values of accounts: what was proved, who asks, who it is, and what they get.

Times are milliseconds since 1970. Names of people's things (``name``, ``email``) are as they gave them,
bounded by the ``MAX_`` constants here, and never empty text: what is not known is None.
"""

from __future__ import annotations

import string
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal, Protocol

import msgspec

from lowtide.kernel.schema import Principal
from lowtide.storage.db import Tx

MAX_PERSON = 200
"""Characters of a person's name."""
MAX_EMAIL = 254
"""Characters of an e-mail address (RFC 5321, section 4.5.3.1)."""
MAX_PHONE = 16
"""Characters of a phone number: E.164, with its plus."""
MAX_CLAIMS = 2048
"""Bytes of a user's custom claims as JSON: they travel in every token."""
MAX_ROLES = 32
"""Roles of a user, and of a member of a space."""
MAX_FACT = 128
"""Characters of each thing that a device says of itself."""

_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)

Status = Literal["active", "disabled", "deleting", "merged"]
"""``deleting``: signed out everywhere, its data goes soon. ``merged``: lives on as another user."""


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """What a method of signing in has proved."""

    provider: str
    """``email``, ``phone``, ``password``, ``passkey``, ``apple``, ``google``, or an upstream's name."""
    subject: str
    """Who it is there; never given to somebody else later. 1 to 255 characters."""
    email: str | None = None
    """Lower case, as ``normal_email`` writes it."""
    email_verified: bool = False
    """Does the provider vouch that mail to ``email`` reaches this person?"""
    phone: str | None = None
    phone_verified: bool = False
    name: str | None = None
    amr: tuple[str, ...] = ()
    """How it was proved (RFC 8176): ``pwd``, ``otp``, ``sms``, ``hwk``, ``user``."""
    strong: bool = False
    """Two factors by itself, such as a passkey with user verification: no second one is asked for."""
    auth_time: int | None = None
    """When it was proved at an outside provider, in milliseconds since 1970; None if it does not tell."""
    claims: Mapping[str, Any] = {}
    """What the provider says besides: shown to hooks, not stored, not in tokens."""


Spend = Callable[[Tx], Awaitable[None]]
"""Uses up what has proved something. Raises ``InvalidGrant`` where another request has."""
Also = Callable[[Tx, Any], Awaitable[None]]
"""What belongs to a sign-in besides: called with what it came to, in its transaction."""


async def nothing(tx: Tx, outcome: Any = None) -> None:
    """Neither uses anything up nor adds anything."""


class Evidence(msgspec.Struct, frozen=True):
    """A proof that counts once: ``spend`` is for the transaction in which it counts, and in no other.

    So that a sign-in which fails, or dies with its server, leaves the proof as good as it was.
    """

    proof: Proof
    spend: Spend = nothing


class Factor(msgspec.Struct, frozen=True):
    """A second factor that was right. ``spend`` as of ``Evidence``."""

    amr: tuple[str, ...]
    """How (RFC 8176)."""
    spend: Spend


class DeviceFacts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a device says of itself. Shown to its user; believed for nothing else."""

    name: str = ""
    platform: str = ""
    app_version: str = ""
    locale: str = ""
    installation: str = ""
    """The app's installation id: the same over sign-outs."""


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """Who wants to sign in, and where."""

    client_id: str = ""
    """The OAuth client, or "" for the app's own sign-in."""
    space: str = "main"
    device: DeviceFacts = DeviceFacts()
    jkt: str | None = None
    """The thumbprint of the key that the device proved to hold (RFC 9449): its refreshes must, too."""
    upgrade: Principal | None = None
    """An anonymous user who now proves an identity, and keeps their id."""
    alone: bool = False
    """Sign in as nobody but the user of ``upgrade``."""
    ip: str = ""
    request_id: str = ""
    user_agent: str = ""


class User(msgspec.Struct, frozen=True, kw_only=True):
    """A user as stored."""

    id: str
    """A version 7 UUID; the ``sub`` of tokens and what owner fields hold."""
    status: Status = "active"
    anonymous: bool = False
    """Nobody can sign in as this user again: only their sessions go on."""
    name: str | None = None
    email: str | None = None
    email_verified: bool = False
    phone: str | None = None
    phone_verified: bool = False
    claims: Mapping[str, Any] = {}
    """The app's own, set by its servers and admins, in every token."""
    roles: tuple[str, ...] = ()
    """In every space. ``admin`` may use the admin addresses."""
    created_at: int = 0
    updated_at: int = 0
    signed_in_at: int | None = None


def called(user: User) -> str:
    """What a page calls ``user``."""
    return user.email or user.name or user.phone or "somebody without a name"


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """One way in: what a provider calls a user."""

    provider: str
    subject: str
    user: str
    email: str | None = None
    email_verified: bool = False
    linked_at: int = 0
    used_at: int = 0


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """One sign-in on one device, from its first token to its end."""

    id: str
    user: str
    space: str
    client: str = ""
    scope: str = ""
    device: DeviceFacts = DeviceFacts()
    jkt: str | None = None
    amr: tuple[str, ...] = ()
    auth_time: int = 0
    """When the user last proved who they are; 0 where nobody knows."""
    epoch: int = 0
    """Tokens of an earlier one are refused: the client fetches a new one, which says what has changed."""
    counter: int = 0
    """Refreshes so far."""
    created_at: int = 0
    seen_at: int = 0
    """The last refresh: 90 days later the session is over."""
    ip: str = ""
    user_agent: str = ""
    ended_at: int | None = None
    ended_by: str | None = None
    """``sign_out``, ``user``, ``operator``, ``reuse``, ``idle``, ``replaced``, ``deleted``."""
    wipe: bool = False
    """The device is asked to delete what it holds."""


class Opened(msgspec.Struct, frozen=True, kw_only=True):
    """A session as a transaction left it: ``Sessions.signed`` makes tokens of it, once that has committed."""

    session: Session
    user: User
    space: str
    roles: tuple[str, ...]
    aliases: tuple[str, ...]
    refresh_token: str

    def who(self) -> Principal:
        """Whom its access token stands for.

        The access token of an OAuth client is bound to the key that its refreshes prove (RFC 9449); the app's
        own are bearer tokens, bound through their refreshes only.
        """
        session, user = self.session, self.user
        own = dict(user.claims)
        if user.anonymous:
            own["anonymous"] = True
        return Principal(
            user=user.id,
            space=self.space,
            claims=own,
            session=session.id,
            epoch=session.epoch,
            auth_time=session.auth_time,
            amr=session.amr,
            roles=self.roles,
            scope=tuple(session.scope.split()),
            client=session.client,
            jkt=(session.jkt or "") if session.client else "",
            aliases=self.aliases,
        )


class Signed(msgspec.Struct, frozen=True, kw_only=True):
    """Signed in: what the client keeps."""

    access_token: str
    refresh_token: str
    expires_in: int
    """Seconds for which the access token is good."""
    user: User
    session_id: str
    outcome: Literal["signed_in", "created", "upgraded"] = "signed_in"
    token_type: Literal["Bearer", "DPoP"] = "Bearer"  # noqa: S105 - the scheme, no secret


class SecondFactorNeeded(msgspec.Struct, frozen=True, kw_only=True):
    """The first factor is right; ``ticket`` and one of ``factors`` finish the sign-in."""

    ticket: str
    """Secret, good once, for ``expires_in`` seconds: for ``SignIn.waiting`` and ``SignIn.finish``."""
    factors: tuple[str, ...]
    """``totp``, ``recovery``, ``passkey``: what the user has."""
    expires_in: int
    user: str
    """The user's id; not for the client."""


class Credentials(Protocol):
    """What a method keeps for its users: passwords, passkeys, one-time codes' secrets."""

    async def factors(self, tx: Tx, user: str) -> tuple[str, ...]:
        """Which second factors of this kind ``user`` has set up; empty for none."""
        ...

    async def forget(self, tx: Tx, user: str) -> None:
        """Delete everything kept for ``user``: the account goes, or may have been made by somebody else."""
        ...


def normal_email(address: str) -> str:
    """``address`` as it is compared and stored: trimmed and in lower case.

    Of ASCII only: elsewhere two addresses would become one, as the Kelvin sign becomes a k. No dots or plus
    parts are taken out: whose they are is the mail server's to say.
    """
    return address.strip().translate(_LOWER)
