"""Apple's side of an account: exchanged at sign-in, revoked at deletion, and what Apple says meanwhile.

Apple demands that an app which deletes accounts revokes their tokens, too (Technote TN3194). So one must
have been kept: the app sends the authorization code of the sign-in along, good once, for five minutes.
Exchange and revocation are jobs, so that Apple's bad days neither hold up a sign-in nor lose a deletion.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from lowtide.audit import Audit, Entry
from lowtide.auth.challenges import Challenges
from lowtide.auth.jws import read, write
from lowtide.auth.outside.issuers import (
    LONGEST_USE,
    MAX_DOCUMENT,
    MAX_ID_TOKEN,
    IdTokens,
    Issuer,
    check_claims,
)
from lowtide.auth.sessions import Sessions
from lowtide.auth.users import Users
from lowtide.egress import Egress
from lowtide.kernel.clock import Clock
from lowtide.kernel.codec import decode_json
from lowtide.kernel.errors import InvalidGrant, Malformed, SetupError, Unavailable
from lowtide.storage.db import Database, Tx, load_queries
from lowtide.storage.jobs import Job, Jobs
from lowtide.storage.vault import SealedColumn, Vault

log = logging.getLogger("lowtide.auth")
QUERIES = load_queries("lowtide.auth.outside")

APPLE = "https://appleid.apple.com"
EXCHANGE, REVOKE = "apple.exchange", "apple.revoke"
ATTEMPTS = 8
"""At an exchange: about as long as a code is good."""
ORPHANED = 1800
"""Seconds after which a grant of nobody here is revoked: a sign-in is finished or given up by then."""
SWEPT = 500
"""Grants that one sweep revokes at most."""
SECRET_LIFE = 300
"""Seconds for which the server's own proof towards Apple is good."""
DEADLINE = 10.0
"""Seconds that Apple may take to answer."""
MAX_CODE = 1024
"""Characters of an authorization code."""
PURPOSE = "apple:{}"
SEALED = (SealedColumn("apple_grant", "id", "sealed", PURPOSE.format("{key}")),)
"""What the vault seals here."""


class Credentials(msgspec.Struct, frozen=True, eq=False):
    """What proves to Apple which team asks: a key that was made for Sign in with Apple."""

    team_id: str
    key_id: str
    private: ec.EllipticCurvePrivateKey


class Code(msgspec.Struct, frozen=True):
    """A code that waits to be exchanged; ``sealed`` because jobs can be read."""

    subject: str
    client_id: str
    sealed: str


class Granted(msgspec.Struct, frozen=True):
    """A token that waits to be revoked."""

    client_id: str
    sealed: str


class Event(msgspec.Struct, frozen=True):
    """What a notification of Apple says."""

    type: str
    sub: str


