"""Proofs of possession that count once on all nodes together: for sign-ins, refreshes and the token endpoint.

Each node remembers the proofs that it has seen in memory, which costs nothing and suffices where a repeat
gains nothing new. A recorded *refresh* is worth more: sent to another node, or to this one after a restart,
its answer would hold new tokens. There a proof is used up in the database, by one small write: a device
signs in seldom, and refreshes every ten minutes.
"""

from __future__ import annotations

from typing import Any

from lowtide.auth.challenges import Challenges
from lowtide.auth.dpop import LIFE, Proofs
from lowtide.kernel.clock import Clock
from lowtide.kernel.errors import ProofInvalid
from lowtide.kernel.http import Request
from lowtide.storage.db import Database


class SharedProofs:
    """Checks proofs, and uses them up for every node."""

    def __init__(self, proofs: Proofs, database: Database, challenges: Challenges, clock: Clock):
        self._proofs = proofs
        self._database = database
        self._challenges = challenges
        self._clock = clock

    def nonce(self) -> str:
        """As ``Proofs.nonce``."""
        return self._proofs.nonce()

    async def of(self, request: Request[Any, Any]) -> str | None:
        """The thumbprint of the key that ``request`` proves, in its ``DPoP`` header; None without one.

        Raises as ``Proofs.check`` and ``Database.write`` do. One durable write for a proof that is right,
        and none for another.
        """
        proved = self._proofs.read(request)
        if proved is None:
            return None
        thumbprint, name = proved
        until = self._clock.now() + LIFE * 1000
        if not await self._database.write(lambda tx: self._challenges.first(tx, f"dpop {name}", until)):
            raise ProofInvalid("The DPoP proof does not count: it was used before.")
        return thumbprint
