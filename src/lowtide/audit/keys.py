"""The audit log's own keys: one that signs checkpoints, one under which values are hashed.

Both are sealed in the vault, so a copy of the database alone can sign nothing. A server that is taken over
can: that is why checkpoints are carried elsewhere, and verification is told the public key from outside.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from lowtide.kernel.clock import Clock
from lowtide.kernel.errors import Unavailable
from lowtide.kernel.ids import Ids
from lowtide.storage.db import Database, Row, Tx, load_queries
from lowtide.storage.vault import Noted, SealedColumn, Vault

QUERIES = load_queries("lowtide.audit")

PURPOSE = "audit key {key}"
SEALED = (SealedColumn("audit_key", "id", "sealed", PURPOSE),)
"""What the vault seals here."""
ED25519 = b"\x01"
"""The signature type of C2SP signed notes."""


class PublicKey(msgspec.Struct, frozen=True, eq=False):
    """A key that verifies checkpoints, as C2SP signed notes name it."""

    name: str
    id: bytes
    """Four bytes that a signature carries, to find its key."""
    key: Ed25519PublicKey
    created_at: int = 0

    @property
    def text(self) -> str:
        """``<name>+<id>+<key>``: what is written down and given to ``lowtide audit verify --key``."""
        return f"{self.name}+{self.id.hex()}+{base64.b64encode(ED25519 + _raw(self.key)).decode()}"


def parse_key(text: str) -> PublicKey:
    """The key that ``PublicKey.text`` wrote. ``ValueError`` for anything else."""
    name, plus, rest = text.strip().partition("+")
    id, second, encoded = rest.partition("+")
    raw = base64.b64decode(encoded, validate=True)
    if not (name and plus and second) or raw[:1] != ED25519 or len(raw) != 33:
        raise ValueError("an audit key is <name>+<8 hexadecimal digits>+<44 characters>")
    key = public_key(name, Ed25519PublicKey.from_public_bytes(raw[1:]))
    if key.id.hex() != id:
        raise ValueError("the key's id does not fit its content: a character is wrong")
    return key


def public_key(name: str, key: Ed25519PublicKey, created_at: int = 0) -> PublicKey:
    """``key`` under the name of a log."""
    id = hashlib.sha256(name.encode() + b"\n" + ED25519 + _raw(key)).digest()[:4]
    return PublicKey(name, id, key, created_at)


class AuditKeys:
    """The keys of the log called ``origin``. Call ``load`` first, with the vault loaded before."""

    def __init__(self, database: Database, vault: Vault, clock: Clock, ids: Ids, origin: str):
        self._database, self._vault, self._clock, self._ids = database, vault, clock, ids
        self.origin = origin
        self.public: Sequence[PublicKey] = ()
        """Every key that ever signed; the one that signs now first."""
        self._private: Ed25519PrivateKey | None = None
        self._pepper = b""

    @property
    def pepper(self) -> bytes:
        """What keys the hashes of values; the same for as long as there is a log."""
        if not self._pepper:
            raise Unavailable("The audit keys are not loaded yet.")
        return self._pepper

    async def load(self) -> None:
        """Read the keys; make them at the very first start. Raises ``SealBroken``."""
        rows = await self._database.read(read_keys)
        if not {"sign", "pepper"} <= {row[1] for row in rows}:
            made = [self._made("sign"), self._made("pepper")]

            async def work(tx: Tx) -> None:
                await tx.execute(QUERIES["lock_keys"])
                kinds = {row[1] for row in await read_keys(tx)}
                for row in made:
                    if row[1] not in kinds:
                        await tx.execute(QUERIES["add_key"], *row)

            await self._database.write(work)
            rows = await self._database.read(read_keys)
        self._read(rows)

    async def rotate(self, told: Noted | None = None) -> PublicKey:
        """Let a new key sign from now on; returns it. What the old one signed is verified as before.

        ``told`` is called in the same transaction.
        """
        made = self._made("sign")

        async def work(tx: Tx) -> None:
            await tx.execute(QUERIES["add_key"], *made)
            if told is not None:
                await told(tx)

        await self._database.write(work)
        self._read(await self._database.read(read_keys))
        return self.public[0]

    def sign(self, text: bytes) -> bytes:
        """The key's id and the Ed25519 signature of ``text``. About 50 µs."""
        if self._private is None:
            raise Unavailable("The audit keys are not loaded yet.")
        return self.public[0].id + self._private.sign(text)

    def _made(self, kind: str) -> tuple[str, str, str | None, str, int]:
        # 32 random bytes are a key of either kind.
        id, secret = self._ids.uuid(), bytes.fromhex(self._ids.token() + self._ids.token())
        public = base64.b64encode(_raw(Ed25519PrivateKey.from_private_bytes(secret).public_key())).decode()
        sealed = self._vault.seal(PURPOSE.replace("{key}", id), secret)
        return id, kind, public if kind == "sign" else None, sealed, self._clock.now()

    def _read(self, rows: Sequence[Row]) -> None:
        newest: dict[str, bytes] = {}
        for id, kind, _, sealed, _ in rows:
            if kind == "sign" or kind not in newest:
                newest[kind] = self._vault.open(PURPOSE.replace("{key}", id), sealed)
        self._pepper = newest["pepper"]
        self._private = Ed25519PrivateKey.from_private_bytes(newest["sign"])
        self.public = public_keys(rows, self.origin)


async def read_keys(tx: Tx) -> list[Row]:
    """Every key, the first that was made first."""
    return await tx.fetch(QUERIES["read_keys"])


def public_keys(rows: Sequence[Row], origin: str) -> list[PublicKey]:
    """The public halves of the signing keys among ``rows``, the newest first."""
    return [
        public_key(origin, Ed25519PublicKey.from_public_bytes(base64.b64decode(public)), at)
        for _, kind, public, _, at in reversed(rows)
        if kind == "sign"
    ]


def _raw(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes_raw()
