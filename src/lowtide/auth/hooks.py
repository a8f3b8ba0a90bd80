"""The app's own code around signing up and signing in.

A *before* hook runs while the user waits, has ``DEADLINE`` seconds, and may refuse (``Refused``) or return
custom claims for the user; it may run more than once for one sign-in. An *after* hook runs as a job once all
is durable, at least once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal

import msgspec

from lowtide.auth.model import Ask, DeviceFacts, Proof, User
from lowtide.auth.users import check_claims
from lowtide.kernel.errors import (
    DeadlinePassed,
    FunctionFailed,
    Malformed,
    Refused,
    SignInRefused,
    Unavailable,
)
from lowtide.storage.db import Tx
from lowtide.storage.jobs import Job, Jobs

_LOG = logging.getLogger("lowtide.functions")

DEADLINE = 5.0
"""Seconds that a hook may take while its user waits."""
AFTER_DEADLINE = 30.0
"""Seconds of one run of a hook that nobody waits for."""

Hook = Callable[[Any], Awaitable[Any]]


class SignInEvent(msgspec.Struct, frozen=True, kw_only=True):
    """What a hook is told."""

    user: User
    """As stored; before a sign-up as it will be, with an id of "" unless an anonymous user is upgraded."""
    provider: str
    """``email``, ``password``, ``apple``, ...; ``anonymous`` for who proved nothing."""
    claims: Mapping[str, Any] = {}
    """What the provider says; empty in after hooks."""
    space: str = "main"
    device: DeviceFacts = DeviceFacts()
    ip: str = ""


class Hooks:
    """Runs the hooks that the app declared, by moment."""

    def __init__(self, hooks: Mapping[str, Hook], jobs: Jobs):
        self._hooks = dict(hooks)
        self._jobs = jobs
        for moment in ("after_sign_up", "after_sign_in"):
            jobs.register(f"auth.{moment}", SignInEvent, self._run_after(moment), deadline=AFTER_DEADLINE + 5)

    async def before(
        self, moment: Literal["before_sign_up", "before_sign_in"], user: User, proof: Proof, ask: Ask
    ) -> dict[str, Any]:
        """The claims that the hook sets; {} without a hook or an opinion.

        Raises ``SignInRefused`` when it says no, ``DeadlinePassed``, ``FunctionFailed``.
        """
        hook = self._hooks.get(moment)
        if hook is None:
            return {}
        try:
            async with asyncio.timeout(DEADLINE):
                answer = await hook(event(user, proof, ask, claims=proof.claims))
        except TimeoutError:
            raise DeadlinePassed(f"The hook {moment} took longer than {DEADLINE:.0f} seconds.") from None
        except Refused as refused:
            raise SignInRefused(
                refused.message, hint=refused.hint or SignInRefused.hint, refusal=refused.code
            ) from None
        except Unavailable:
            raise
        except Exception as error:
            _LOG.exception("the hook %s failed", moment)
            raise FunctionFailed(f"The hook {moment} failed: {type(error).__name__}.") from error
        if answer is None:
            return {}
        try:
            claims = msgspec.convert(msgspec.to_builtins(answer, str_keys=True), dict[str, Any])
            check_claims(claims)
        except (msgspec.ValidationError, TypeError, Malformed) as error:
            _LOG.exception("the hook %s returned claims that cannot be", moment)
            raise FunctionFailed(f"The hook {moment} returned what cannot be claims.") from error
        return claims

    async def after(
        self, tx: Tx, moment: Literal["after_sign_up", "after_sign_in"], told: SignInEvent
    ) -> None:
        """Run the hook, if there is one, once this transaction has committed."""
        if moment in self._hooks:
            await self._jobs.enqueue(tx, f"auth.{moment}", told)

    def wake(self) -> None:
        """Let the jobs of ``after`` begin: call it after the commit."""
        if self._hooks:
            self._jobs.wake()

    def _run_after(self, moment: str) -> Callable[[Job, SignInEvent], Awaitable[None]]:
        async def run(_: Job, told: SignInEvent) -> None:
            hook = self._hooks.get(moment)
            if hook is not None:
                async with asyncio.timeout(AFTER_DEADLINE):
                    await hook(told)

        return run


def event(user: User, proof: Proof, ask: Ask, *, claims: Mapping[str, Any] | None = None) -> SignInEvent:
    """What is told of one sign-in."""
    return SignInEvent(
        user=user,
        provider=proof.provider,
        claims=claims or {},
        space=ask.space,
        device=ask.device,
        ip=ask.ip,
    )
