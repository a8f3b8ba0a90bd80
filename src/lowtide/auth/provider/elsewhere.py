"""Signing in with an outside provider: a browser leaves the sign-in page, and comes back to the same request.

What the provider said is good for the browser that left, and for the app's request that it left from: the
verifier of the way is an HMAC over both, and is never sent. The request travels sealed; nothing is stored.
"""

from __future__ import annotations

from typing import Any

from lowtide.auth.outside.upstream import s256
from lowtide.auth.provider import discovery
from lowtide.auth.provider.authorize import Refused, Stray
from lowtide.auth.provider.browsers import Browsers
from lowtide.auth.provider.door import ANEW, OVER, Door
from lowtide.auth.provider.model import OAuthError
from lowtide.auth.provider.pages import Pages, go
from lowtide.auth.provider.parameters import read_parameters
from lowtide.auth.provider.visits import Visit, Visits
from lowtide.auth.provider.ways import Ways
from lowtide.kernel.errors import BadRequest, LowtideError, NotFound, OutsideFailed, Unavailable
from lowtide.kernel.http import Request, Response

_BAD = {
    "temporarily_unavailable": "The other side does not answer. Try again later.",
    "login_required": "The app wants you to sign in anew, and the other side does not say that you did. "
    "Try again, or sign in another way.",
}


class Elsewhere:
    """Answers the addresses between a sign-in page and the outside providers."""

    def __init__(
        self, visits: Visits, door: Door, browsers: Browsers, ways: Ways, pages: Pages, *, address: str
    ):
        self._visits = visits
        self._door = door
        self._browsers = browsers
        self._ways = ways
        self._pages = pages
        self._back = address + discovery.UPSTREAM

    async def leave(self, request: Request[Any, bytes]) -> Response:
        """On to the provider. Only from a sign-in page that this browser was shown."""
        found = await self._begin(request, "request")
        if isinstance(found, Response):
            return found
        visit, fields = found
        if visit.new or not self._browsers.sealed(fields.get("proof", ""), visit.held, "leave", visit.about):
            return await self._visits.sign_in(visit, bad=OVER, status=400)
        name = request.params["provider"]
        try:
            location = await self._ways.leave(
                name,
                back=self._back,
                challenge=s256(self._verifier(visit)),
                state=visit.raw.decode("latin-1"),
                hint=visit.asked.login_hint,
                prompt=" ".join(sorted(visit.asked.prompt & ANEW)),
                max_age=visit.asked.max_age,
            )
        except (NotFound, BadRequest) as error:
            return await self._visits.sign_in(visit, bad=error.message, status=400)
        except (Unavailable, OutsideFailed):
            title = dict(self._ways.upstreams).get(name, name)
            bad = f"{title} does not answer. Try again later, or sign in another way."
            return await self._visits.sign_in(visit, bad=bad, status=503)
        return go(location)

    async def back(self, request: Request[Any, bytes]) -> Response:
        """From the provider, with what it said: on to the app, or to what is still missing."""
        found = await self._begin(request, "state")
        if isinstance(found, Response):
            return found
        visit, fields = found
        if visit.new:
            # A browser that never left: somebody else's way.
            return await self._visits.sign_in(visit, bad=OVER, status=400)
        if "code" not in fields:
            bad = _BAD.get(fields.get("error", ""), "You were not signed in there.")
            return await self._visits.sign_in(visit, bad=bad, status=400)
        try:
            evidence = await self._ways.arrive(fields["code"], self._verifier(visit))
            return await self._door.identify(visit, evidence, proved_at=evidence.proof.auth_time)
        except LowtideError as error:
            if error.status >= 500:
                raise
            return await self._visits.sign_in(visit, bad=error.message, status=400)

    async def _begin(
        self, request: Request[Any, bytes], name: str
    ) -> tuple[Visit, dict[str, str]] | Response:
        """The visit for the app's request in the parameter ``name``, and the other parameters."""
        try:
            fields = read_parameters(request.query)
            raw = fields.get(name, "").encode("ascii")
            return await self._visits.begin(request, raw), fields
        except (OAuthError, Stray) as error:
            return self._pages.said("This cannot go on", str(error), status=400)
        except UnicodeEncodeError:
            return self._pages.said("This cannot go on", "The address cannot be read.", status=400)
        except Refused as error:
            return go(error.location)

    def _verifier(self, visit: Visit) -> str:
        return self._browsers.seal(visit.held, "verifier", visit.about)
