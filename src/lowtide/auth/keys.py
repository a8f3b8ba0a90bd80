"""The keys that sign access tokens, kept in the database so that every node has the same.

There is always a *next* key, published in the JWKS but not yet signing: when it becomes current, every
node and every outside verifier has had it for a while, and no token meets a server that does not know
its key. Keys are ES256 (RFC 7518: ECDSA on P-256 with SHA-256), named by their thumbprint (RFC 7638).
Their private halves are sealed by the vault.

Verifying reads memory only. Another node's rotation arrives with ``refresh``.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal, Protocol, TypeVar, cast

import msgspec
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from lowtide.audit import Audit, Entry
from lowtide.kernel.base64url import encode
from lowtide.kernel.clock import Clock
from lowtide.kernel.errors import Conflict, NotFound, Unavailable
from lowtide.kernel.ids import Ids
from lowtide.storage.db import Database, Tx, load_queries
from lowtide.storage.vault import SealedColumn, Vault

QUERIES = load_queries("lowtide.auth")
_LOG = logging.getLogger("lowtide.auth")

LONGEST = 24 * 3600
"""Seconds for which a token may be valid, and so for which an old key is kept."""
PUBLISHED = 600
"""Seconds for which a key must have been published before it signs: refreshes and caches are shorter."""
LEEWAY = 120
"""Seconds for which an old key is kept beyond that; more than clocks may differ."""
REFRESH = 60.0
"""Seconds between two looks at the database."""
ROTATED = 90 * 24 * 3600
"""Seconds after which the next key takes over by itself."""

PURPOSE = "auth.signing_key"
SEALED = (SealedColumn("signing_key", "kid", "private_pem", PURPOSE),)
"""What the vault seals here."""

T = TypeVar("T")
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

    def __init__(self, database: Database, clock: Clock, vault: Vault, audit: Audit):
        """``vault``: loaded before the keys are."""
        self._database = database
        self._clock = clock
        self._vault = vault
        self._audit = audit
        self._keys: Mapping[str, SigningKey] = {}
        self._current: SigningKey | None = None
        self._generation = 0
        self._derived: dict[str, tuple[int, tuple[bytes, ...]]] = {}
        self.on_gone: Callable[[], Awaitable[None]] | None = None
        """Called after a key has gone: what it signed is good no more, open streams among it."""

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

    def all(self) -> list[SigningKey]:
        """Every key, the oldest first."""
        return sorted(self._keys.values(), key=lambda key: key.created_at)

    def find(self, kid: str) -> SigningKey | None:
        """The key named ``kid``; None for one that is unknown, revoked or long retired."""
        return self._keys.get(kid)

    def derive(self, purpose: str) -> tuple[bytes, ...]:
        """Secrets of 32 bytes for ``purpose`` that every node has: make with the first, believe all.

        They come from the private keys (HKDF, RFC 5869), so they change when the keys rotate; what the next
        key will make is believed already. For what lives for minutes.
        """
        known = self._derived.get(purpose)
        if known is not None and known[0] == self._generation:
            return known[1]
        private = [key for key in self._keys.values() if key.private is not None]
        private.sort(key=lambda key: key.state)
        made = tuple(_derived(key.private, purpose) for key in private if key.private is not None)
        self._derived[purpose] = (self._generation, made)
        return made

    def jwks(self) -> dict[str, Any]:
        """The public keys as a JSON Web Key Set (RFC 7517), for outside verifiers."""
        order = {"current": 0, "next": 1, "old": 2}
        keys = sorted(self._keys.values(), key=lambda key: order[key.state])
        return {"keys": [_jwk(key.public) | {"use": "sig", "alg": "ES256", "kid": key.kid} for key in keys]}

    async def load(self) -> None:
        """Read the keys, and make those that are missing: all of them at the very first start."""
        if not {"current", "next"} <= {key.state for key in await self._read()}:

            async def work(tx: Tx, made: _Made) -> None:
                states = {state for _, state, *_ in await tx.fetch(QUERIES["read_keys"])}
                if "current" not in states:
                    await tx.execute(QUERIES["add_key"], *made.current)
                if "next" not in states:
                    await tx.execute(QUERIES["add_key"], *made.next)

            await self._change(work)
        await self._seal()

    async def _seal(self) -> None:
        """Seal the private halves that are still plain, as versions before the vault wrote them."""

        async def plain(tx: Tx) -> list[tuple[str, str]]:
            rows = await tx.fetch(QUERIES["read_keys"])
            return [(kid, pem) for kid, _, _, pem, *_ in rows if pem and not self._vault.is_sealed(pem)]

        found = await self._database.read(plain)
        if found:
            sealed = [(kid, self._vault.seal(PURPOSE, pem.encode())) for kid, pem in found]
            await self._database.write(lambda tx: tx.execute_many(QUERIES["seal_key"], sealed))

    async def refresh(self) -> None:
        """Read the keys again, and forget those whose last token has expired."""
        now = self._clock.now()
        if any(key.retires_at is not None and key.retires_at < now for key in await self._read()):

            async def work(tx: Tx, _: _Made) -> None:
                await tx.execute(QUERIES["delete_retired"], now)

            await self._change(work)

    async def keep(self, ids: Ids) -> None:
        """``refresh`` about once a minute, until cancelled, and ``rotate`` every 90 days.

        A database that is away is waited for.
        """
        while True:
            await asyncio.sleep(ids.jitter(0.8, 1.2) * REFRESH)
            try:
                await self.refresh()
                await self.rotate_when_due()
            except Unavailable as error:
                _LOG.warning("the signing keys could not be refreshed: %s", error)

    async def rotate_when_due(self) -> None:
        """``rotate`` if the last time was more than 90 days ago."""
        # The next key was made when the current one began to sign.
        made = next((key.created_at for key in self._keys.values() if key.state == "next"), None)
        if made is not None and self._clock.now() - made > ROTATED * 1000:
            await self.rotate("system")

    async def rotate(self, actor: str, *, via: str = "", request: str = "") -> str:
        """Let the next key sign from now on; returns its kid. What the old one signed stays good.

        ``actor``, ``via`` and ``request`` are for the audit log, see ``Entry``. Raises ``Conflict`` when the
        next key was published less than ten minutes ago: another node may just have rotated.
        """
        now = self._clock.now()
        retires_at = now + (LONGEST + LEEWAY) * 1000

        async def work(tx: Tx, made: _Made) -> str:
            kids = {state: (kid, at) for kid, state, _, _, at, _ in await tx.fetch(QUERIES["read_keys"])}
            following, published_at = kids["next"]
            age = (now - published_at) / 1000
            if age < PUBLISHED:
                raise Conflict(
                    "The next key is too new: not every node knows it yet.",
                    hint=f"Rotate again in {round(PUBLISHED - age)} seconds.",
                )
            await tx.execute(QUERIES["retire_key"], kids["current"][0], retires_at)
            await tx.execute(QUERIES["promote_key"], following)
            await tx.execute(QUERIES["add_key"], *made.next)
            entry = Entry(
                action="key.rotate", actor=actor, via=via, target=f"key:{following}", request=request
            )
            await self._audit.write(tx, entry)
            return str(following)

        return await self._change(work)

    async def revoke(self, kid: str, actor: str, *, via: str = "", request: str = "") -> None:
        """Make every token that ``kid`` signed invalid: here at once, on other nodes within a refresh.

        For a key that may have been copied. If it is the current one, the next takes over without the
        wait of ``rotate``. ``actor``, ``via`` and ``request`` are for the audit log. Raises ``NotFound``.
        """

        async def work(tx: Tx, made: _Made) -> None:
            states = {key: state for key, state, *_ in await tx.fetch(QUERIES["read_keys"])}
            if kid not in states:
                raise NotFound(f"There is no key {kid!r}.")
            await tx.execute(QUERIES["delete_key"], kid)
            if states[kid] == "current":
                following = next(key for key, state in states.items() if state == "next")
                await tx.execute(QUERIES["promote_key"], following)
            if states[kid] != "old":
                await tx.execute(QUERIES["add_key"], *made.next)
            entry = Entry(action="key.revoke", actor=actor, via=via, target=f"key:{kid}", request=request)
            await self._audit.write(tx, entry)

        await self._change(work)

    async def _change(self, work: Callable[[Tx, _Made], Awaitable[T]]) -> T:
        # Made before the transaction, which may run twice.
        now = self._clock.now()
        made = _Made(self._row(_generate(), "current", now), self._row(_generate(), "next", now))

        async def locked(tx: Tx) -> T:
            await tx.execute(QUERIES["lock_keys"])
            return await work(tx, made)

        result = await self._database.write(locked)
        await self._read()
        return result

    async def _read(self) -> list[SigningKey]:
        async def work(tx: Tx) -> list[Any]:
            return list(await tx.fetch(QUERIES["read_keys"]))

        rows = await self._database.read(work)
        keys = {kid: self._known(kid, *rest) for kid, *rest in rows}
        if {(k.kid, k.state) for k in keys.values()} != {(k.kid, k.state) for k in self._keys.values()}:
            gone = self._keys.keys() - keys.keys()
            self._keys = keys
            self._current = next((key for key in keys.values() if key.state == "current"), None)
            self._generation += 1
            if gone and self.on_gone is not None:
                await self.on_gone()
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
                serialization.load_pem_private_key(self._pem(private), password=None),
            ),
            created_at,
            retires_at,
        )

    def _pem(self, text: str) -> bytes:
        return self._vault.open(PURPOSE, text) if self._vault.is_sealed(text) else text.encode()

    def _row(self, key: ec.EllipticCurvePrivateKey, state: str, now: int) -> Row:
        public = key.public_key()
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return (
            thumbprint(public),
            state,
            public.public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            ).decode(),
            self._vault.seal(PURPOSE, pem),
            now,
        )


Row = tuple[str, str, str, str, int]


class _Made(msgspec.Struct, frozen=True):
    """Keys that a transaction may put in."""

    current: Row
    next: Row


def _generate() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _derived(private: ec.EllipticCurvePrivateKey, purpose: str) -> bytes:
    number = private.private_numbers().private_value.to_bytes(32, "big")
    return HKDF(hashes.SHA256(), 32, salt=None, info=f"lowtide {purpose}".encode()).derive(number)


def _jwk(public: ec.EllipticCurvePublicKey) -> dict[str, str]:
    numbers = public.public_numbers()
    x, y = (encode(number.to_bytes(32, "big")) for number in (numbers.x, numbers.y))
    return {"crv": "P-256", "kty": "EC", "x": x, "y": y}


def thumbprint(public: ec.EllipticCurvePublicKey) -> str:
    """The key's name: RFC 7638 with SHA-256, 43 characters."""
    # The members that count, in the order of their names, without spaces.
    return encode(hashlib.sha256(msgspec.json.encode(_jwk(public))).digest())
