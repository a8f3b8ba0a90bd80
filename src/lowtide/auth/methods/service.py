"""The methods, wired together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lowtide.audit import Audit
from lowtide.auth.accounts import Accounts
from lowtide.auth.methods.blocklist import Blocklist
from lowtide.auth.methods.codes import Codes
from lowtide.auth.methods.email import Email
from lowtide.auth.methods.hashing import Hasher
from lowtide.auth.methods.messages import Carrier, Channel, Messages
from lowtide.auth.methods.password_routes import password_routes
from lowtide.auth.methods.passwords import Passwords
from lowtide.auth.methods.secondfactor import SecondFactors
from lowtide.auth.methods.secondfactor_routes import second_factor_routes
from lowtide.auth.methods.signing import Signing
from lowtide.auth.methods.sms import Sms
from lowtide.auth.methods.tries import Tries
from lowtide.auth.proofs import SharedProofs
from lowtide.kernel.clock import Clock
from lowtide.kernel.http import Request, Route
from lowtide.kernel.ids import Ids
from lowtide.kernel.schema import Principal
from lowtide.storage.db import Database
from lowtide.storage.jobs import Jobs
from lowtide.storage.rates import SharedRates
from lowtide.storage.vault import Vault


class Methods:
    """Every way to sign in that Lowtide proves itself."""

    def __init__(
        self,
        database: Database,
        jobs: Jobs,
        vault: Vault,
        rates: SharedRates,
        audit: Audit,
        clock: Clock,
        ids: Ids,
        accounts: Accounts,
        proofs: SharedProofs,
        authenticate: Callable[[str], Principal],
        carriers: Mapping[Channel, Carrier],
        *,
        app: str,
        public_url: str,
        dev: bool,
        leaked: Path | None = None,
        sms_prefixes: Sequence[str] = (),
        sms_per_hour: int = 100,
    ):
        """``app``: what messages call it. ``public_url``: where links lead; ``dev``: or whence they were
        asked for. ``leaked``: passwords that nobody may choose. Raises ``SetupError``."""

        def address(request: Request[Any, Any]) -> str | None:
            if public_url:
                return public_url
            host = request.header("host")
            return f"http://{host}" if dev and host else None

        self.messages = Messages(jobs, vault, clock, carriers)
        self.signing = signing = Signing(accounts.sign_in, accounts.identities, proofs, authenticate, clock)
        self.codes = codes = Codes(database, self.messages, rates, audit, clock, ids, accounts.users)
        self.email = Email(codes, signing, clock, app=app, address=address)
        tries = Tries(database, rates)
        self.hasher = Hasher(ids)
        self.passwords = Passwords(
            database,
            accounts.users,
            accounts.sessions,
            tries,
            self.messages,
            audit,
            clock,
            self.hasher,
            Blocklist(leaked),
            app=app,
        )
        self.seconds = SecondFactors(
            database,
            accounts.users,
            accounts.sessions,
            self.passwords,
            vault,
            tries,
            self.messages,
            audit,
            clock,
            ids,
            app=app,
        )
        accounts.sign_in.credentials += [self.passwords, self.seconds]
        self.sms = Sms(
            codes, signing, app=app, address=public_url, prefixes=sms_prefixes, per_hour=sms_per_hour
        )
        self._routes = [
            *self.email.routes(),
            *self.sms.routes(),
            *password_routes(database, self.passwords, self.seconds, self.email, signing),
            *second_factor_routes(self.seconds, signing),
        ]

    def routes(self) -> list[Route]:
        """``/v1/auth/...``"""
        return self._routes

    async def close(self) -> None:
        """Let the hashes that run finish."""
        self.hasher.close()
