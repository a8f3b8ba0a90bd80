"""Devices that Apple or Google vouched for, and what only they may ask.

A session is *attested* once its device proved to be a genuine one with a genuine app, for ``KEPT`` days; then
it does so anew. Whether a request needs that is a policy: ``off``, ``monitor`` (it is counted and let
through) or ``enforce``.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from lowtide.auth.attestation import android, apple
from lowtide.auth.attestation.apple import AttestedKey
from lowtide.auth.challenges import Challenge, Challenges
from lowtide.auth.wellknown import AndroidApp
from lowtide.kernel.clock import Clock
from lowtide.kernel.errors import AttestationRequired, InvalidGrant, NotFound, SetupError
from lowtide.kernel.http import Request, Route
from lowtide.kernel.schema import Principal
from lowtide.storage.db import Database, Tx, load_queries

QUERIES = load_queries("lowtide.auth.attestation")
log = logging.getLogger("lowtide.auth")

Policy = Literal["off", "monitor", "enforce"]

PURPOSE = "attestation"
KEPT = 7
"""Days after which a device proves itself anew."""
REMEMBERED = 20_000
"""Sessions whose state is kept in memory, some 200 bytes each; the least recently seen goes."""
AGAIN = 60.0
"""Seconds after which a session that was not attested is looked up again."""
_DAY = 86_400_000


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """Whose genuine devices are taken, and what verifies them."""

    apple_apps: tuple[str, ...] = ()
    android_apps: tuple[AndroidApp, ...] = ()
    play: android.ConsoleKeys | None = None
    root: bytes = apple.ROOT
    development: bool = False
    """Keys of Apple's sandbox, too."""


