"""What an authorization request must be (OAuth 2.1 section 4.1.1, OpenID Connect Core section 3.1.2.1).

Only once client and redirect address belong together may anything be said to that address: an error before
that stays on a page of this server, so that nobody is led astray by a link to us (RFC 9700 section 4.11).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import quote, urlencode

from lowtide.auth.provider.clients import Clients
from lowtide.auth.provider.discovery import APPS
from lowtide.auth.provider.model import OWN, Asked, OAuthError, digest
from lowtide.auth.provider.parameters import read_parameters
from lowtide.auth.provider.store import ProviderStore
from lowtide.kernel.clients import Client
from lowtide.kernel.codec import canonical_json
from lowtide.storage.db import Database

PUSHED = "urn:ietf:params:oauth:request_uri:"
"""What a pushed request's ``request_uri`` starts with (RFC 9126 section 2.2)."""
MAX_AGE = 10**9
"""Seconds of ``max_age``; more is as good as none."""
PROMPTS = frozenset({"none", "login", "consent", "select_account"})

_S256 = re.compile(r"[A-Za-z0-9_-]{43}")
_THUMBPRINT = _S256
_NUMBER = re.compile(r"[0-9]{1,18}")


class Stray(Exception):
    """A request that must not be answered to its redirect address: said on a page of ours."""


class Refused(Exception):
    """A request that is answered to its redirect address, with an error."""

    def __init__(self, location: str):
        self.location = location
        super().__init__(location)


class Authorization:
    """Reads authorization requests."""

    def __init__(self, database: Database, store: ProviderStore, clients: Clients, *, issuer: str):
        self._database = database
        self._store = store
        self._clients = clients
        self._issuer = issuer
        self._own = Client(id=OWN, name="This server", first_party=True, scopes=("openid",))

    async def read(self, raw: bytes) -> tuple[Client, Asked]:
        """The request in a query string, which may name a pushed one.

        Raises ``Stray`` when client or redirect address are not right, and ``Refused`` for the rest.
        """
        try:
            parameters = read_parameters(raw)
        except OAuthError as error:
            raise Stray(error.description) from None
        if parameters.get("client_id") == OWN:
            here = self._issuer + APPS
            return self._own, Asked(client_id=OWN, redirect_uri=here, scope=("openid",), challenge="")
        client = await self._clients.find(parameters.get("client_id", ""))
        if client is None:
            raise Stray("The app that sent you here is not known.")
        pushed = None
        address = parameters.get("request_uri")
        if address is not None and address.startswith(PUSHED):
            pushed = digest(address.removeprefix(PUSHED))
            found = await self._database.read(lambda tx: self._store.request(tx, pushed or "", client.id))
            if found is None:
                raise Stray("This sign-in has expired, or was finished already. Start again in the app.")
            parameters = found
        if not client.redirects_to(parameters.get("redirect_uri", "")):
            raise Stray("The app that sent you here wants the answer at an address that it never registered.")
        try:
            return client, check(client, parameters, pushed)
        except OAuthError as error:
            raise Refused(self.failed(parameters, error.error, error.description)) from None

    def failed(self, parameters: Mapping[str, str], error: str, description: str) -> str:
        """The address that tells the client of an error, for a redirect address known to be its own."""
        answer = {"error": error, "error_description": description}
        return self.answered(parameters["redirect_uri"], parameters.get("state"), answer)

    def answered(self, redirect_uri: str, state: str | None, answer: Mapping[str, str]) -> str:
        """``redirect_uri`` with the answer, the client's ``state`` and who answers (RFC 9207)."""
        whole = dict(answer)
        if state is not None:
            whole["state"] = state
        whole["iss"] = self._issuer
        separator = "&" if "?" in redirect_uri else "?"
        return f"{redirect_uri}{separator}{urlencode(whole, quote_via=quote)}"


def check(client: Client, parameters: Mapping[str, str], pushed: str | None = None) -> Asked:
    """The request of ``client``, whose ``redirect_uri`` is its own. Raises ``OAuthError``."""
    if "request" in parameters:
        raise OAuthError("request_not_supported", "Send the parameters as they are, or push them.")
    if "request_uri" in parameters:
        raise OAuthError("request_uri_not_supported", "Only a pushed request has an address.")
    if "registration" in parameters:
        raise OAuthError("registration_not_supported", "Clients are registered by the server's operator.")
    kind = parameters.get("response_type")
    if kind != "code":
        error = "invalid_request" if kind is None else "unsupported_response_type"
        raise OAuthError(error, "The response_type must be 'code'.")
    if parameters.get("response_mode", "query") != "query":
        raise OAuthError("invalid_request", "The response_mode must be 'query'.")
    challenge = parameters.get("code_challenge", "")
    if _S256.fullmatch(challenge) is None or parameters.get("code_challenge_method") != "S256":
        raise OAuthError("invalid_request", "PKCE is needed: a code_challenge with the method S256.")
    jkt = parameters.get("dpop_jkt")
    if jkt is not None and _THUMBPRINT.fullmatch(jkt) is None:
        raise OAuthError("invalid_request", "The dpop_jkt is no thumbprint of a key.")
    prompt = frozenset(parameters.get("prompt", "").split())
    if prompt - PROMPTS or ("none" in prompt and len(prompt) > 1):
        raise OAuthError("invalid_request", "The prompt must be 'none' alone, or 'login' or 'consent'.")
    age = parameters.get("max_age")
    if age is not None and _NUMBER.fullmatch(age) is None:
        raise OAuthError("invalid_request", "The max_age is not a number of seconds.")
    return Asked(
        client_id=client.id,
        redirect_uri=parameters["redirect_uri"],
        scope=_scope(client, parameters.get("scope", "")),
        challenge=challenge,
        state=parameters.get("state"),
        nonce=parameters.get("nonce"),
        prompt=prompt,
        max_age=None if age is None else min(int(age), MAX_AGE),
        login_hint=parameters.get("login_hint", "")[:254],
        jkt=jkt,
        pushed=pushed,
    )


def _scope(client: Client, text: str) -> tuple[str, ...]:
    """What is asked for and can be granted; an unknown scope is left out (OpenID Connect Core 3.1.2.1)."""
    asked = dict.fromkeys(text.split())
    granted = tuple(name for name in asked if name in client.scopes)
    if not granted:
        raise OAuthError("invalid_scope", f"This client may ask for: {' '.join(client.scopes)}.")
    return granted


def fingerprint(asked: Asked) -> str:
    """What stands for a request in a page's form: the same for the same request only."""
    return digest(
        canonical_json(
            [
                asked.client_id,
                asked.redirect_uri,
                sorted(asked.scope),
                asked.challenge,
                asked.state,
                asked.nonce,
                sorted(asked.prompt),
                asked.max_age,
                asked.jkt,
            ]
        )
    )
