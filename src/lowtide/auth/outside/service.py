"""Everything that signs in with what others know, wired together."""

from __future__ import annotations

from collections.abc import Sequence

from lowtide.auth.accounts import Accounts
from lowtide.auth.challenges import Challenges
from lowtide.auth.methods.signing import Signing
from lowtide.auth.outside.apple import APPLE, Apple, Credentials
from lowtide.auth.outside.issuers import IdTokens
from lowtide.auth.outside.native import GOOGLE_KEYS, NativeSignIn, apple_issuer, google_issuer
from lowtide.auth.outside.routes import outside_routes
from lowtide.auth.outside.upstream import Upstreams
from lowtide.egress import Egress
from lowtide.kernel.clock import Clock
from lowtide.kernel.http import Route
from lowtide.kernel.ids import Ids
from lowtide.kernel.upstream import Upstream
from lowtide.storage.db import Database
from lowtide.storage.jobs import Jobs
from lowtide.storage.vault import Vault


class Outside:
    """Apple, Google, and the OpenID providers that are set up."""

    def __init__(
        self,
        database: Database,
        egress: Egress,
        vault: Vault,
        jobs: Jobs,
        challenges: Challenges,
        accounts: Accounts,
        clock: Clock,
        ids: Ids,
        credentials: Credentials | None,
        *,
        apple: Sequence[str],
        google: Sequence[str],
        upstreams: Sequence[Upstream],
        address: str,
        redirects: Sequence[str],
        apple_url: str = APPLE,
        google_keys: str = GOOGLE_KEYS,
    ):
        """``apple``, ``google``: the app's client ids there. ``apple_url``, ``google_keys``: their addresses,
        for tests. The rest is that of ``Apple`` and ``Upstreams``."""
        id_tokens = IdTokens(egress, clock)
        self.apple = Apple(
            database,
            egress,
            vault,
            jobs,
            challenges,
            accounts.users,
            accounts.sessions,
            accounts.audit,
            clock,
            credentials,
            url=apple_url,
        )
        issuers = [apple_issuer(apple, apple_url), google_issuer(google, google_keys)]
        self.native = NativeSignIn(issuers, id_tokens, self.apple, challenges, clock)
        self.upstreams = Upstreams(
            upstreams,
            egress,
            id_tokens,
            challenges,
            database,
            clock,
            ids,
            address=address,
            redirects=redirects,
        )

    def routes(self, signing: Signing) -> list[Route]:
        """``/v1/auth/id-token``, ``/v1/auth/apple/...`` and ``/v1/auth/oidc/...``."""
        return outside_routes(self.native, self.upstreams, signing)
