"""The end that every method has in common: from a request and a proof to a session."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import msgspec

from lowtide.auth.answers import SecondFactor, SignedIn, ask_of, kept, own_session, signed_in, told
from lowtide.auth.identities import Identities
from lowtide.auth.model import (
    Also,
    Ask,
    DeviceFacts,
    Evidence,
    Factor,
    User,
    nothing,
)
from lowtide.auth.proofs import SharedProofs
from lowtide.auth.signin import SignIn
from lowtide.kernel.clock import Clock
from lowtide.kernel.errors import (
    AccountDisabled,
    Conflict,
    DeadlinePassed,
    Forbidden,
    FunctionFailed,
    IdentityTaken,
    IdentityUnlinked,
    NonceNeeded,
    ProofInvalid,
    SessionRevoked,
    SignInRefused,
    StepUpRequired,
    TokenExpired,
    Unauthorized,
)
from lowtide.kernel.http import Header, Keep, Request
from lowtide.kernel.schema import Principal

HEADERS = (
    Header(
        "authorization", "The token of an anonymous user who signs up, or of who proves anew who they are."
    ),
    Header("dpop", "A proof of the key to which the session's refreshes are to be bound (RFC 9449)."),
    Header("user-agent", "Kept with the session, and shown to the user among their devices."),
)
"""What every address reads that signs in ..."""

REFUSED = (
    *(Unauthorized, TokenExpired, SessionRevoked, ProofInvalid, NonceNeeded),
    *(Forbidden, AccountDisabled, SignInRefused, FunctionFailed, DeadlinePassed, Conflict),
)
"""... how it refuses a token or a proof that is not good, and whom it does not let in ..."""
UNLINKED = (StepUpRequired, IdentityTaken, IdentityUnlinked)
"""... and, where an account may get another way in, how it does not."""

FRESH = 600
"""Seconds for which a sign-in counts as a proof of who is there."""

Answered = SignedIn | SecondFactor


class Asking(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where somebody signs in: a part of the body of every address that does so."""

    space: Annotated[str, msgspec.Meta(max_length=128)] = "main"
    device: DeviceFacts = DeviceFacts()


class Linking(Asking, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where somebody signs in, or which account gets another way in."""

    link: bool = False
    """Give the account of the request's token this way in, and sign in to no other. Needs a sign-in of the
    last 15 minutes."""


class Signing:
    """Signs in whoever a method has proved."""

    def __init__(
        self,
        sign_in: SignIn,
        identities: Identities,
        proofs: SharedProofs,
        authenticate: Callable[[str], Principal],
        clock: Clock,
    ):
        """``authenticate``: a token to whom it stands for."""
        self._sign_in = sign_in
        self._identities = identities
        self._proofs = proofs
        self._authenticate = authenticate
        self._clock = clock

    async def ask(self, request: Request[Any, Any], body: Asking) -> Ask:
        """Who wants to sign in, and where: asked before a code, a ticket or another proof is used up.

        Raises ``Unauthorized`` for a token that is sent and not good, ``ProofInvalid``, ``NonceNeeded``; to
        link also for none, and ``StepUpRequired`` for one of an old sign-in.
        """
        who = self.who(request)
        link = isinstance(body, Linking) and body.link
        if link:
            if who is None:
                raise Unauthorized("Only who is signed in links another way in.")
            self._identities.recent(own_session(who))
        jkt = await self._proofs.of(request)
        return ask_of(request, device=body.device, space=body.space, jkt=jkt, upgrade=who, alone=link)

    def who(self, request: Request[Any, Any]) -> Principal | None:
        """Who is signed in already, where nobody has to be. Raises ``Unauthorized``, ``TokenExpired``."""
        header = request.header("authorization")
        if header is None:
            return None
        scheme, _, token = header.partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthorized("The Authorization header is not 'Bearer' and a token.")
        who = self._authenticate(token.strip(" "))
        if who.jkt or who.client or who.server:
            raise Unauthorized("Only the app's own token of a user helps to sign in.")
        return who

    def fresh(self, who: Principal) -> Principal:
        """``who``, if they have proved who they are lately. Raises ``StepUpRequired``."""
        if self._clock.now() - who.auth_time > FRESH * 1000:
            raise StepUpRequired
        return who

    async def waiting(self, ticket: str) -> User:
        """Whose second factor ``ticket`` waits for. Raises ``InvalidGrant``."""
        return await self._sign_in.waiting(ticket)

    async def finish(self, ticket: str, factor: Factor, ask: Ask, keep: Keep | None) -> SignedIn:
        """A session for whom ``ticket`` is of, whose second factor was right. Raises as ``SignIn.finish``.

        ``keep``: the request's.
        """
        also = kept(keep)
        return signed_in(await self._sign_in.finish(ticket, ask, factor.amr, spend=factor.spend, also=also))

    async def complete(
        self, evidence: Evidence, ask: Ask, keep: Keep | None, *, also: Also = nothing
    ) -> Answered:
        """A session for whom ``evidence`` is of, or what is missing. Raises as ``SignIn`` does.

        ``keep``: the request's; called, like ``also``, in the transaction in which the evidence is used up.
        """
        who, proof, spend = ask.upgrade, evidence.proof, evidence.spend
        # A guest is upgraded: that is a sign-up, with its hooks.
        if ask.alone and who is not None and not who.claims.get("anonymous"):
            signed = await self._identities.link(who, proof, ask, spend=spend, also=kept(keep, also))
            return signed_in(signed)
        return told(await self._sign_in.complete(proof, ask, spend=spend, also=kept(keep, also)))
