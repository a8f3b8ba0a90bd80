"""What the passkeys serve."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from lowtide.auth.answers import own_session
from lowtide.auth.methods.signing import HEADERS, REFUSED, Answered, Asking, Signing
from lowtide.auth.model import Factor, nothing
from lowtide.auth.passkeys.ceremony import AssertionCredential, RegistrationCredential
from lowtide.auth.passkeys.service import MAX_LABEL, Passkey, Passkeys
from lowtide.auth.signin import SignIn
from lowtide.kernel.errors import (
    Conflict,
    Forbidden,
    FunctionFailed,
    InvalidGrant,
    NotFound,
    SignInRefused,
    StepUpRequired,
)
from lowtide.kernel.http import KIB, Request, Route

Label = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_LABEL, pattern=r"^[^\x00-\x1f\x7f]+$")]
Ticket = Annotated[str, msgspec.Meta(max_length=128)]


class NewPasskey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The answer of the device that made a passkey."""

    credential: RegistrationCredential
    """What ``navigator.credentials.create()`` gave, as JSON; on phones the same, as the system gives it."""
    name: Label = "Passkey"


class Renamed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What its owner calls a passkey."""

    name: Label


class Waiting(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """For whom a passkey is asked for."""

    ticket: Ticket = ""
    """Of a sign-in that waits for its second factor; empty for anyone."""


class PasskeySignIn(Asking, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The answer of the device that signed with a passkey."""

    credential: AssertionCredential
    """What ``navigator.credentials.get()`` gave, as JSON; on phones the same, as the system gives it."""
    ticket: Ticket = ""


class PasskeyList(msgspec.Struct, frozen=True, kw_only=True):
    """A user's passkeys, the oldest first."""

    passkeys: list[Passkey]


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What to hand to the device, as it is."""

    publicKey: dict[str, Any]  # noqa: N815 - what every platform calls it
    """PublicKeyCredentialCreationOptionsJSON or PublicKeyCredentialRequestOptionsJSON (WebAuthn Level 3)."""


def passkey_routes(passkeys: Passkeys, sign_in: SignIn, signing: Signing) -> list[Route]:
    """``/v1/auth/passkeys``: making, using, listing, naming and deleting passkeys."""

    async def begin_registration(request: Request[None, None]) -> Options:
        """Begin to make a passkey: what to ask of the device. The user signed in a short while ago."""
        who = own_session(request.principal)
        return Options(publicKey=await passkeys.begin_registration(who))

    async def register(request: Request[NewPasskey, None]) -> Passkey:
        """Keep the passkey that the device made. An anonymous user is one no longer, and keeps their id."""
        who = own_session(request.principal)
        body, also = request.body, request.keep or nothing
        return await passkeys.register(who, body.credential, body.name, request.id, request.client, also=also)

    async def list_passkeys(request: Request[None, None]) -> PasskeyList:
        """The user's passkeys."""
        return PasskeyList(passkeys=await passkeys.list(own_session(request.principal).user))

    async def rename(request: Request[Renamed, None]) -> None:
        """Call a passkey something else."""
        who = own_session(request.principal)
        await passkeys.rename(who, request.params["passkey"], request.body.name, request.id)

    async def delete(request: Request[None, None]) -> None:
        """Delete a passkey here. The device keeps its half until its user deletes that, too."""
        await passkeys.delete(own_session(request.principal), request.params["passkey"], request.id)

    async def begin_sign_in(request: Request[Waiting, None]) -> Options:
        """Begin to sign in with a passkey, without a name; or to finish a sign-in that has a ticket."""
        ticket = request.body.ticket
        user = (await sign_in.waiting(ticket)).id if ticket else None
        return Options(publicKey=await passkeys.begin_sign_in(user))

    async def complete(request: Request[PasskeySignIn, None]) -> Answered:
        """Sign in with a passkey, or finish a sign-in with it. It counts as two factors by itself."""
        body, ask = request.body, await signing.ask(request, request.body)
        if body.ticket:
            user = await sign_in.waiting(body.ticket)
            evidence = await passkeys.prove(body.credential, user=user.id, request=request.id)
            factor = Factor(evidence.proof.amr, evidence.spend)
            return await signing.finish(body.ticket, factor, ask, request.keep)
        evidence = await passkeys.prove(body.credential, request=request.id)
        return await signing.complete(evidence, ask, request.keep)

    base, tags = "/v1/auth/passkeys", ("passkeys",)
    return [
        Route(
            "POST",
            f"{base}/begin",
            begin_registration,
            response=Options,
            errors=(Forbidden, StepUpRequired, Conflict),
            summary="Begin to make a passkey",
            tags=tags,
        ),
        Route(
            "POST",
            base,
            register,
            body=NewPasskey,
            response=Passkey,
            status=201,
            max_body=64 * KIB,
            errors=(Forbidden, StepUpRequired, Conflict, InvalidGrant, SignInRefused, FunctionFailed),
            summary="Keep a passkey",
            tags=tags,
        ),
        Route(
            "GET",
            base,
            list_passkeys,
            response=PasskeyList,
            errors=(Forbidden,),
            summary="The user's passkeys",
            tags=tags,
        ),
        Route(
            "PATCH",
            f"{base}/{{passkey}}",
            rename,
            body=Renamed,
            errors=(Forbidden, NotFound),
            summary="Rename a passkey",
            tags=tags,
        ),
        Route(
            "DELETE",
            f"{base}/{{passkey}}",
            delete,
            errors=(Forbidden, StepUpRequired, NotFound, Conflict),
            summary="Delete a passkey",
            tags=tags,
        ),
        Route(
            "POST",
            f"{base}/sign-in/begin",
            begin_sign_in,
            body=Waiting,
            response=Options,
            auth="none",
            max_body=4 * KIB,
            errors=(InvalidGrant,),
            summary="Begin to sign in with a passkey",
            tags=tags,
        ),
        Route(
            "POST",
            f"{base}/sign-in",
            complete,
            body=PasskeySignIn,
            response=Answered,
            auth="none",
            max_body=64 * KIB,
            errors=(InvalidGrant, *REFUSED),
            headers=HEADERS,
            summary="Sign in with a passkey",
            tags=tags,
        ),
    ]
