"""The keys that sign access tokens, kept in the database so that every node has the same.

There is always a *next* key, published in the JWKS but not yet signing: when it becomes current, every
node and every outside verifier has had it for a while, and no token meets a server that does not know
its key. Keys are ES256 (RFC 7518: ECDSA on P-256 with SHA-256), named by their thumbprint (RFC 7638).

Verifying reads memory only. Another node's rotation arrives with ``refresh``.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
from collections.abc import Mapping
from typing import Any, Literal, Protocol, cast

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from lowtide.kernel.clock import Clock
from lowtide.kernel.errors import Conflict, NotFound, Unavailable
from lowtide.kernel.ids import Ids
from lowtide.storage.db import Database, Tx, load_queries

_QUERIES = load_queries("lowtide.auth")
_LOG = logging.getLogger("lowtide.auth")

LONGEST = 24 * 3600
"""Seconds for which a token may be valid, and so for which an old key is kept."""
PUBLISHED = 600
"""Seconds for which a key must have been published before it signs: refreshes and caches are shorter."""
REFRESH = 60.0
"""Seconds between two looks at the database."""

State = Literal["current", "next", "old"]


class SigningKey(msgspec.Struct, frozen=True, eq=False):
    """One key pair; ``private`` is None for a key that only verifies."""

    kid: str
    state: State
    public: ec.EllipticCurvePublicKey
    private: ec.EllipticCurvePrivateKey | None
    created_at: int
    retires_at: int | None = None


class KeySource(Protocol):
    """What signing and verifying need of the keys."""

    @property
    def current(self) -> SigningKey:
        """The key that signs."""
        ...

    @property
    def generation(self) -> int:
        """Changes whenever a key is gone or new."""
        ...

    def find(self, kid: str) -> SigningKey | None:
        """The key of that name, if tokens that it signed are still good."""
        ...


class Keys:
    """The app's signing keys. Call ``load`` before anything else, and let ``keep`` run."""

    def __init__(self, database: Database, clock: Clock, *, longest: int = LONGEST):
        """``longest``: seconds for which a token may be valid."""
        self._database = database
        self._clock = clock
        self._longest = longest
        self._keys: Mapping[str, SigningKey] = {}
        self._current: SigningKey | None = None
        self._generation = 0

    @property
    def current(self) -> SigningKey:
        """The key that signs."""
        if self._current is None:
            raise Unavailable("The signing keys are not loaded yet.")
        return self._current

    @property
    def generation(self) -> int:
        """Grows whenever the set of keys has changed."""
        return self._generation

    def find(self, kid: str) -> SigningKey | None:
        """The key named ``kid``; None for one that is unknown, revoked or long retired."""
        return self._keys.get(kid)

    def jwks(self) -> dict[str, Any]:
        """The public keys as a JSON Web Key Set (RFC 7517), for outside verifiers."""
        order = {"current": 0, "next": 1, "old": 2}
        keys = sorted(self._keys.values(), key=lambda key: order[key.state])
        return {"keys": [_jwk(key.public) | {"use": "sig", "alg": "ES256", "kid": key.kid} for key in keys]}

    async def load(self) -> None:
        """Read the keys, and make those that are missing: all of them at the very first start."""
        if not {"current", "next"} <= {key.state for key in await self._read()}:
            # Made before the transaction, which may run twice; the database keeps one of each.
            made = {"current": _generate(), "next": _generate()}
            now = self._clock.now()

            async def work(tx: Tx) -> None:
                for state, key in made.items():
                    await tx.execute(_QUERIES["add_key"], *_row(key, state, now))

            await self._database.write(work)
            await self._read()

    async def refresh(self) -> None:
        """Read the keys again, and forget those whose last token has expired."""
        now = self._clock.now()
        if any(key.retires_at is not None and key.retires_at < now for key in await self._read()):

            async def work(tx: Tx) -> None:
                await tx.execute(_QUERIES["delete_retired"], now)

            await self._database.write(work)
            await self._read()

    async def keep(self, ids: Ids) -> None:
        """``refresh`` about once a minute, until cancelled. A database that is away is waited for."""
        while True:
            await asyncio.sleep(ids.jitter(0.8, 1.2) * REFRESH)
            try:
                await self.refresh()
            except Unavailable as error:
                _LOG.warning("the signing keys could not be refreshed: %s", error)

    async def rotate(self) -> str:
        """Let the next key sign from now on; returns its kid. What the old one signed stays good.

        Raises ``Conflict`` when the next key was published less than ten minutes ago.
        """
        current, following = await self._pair()
        age = (self._clock.now() - following.created_at) / 1000
        if age < PUBLISHED:
            raise Conflict(
                "The next key is too new: not every node knows it yet.",
                hint=f"Rotate again in {round(PUBLISHED - age)} seconds.",
            )
        await self._turn(current, following, retires_at=self._clock.now() + (self._longest + 120) * 1000)
        return self.current.kid

    async def revoke(self, kid: str) -> None:
        """Make every token that ``kid`` signed invalid: here at once, on other nodes within a refresh.

        For a key that may have been copied. If it is the current one, the next takes over without the
        wait of ``rotate``. Raises ``NotFound``.
        """
        current, following = await self._pair()
        if self.find(kid) is None:
            raise NotFound(f"There is no key {kid!r}.")
        if kid == current.kid:
            await self._turn(current, following, retires_at=0)

        made, now = _generate(), self._clock.now()

        async def work(tx: Tx) -> None:
            await tx.execute(_QUERIES["delete_key"], kid)
            # Only does something when the key was the next one.
            await tx.execute(_QUERIES["add_key"], *_row(made, "next", now))

        await self._database.write(work)
        await self._read()

    async def _pair(self) -> tuple[SigningKey, SigningKey]:
        by_state = {key.state: key for key in await self._read()}
        return by_state["current"], by_state["next"]

    async def _turn(self, current: SigningKey, following: SigningKey, *, retires_at: int) -> None:
        made, now = _generate(), self._clock.now()

        async def work(tx: Tx) -> None:
            if await tx.fetch(_QUERIES["retire_key"], current.kid, retires_at):
                await tx.execute(_QUERIES["promote_key"], following.kid)
                await tx.execute(_QUERIES["add_key"], *_row(made, "next", now))
            # Otherwise another node has just done the same.

        await self._database.write(work)
        await self._read()

    async def _read(self) -> list[SigningKey]:
        async def work(tx: Tx) -> list[Any]:
            return list(await tx.fetch(_QUERIES["read_keys"]))

        rows = await self._database.read(work)
        keys = {kid: self._known(kid, *rest) for kid, *rest in rows}
        if {(k.kid, k.state) for k in keys.values()} != {(k.kid, k.state) for k in self._keys.values()}:
            self._keys = keys
            self._current = next((key for key in keys.values() if key.state == "current"), None)
            self._generation += 1
        return list(keys.values())

    def _known(
        self,
        kid: str,
        state: State,
        public: str,
        private: str | None,
        created_at: int,
        retires_at: int | None,
    ) -> SigningKey:
        known = self._keys.get(kid)
        if known is not None and known.state == state:
            return known
        return SigningKey(
            kid,
            state,
            cast("ec.EllipticCurvePublicKey", serialization.load_pem_public_key(public.encode())),
            None
            if private is None
            else cast(
                "ec.EllipticCurvePrivateKey",
                serialization.load_pem_private_key(private.encode(), password=None),
            ),
            created_at,
            retires_at,
        )


def _generate() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _row(key: ec.EllipticCurvePrivateKey, state: str, now: int) -> tuple[str, str, str, str, int]:
    public = key.public_key()
    return (
        thumbprint(public),
        state,
        public.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ).decode(),
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode(),
        now,
    )


def _jwk(public: ec.EllipticCurvePublicKey) -> dict[str, str]:
    numbers = public.public_numbers()
    x, y = (_base64url(number.to_bytes(32, "big")) for number in (numbers.x, numbers.y))
    return {"crv": "P-256", "kty": "EC", "x": x, "y": y}


def thumbprint(public: ec.EllipticCurvePublicKey) -> str:
    """The key's name: RFC 7638 with SHA-256, 43 characters."""
    # The members that count, in the order of their names, without spaces.
    return _base64url(hashlib.sha256(msgspec.json.encode(_jwk(public))).digest())


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