def read_credentials(team_id: str, key_id: str, file: Path) -> Credentials:
    """The key in ``file``, as Apple gives it (``.p8``). Raises ``SetupError``."""
    try:
        private = load_pem_private_key(file.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise SetupError(f"Apple's key {file} cannot be read: {error}.", hint="It is a .p8 file.") from error
    if not isinstance(private, ec.EllipticCurvePrivateKey) or private.curve.name != "secp256r1":
        raise SetupError(f"{file} does not hold a P-256 key.", hint="Apple's keys for this are P-256.")
    if not team_id or not key_id:
        raise SetupError("Apple's key needs 'apple_team_id' and 'apple_key_id', too.")
    return Credentials(team_id, key_id, private)


class Apple:
    """Keeps, ends and hears of what Apple granted. Safe to share."""

    def __init__(
        self,
        database: Database,
        egress: Egress,
        vault: Vault,
        jobs: Jobs,
        challenges: Challenges,
        users: Users,
        sessions: Sessions,
        audit: Audit,
        clock: Clock,
        credentials: Credentials | None,
        *,
        url: str = APPLE,
    ):
        """Without ``credentials`` nothing is exchanged, and so nothing can be revoked."""
        self._database = database
        self._egress = egress
        self._vault = vault
        self._jobs = jobs
        self._challenges = challenges
        self._users = users
        self._sessions = sessions
        self._audit = audit
        self._clock = clock
        self._credentials = credentials
        self._url = url
        jobs.register(EXCHANGE, Code, self._exchange, deadline=30.0)
        jobs.register(REVOKE, Granted, self._revoke, deadline=30.0)

    async def keep(self, tx: Tx, code: str, client_id: str, subject: str) -> None:
        """Exchange ``code`` soon, and keep what Apple gives for it. Call ``wake`` after the commit."""
        if self._credentials is None:
            return
        sealed = self._vault.seal(EXCHANGE, code.encode())
        payload = Code(subject=subject, client_id=client_id, sealed=sealed)
        await self._jobs.enqueue(tx, EXCHANGE, payload, max_attempts=ATTEMPTS)

    def wake(self) -> None:
        """Let the jobs of ``keep`` begin."""
        self._jobs.wake()

    async def factors(self, tx: Tx, user: str) -> tuple[str, ...]:
        """None: signing in with Apple is no second factor."""
        return ()

    async def forget(self, tx: Tx, user: str) -> None:
        """The account goes: revoke what Apple granted, by a job, and forget it here.

        The user's identities must still be there.
        """
        for (subject,) in await tx.fetch(QUERIES["apple_subjects"], user):
            await self._end(tx, subject, revoke=True)

    async def hear(self, issuer: Issuer, id_tokens: IdTokens, payload: str) -> None:
        """Take a notification of Apple. Raises ``InvalidGrant`` for one that Apple did not sign for this app.

        Withdrawn consent signs the user out everywhere; a deleted Apple account takes the identity away, too.
        The account and its data stay: they are the app's to delete. A repeat changes nothing, and what
        is not known is noted and thanked for: Apple would send it again.
        """
        claims = await id_tokens.signed(issuer, payload)
        now = self._clock.now() // 1000
        check_claims({"exp": now + SECRET_LIFE} | dict(claims), issuer.audiences, now)
        event = _event(claims.get("events"))
        name = claims.get("jti")
        if not isinstance(name, str) or not 0 < len(name) <= 256:
            raise InvalidGrant("Apple's notification has no name.")

        async def work(tx: Tx) -> bool:
            until = self._clock.now() + 2 * LONGEST_USE * 1000
            if not await self._challenges.first(tx, f"apple/{name}", until):
                return False
            user = await self._users.by_identity(tx, "apple", event.sub)
            if event.type in ("consent-revoked", "account-delete", "account-deleted"):
                # Apple has ended them already: nothing is left to revoke.
                await self._end(tx, event.sub, revoke=False)
                if user is not None:
                    await self._sessions.revoke_all(tx, user.id, "operator")
                    if event.type != "consent-revoked":
                        await self._users.unlink(tx, user.id, "apple", event.sub)
            if user is not None:
                await self._audit.write(
                    tx,
                    Entry(
                        action=f"apple.{event.type.replace('-', '_')}",
                        actor="apple",
                        via="notification",
                        target=f"user:{user.id}",
                    ),
                )
            return True

        if await self._database.write(work):
            log.info("Apple notified of %s", event.type)
            await self._sessions.revocations.committed()

    # -- jobs --------------------------------------------------------------------------------------

    async def _exchange(self, _job: Job, code: Code) -> None:
        plain = self._vault.open(EXCHANGE, code.sealed).decode()
        form = {"grant_type": "authorization_code", "code": plain}
        found = await self._ask("/auth/token", code.client_id, form)
        if found is None:
            return
        token, id_token = found.get("refresh_token"), found.get("id_token")
        if not isinstance(token, str) or not isinstance(id_token, str):
            log.warning("Apple gave no refresh token for a code")
            return
        # It came from Apple itself, over TLS (OpenID Connect Core, section 3.1.3.7, point 6).
        try:
            subject = read(id_token, most=MAX_ID_TOKEN).claims.get("sub")
        except ValueError as error:
            raise Unavailable("Apple's answer cannot be read.") from error
        if subject != code.subject:
            log.warning("a code of Apple was sent along with another user's id token")
            return
        key = f"{code.client_id}/{code.subject}"
        sealed = self._vault.seal(PURPOSE.format(key), token.encode())

        async def work(tx: Tx) -> None:
            await tx.execute(
                QUERIES["keep_grant"], key, code.subject, code.client_id, sealed, self._clock.now()
            )

        await self._database.write(work)

    async def _revoke(self, _job: Job, granted: Granted) -> None:
        token = self._vault.open(REVOKE, granted.sealed).decode()
        form = {"token": token, "token_type_hint": "refresh_token"}
        await self._ask("/auth/revoke", granted.client_id, form)

    async def sweep(self) -> None:
        """Revoke what Apple granted for users who are not here: an exchange may end after their deletion."""
        before = self._clock.now() - ORPHANED * 1000
        found = await self._database.read(lambda tx: tx.fetch(QUERIES["orphaned_grants"], before, SWEPT))
        for (subject,) in found:

            async def work(tx: Tx, subject: str = subject) -> None:
                if await self._users.by_identity(tx, "apple", subject) is None:
                    await self._end(tx, subject, revoke=True)

            await self._database.write(work)

    async def _end(self, tx: Tx, subject: str, *, revoke: bool) -> None:
        for id, client_id, sealed in await tx.fetch(QUERIES["grants_of"], subject):
            if revoke and self._credentials is not None:
                token = self._vault.open(PURPOSE.format(id), sealed)
                payload = Granted(client_id=client_id, sealed=self._vault.seal(REVOKE, token))
                await self._jobs.enqueue(tx, REVOKE, payload)
        await tx.execute(QUERIES["delete_grants"], subject)

    async def _ask(self, path: str, client_id: str, form: Mapping[str, str]) -> Mapping[str, Any] | None:
        """Apple's answer; None when it said no for good, which the log tells. Raises for what may pass."""
        assert self._credentials is not None  # noqa: S101 - else nothing is enqueued
        secret = client_secret(self._credentials, client_id, self._url, self._clock.now() // 1000)
        answer = await self._egress.request(
            "POST",
            f"{self._url}{path}",
            headers={"content-type": "application/x-www-form-urlencoded", "accept": "application/json"},
            body=urlencode({"client_id": client_id, "client_secret": secret, **form}).encode(),
            deadline=DEADLINE,
            max_bytes=MAX_DOCUMENT,
        )
        if answer.status == 400:
            log.error("Apple refused %s for %s: %s", path, client_id, answer.body[:200])
            return None
        if answer.status != 200:
            raise Unavailable(f"Apple answered {answer.status}.")
        if not answer.body:
            return {}
        found = decode_json(answer.body, max_bytes=MAX_DOCUMENT, max_depth=8)
        return found if isinstance(found, dict) else {}


def client_secret(credentials: Credentials, client_id: str, url: str, now: int) -> str:
    """What Apple takes as the client's secret: a JWT of the team's key, good for five minutes."""
    header = {"alg": "ES256", "kid": credentials.key_id}
    claims = {
        "iss": credentials.team_id,
        "iat": now,
        "exp": now + SECRET_LIFE,
        "aud": url,
        "sub": client_id,
    }
    return write(header, claims, credentials.private)


def _event(text: object) -> Event:
    # A text that holds JSON, and not JSON.
    if not isinstance(text, str):
        raise InvalidGrant("Apple's notification says nothing.")
    try:
        found = decode_json(text, max_bytes=MAX_DOCUMENT, max_depth=8)
        return msgspec.convert(found, Event)
    except (Malformed, msgspec.ValidationError) as error:
        raise InvalidGrant("Apple's notification cannot be read.") from error
