"""``/v1/auth/password``: sign in with one, set a first or a new one."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from lowtide.auth.answers import own_session
from lowtide.auth.methods.addresses import email_address
from lowtide.auth.methods.codes import MAX_SECRET
from lowtide.auth.methods.email import Email
from lowtide.auth.methods.passwords import MAX_PASSWORD_BYTES, MIN_ALONE, NewPassword, Passwords
from lowtide.auth.methods.secondfactor import SecondFactors
from lowtide.auth.methods.signing import HEADERS, REFUSED, Answered, Asking, Signing
from lowtide.auth.model import MAX_EMAIL, SecondFactorNeeded, Signed
from lowtide.kernel.errors import (
    Busy,
    Conflict,
    InvalidGrant,
    PasswordRefused,
    SignInPending,
    StepUpRequired,
    TooManyRequests,
)
from lowtide.kernel.http import KIB, Request, Route
from lowtide.storage.db import Database, Tx

Secret = Annotated[str, msgspec.Meta(max_length=MAX_SECRET)]
Typed = Annotated[str, msgspec.Meta(max_length=MAX_PASSWORD_BYTES)]


class PasswordSignIn(Asking, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An address and a password."""

    email: Annotated[str, msgspec.Meta(max_length=2 * MAX_EMAIL)]
    password: Typed


class PasswordSet(Asking, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The end of a flow that proves an address, and the password that it shall have."""

    flow_id: Secret
    code: Secret | None = None
    password: Typed


class PasswordChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A new password; with the present one, unless the user has just signed in."""

    password: Typed
    current: Typed | None = None


def password_routes(
    database: Database, passwords: Passwords, seconds: SecondFactors, email: Email, signing: Signing
) -> list[Route]:
    """``/v1/auth/password``, ``/v1/auth/password/set``, ``/v1/auth/me/password``."""

    async def sign_in(request: Request[PasswordSignIn, None]) -> Answered:
        """Sign in. The answer to a wrong password and to an unknown address is the same."""
        body, ask = request.body, await signing.ask(request, request.body)
        evidence = await passwords.prove(
            email_address(body.email),
            body.password,
            ip=request.client,
            request=request.id,
            installation=body.device.installation,
        )
        return await signing.complete(evidence, ask, request.keep)

    async def set_first(request: Request[PasswordSet, None]) -> Answered:
        """Set a password with a code from a mail: to sign up, or because the old one is forgotten.

        Whoever has a second factor is asked for it first; the password then stays as it was, to be changed
        once they are signed in.
        """
        body, ask = request.body, await signing.ask(request, request.body)
        address = await email.check(body.flow_id, body.code)
        given = await passwords.screened(body.password, email=address, beside=False)
        kept = await passwords.hash(given)
        evidence = await email.prove(body.flow_id, body.code, request.id)

        async def keep(tx: Tx, done: Signed | SecondFactorNeeded) -> None:
            if isinstance(done, Signed):
                new = NewPassword(kept, done.user.id, done.session_id, request.client, request.id)
                await passwords.keep(tx, new)

        answer = await signing.complete(evidence, ask, request.keep, also=keep)
        await passwords.kept()
        return answer

    async def change(request: Request[PasswordChange, None]) -> None:
        """Set a new password, and end every other session. 8 characters suffice beside a second factor."""
        who, body = own_session(request.principal), request.body
        user, enrolled = await database.read(lambda tx: seconds.of(tx, who.user))
        if user.email is None or not user.email_verified:
            raise Conflict(
                "A password belongs to an address, and this user has none that is verified.",
                hint="Link an e-mail address first.",
            )
        if body.current is not None:
            await passwords.check_own(who, body.current, ip=request.client, request=request.id)
        else:
            signing.fresh(who)
        given = await passwords.screened(body.password, email=user.email, beside=enrolled)
        hashed, short = await passwords.hash(given), len(given) < MIN_ALONE
        new = NewPassword(hashed, user.id, who.session, request.client, request.id, short=short)
        await passwords.change(who, new)

    def route(method: Any, path: str, handler: Any, body: Any, summary: str, **more: Any) -> Route:
        return Route(
            method, path, handler, body=body, max_body=16 * KIB, summary=summary, tags=("sign-in",), **more
        )

    opens = {"auth": "none", "response": Answered, "headers": HEADERS}
    return [
        route(
            "POST",
            "/v1/auth/password",
            sign_in,
            PasswordSignIn,
            "Sign in with a password",
            errors=(InvalidGrant, TooManyRequests, Busy, *REFUSED),
            **opens,
        ),
        route(
            "POST",
            "/v1/auth/password/set",
            set_first,
            PasswordSet,
            "Set a password with a code from a mail",
            errors=(PasswordRefused, InvalidGrant, SignInPending, Busy, *REFUSED),
            **opens,
        ),
        route(
            "PUT",
            "/v1/auth/me/password",
            change,
            PasswordChange,
            "Change the password",
            errors=(PasswordRefused, InvalidGrant, StepUpRequired, TooManyRequests, Busy, Conflict),
        ),
    ]