class Attestation:
    """Checks what devices show, and remembers their sessions."""

    def __init__(self, database: Database, challenges: Challenges, clock: Clock, accepted: Accepted):
        self._database = database
        self._challenges = challenges
        self._clock = clock
        self._accepted = accepted
        self._seen: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def challenge(self, who: Principal) -> str:
        """What the device is to have vouched for; for this session, good once, five minutes."""
        return self._challenges.issue(PURPOSE, user=who.session)

    async def attest_apple(self, who: Principal, challenge: str, key_id: str, statement: str) -> int:
        """Keep a new key of App Attest; until when the session is attested now, in milliseconds.

        Raises ``InvalidGrant`` for whatever is wrong, also for a key that is known: that one asserts.
        """
        opened = self._open(who, challenge)
        key = await asyncio.to_thread(
            apple.check_attestation,
            statement,
            key_id=key_id,
            challenge=challenge,
            apps=self._accepted.apple_apps,
            now=self._clock.now(),
            root=self._accepted.root,
            development=self._accepted.development,
        )

        async def work(tx: Tx) -> None:
            row = (key.key_id, key.public_key, key.app, key.environment, 0, self._clock.now())
            if not await tx.fetch(QUERIES["add_key"], *row):
                raise InvalidGrant("This key was attested before.", hint="Send an assertion of it.")

        return await self._keep(who, opened, "apple", work)

    async def assert_apple(self, who: Principal, challenge: str, key_id: str, statement: str) -> int:
        """The same by an assertion of a key that is kept. Raises ``InvalidGrant``."""
        opened = self._open(who, challenge)
        rows = await self._database.read(lambda tx: tx.fetch(QUERIES["find_key"], apple.same_id(key_id)))
        if not rows:
            raise InvalidGrant("This server does not know the key.", hint="Make a new one, and attest it.")
        id, public_key, app, environment, counter = rows[0]
        key = AttestedKey(key_id=id, public_key=public_key, app=app, environment=environment, counter=counter)
        if app not in self._accepted.apple_apps:
            raise InvalidGrant("The key belongs to an app that is taken no longer.")
        told = await asyncio.to_thread(apple.check_assertion, statement, challenge=challenge, key=key)

        async def work(tx: Tx) -> None:
            if not await tx.fetch(QUERIES["use_key"], id, told):
                raise InvalidGrant("The assertion is a repeat.")

        return await self._keep(who, opened, "apple", work)

    async def attest_android(self, who: Principal, challenge: str, token: str) -> int:
        """The same by a token of Play Integrity. Raises ``InvalidGrant``; ``NotFound`` without its keys."""
        if self._accepted.play is None:
            raise NotFound("Play Integrity is not set up here.", hint="Set 'play_decryption_key'.")
        opened = self._open(who, challenge)
        android.check_verdict(
            token,
            keys=self._accepted.play,
            challenge=challenge,
            apps=self._accepted.android_apps,
            now=self._clock.now(),
        )

        async def nothing(tx: Tx) -> None:
            pass

        return await self._keep(who, opened, "android", nothing)

    async def attested(self, who: Principal) -> bool:
        """Did the device of this session prove itself lately? A look-up in memory; rarely one read."""
        if not who.session:
            return False
        now, moment = self._clock.now(), self._clock.monotonic()
        seen = self._seen.get(who.session)
        if seen is None or (seen[0] <= now and moment - seen[1] > AGAIN):
            rows = await self._database.read(lambda tx: tx.fetch(QUERIES["until"], who.session))
            seen = self._remember(who.session, rows[0][0] if rows else 0)
        return seen[0] > now

    def guard(self, routes: Sequence[Route], policy: Policy, wanted: Sequence[str]) -> list[Route]:
        """``routes``, those that ``chosen`` finds for attested devices only. Raises ``SetupError``."""
        if policy == "off":
            return list(routes)
        which = chosen(routes, wanted)
        return [self._guarded(one, policy) if (one.method, one.path) in which else one for one in routes]

    def _guarded(self, route: Route, policy: Policy) -> Route:
        """``route`` for attested devices only. The app's own servers are let through."""
        handler = route.handler

        @functools.wraps(handler)
        async def guarded(request: Request[Any, Any]) -> Any:
            who = request.principal
            if not who.server and not await self.attested(who):
                if policy == "enforce":
                    raise AttestationRequired
                log.info("%s %s was asked without attestation", route.method, route.path)
            return await handler(request)

        errors = (*route.errors, AttestationRequired) if policy == "enforce" else route.errors
        return msgspec.structs.replace(route, handler=guarded, errors=errors)

    def _open(self, who: Principal, challenge: str) -> Challenge:
        return self._challenges.open(PURPOSE, challenge, user=who.session)

    async def _keep(self, who: Principal, opened: Challenge, platform: str, work: Any) -> int:
        until = self._clock.now() + KEPT * _DAY

        async def write(tx: Tx) -> None:
            await self._challenges.use(tx, opened)
            await work(tx)
            await tx.execute(QUERIES["forget_over"], self._clock.now())
            await tx.execute(QUERIES["attest_session"], who.session, platform, until)

        await self._database.write(write)
        self._remember(who.session, until)
        return until

    def _remember(self, session: str, until: int) -> tuple[int, float]:
        found = self._seen[session] = (until, self._clock.monotonic())
        self._seen.move_to_end(session)
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        return found


def chosen(routes: Sequence[Route], wanted: Sequence[str]) -> set[tuple[str, str]]:
    """The routes that a policy is for, by method and path: those that ``wanted`` names, or a good default.

    ``POST /v1/sync/batches`` names one, ``POST /v1/records*`` every POST that begins so. Without any, every
    address for users outside ``/v1/auth`` counts. ``SetupError`` for a name that fits no address.
    """
    users = [route for route in routes if route.auth == "user" and not route.vital]
    if not wanted:
        return {(one.method, one.path) for one in users if not one.path.startswith("/v1/auth/")}
    found: set[tuple[str, str]] = set()
    for name in wanted:
        method, _, path = name.partition(" ")
        begin = path.removesuffix("*")
        fitting = {
            (one.method, one.path)
            for one in users
            if one.method == method
            and (one.path.startswith(begin) if path.endswith("*") else one.path == path)
        }
        if not fitting:
            raise SetupError(f"Setting 'attestation_routes' holds {name!r}, which is no address for users.")
        found |= fitting
    return found
