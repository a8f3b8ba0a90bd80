"""Signing in with an outside OpenID provider: a browser goes there and back, and brings the app a code.

OpenID Connect Core, section 3.1 (code flow), with PKCE (RFC 7636) towards the provider, and once more between
the app and this server: only the device that began can finish, wherever the code ends up. Tokens are never
in an address. What must be known on the way back lies sealed in ``state``; nothing is stored meanwhile.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import msgspec

from lowtide.auth.challenges import MAX_CHALLENGE, Challenges
from lowtide.auth.model import MAX_EMAIL, MAX_PERSON, Evidence, Proof, normal_email
from lowtide.auth.outside.discovery import Discovery, Metadata
from lowtide.auth.outside.issuers import LEEWAY, MAX_DOCUMENT, PATIENCE, IdTokens, Issuer
from lowtide.egress import Egress
from lowtide.kernel.base64url import encode
from lowtide.kernel.clock import Clock
from lowtide.kernel.codec import decode_json
from lowtide.kernel.errors import BadRequest, InvalidGrant, LowtideError, NotFound, OutsideFailed, Unavailable
from lowtide.kernel.http import Method
from lowtide.kernel.ids import Ids
from lowtide.kernel.upstream import Upstream
from lowtide.storage.db import Database, Tx

MAX_STATE = 500
"""Characters of the app's own ``state``."""
MAX_CODE = 2048
"""Characters of a provider's code."""
MAX_SHOWN = 1024
"""Bytes of a provider's further claims as JSON; beyond it hooks are shown none."""
EVER = 10**9
"""Seconds of ``max_age`` where none is asked for: who is asked has to say when it was."""
WAY = 600
"""Seconds that the way to the provider and back may take."""
STATE, FINISH = "oidc/state", "oidc/finish"


class Way(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What lies sealed in ``state`` on the way to the provider and back."""

    provider: str
    redirect_uri: str
    state: str
    challenge: str
    nonce: str
    verifier: str
    since: int | None = None
    """The user must have proved who they are after this, in seconds since 1970."""


class Arrived(msgspec.Struct, frozen=True, kw_only=True):
    """What lies sealed in the code that the app exchanges."""

    challenge: str
    proof: Proof


class Upstreams:
    """Every outside provider of this server. Safe to share."""

    def __init__(
        self,
        providers: Sequence[Upstream],
        egress: Egress,
        id_tokens: IdTokens,
        challenges: Challenges,
        database: Database,
        clock: Clock,
        ids: Ids,
        *,
        address: str,
        redirects: Sequence[str],
    ):
        """``address``: this server's own, without a slash at its end. ``redirects``: where the app may be
        called back, each matched as a whole."""
        self._providers = {one.name: one for one in providers}
        self._discoveries = {one.name: Discovery(egress, clock, one.issuer) for one in providers}
        self._egress = egress
        self._id_tokens = id_tokens
        self._challenges = challenges
        self._database = database
        self._clock = clock
        self._ids = ids
        self._address = address
        self._redirects = frozenset(redirects)

    @property
    def titles(self) -> tuple[tuple[str, str], ...]:
        """The providers by name, and what people call each, in the order in which they were set up."""
        return tuple((one.name, one.title or one.name.capitalize()) for one in self._providers.values())

    async def start(
        self,
        name: str,
        *,
        redirect_uri: str,
        challenge: str,
        state: str = "",
        login_hint: str = "",
        prompt: str = "",
        max_age: int | None = None,
    ) -> str:
        """Where to send the browser. ``challenge``: the SHA-256 of the app's verifier, as base64url.

        ``prompt``: what to ask for anew there, ``max_age``: how many seconds ago the user may have proved who
        they are there (OpenID Connect Core, section 3.1.2.1). A provider that does not say that they have
        brings ``login_required``.

        Raises ``NotFound`` for an unknown provider, ``BadRequest`` for a redirect URI that is not allowed
        and for more ``state`` than can be carried, ``Unavailable`` while the provider has never answered.
        """
        provider = self._provider(name)
        if redirect_uri not in self._redirects:
            raise BadRequest(
                "The app may not be called back there.",
                hint="Add it to the setting 'app_redirects', exactly.",
            )
        metadata = await self._discoveries[name].find()
        nonce, verifier = self._ids.token(), self._ids.token() + self._ids.token()
        way = Way(
            provider=name,
            redirect_uri=redirect_uri,
            state=state,
            challenge=challenge,
            nonce=nonce,
            verifier=verifier,
            since=None if max_age is None else self._clock.now() // 1000 - max_age,
        )
        sealed = self._challenges.issue(STATE, data=msgspec.json.encode(way).decode(), life=WAY)
        if len(sealed) > MAX_CHALLENGE:
            raise BadRequest("The app's request is too long for this way of signing in.")
        query = {
            "response_type": "code",
            "client_id": provider.client_id,
            "redirect_uri": self._callback(name),
            "scope": " ".join(provider.scopes),
            "state": sealed,
            "nonce": nonce,
            "code_challenge": s256(verifier),
            "code_challenge_method": "S256",
        }
        query |= {
            "login_hint": login_hint,
            "prompt": prompt,
            "max_age": str(EVER if max_age is None else max_age),
        }
        return with_query(metadata.authorization_endpoint, query)

    async def callback(self, name: str, answer: Mapping[str, str]) -> str:
        """Where to send the browser back: to the app, with ``code`` or ``error``, and its own ``state``.

        ``answer`` is what the provider's redirect brought. Raises ``InvalidGrant`` for a ``state`` that
        this server did not make or has seen before: then there is no app to go back to. The way back takes
        up to three requests to the provider of five seconds each.
        """
        challenge = self._challenges.open(STATE, answer.get("state", ""))
        way = msgspec.json.decode(challenge.data, type=Way)
        if way.provider != name:
            raise InvalidGrant("The answer is for another provider.")

        async def work(tx: Tx) -> None:
            await self._challenges.use(tx, challenge)

        await self._database.write(work)
        try:
            proof = await self._proof(self._provider(name), way, answer)
        except _Declined as error:
            found = {"error": error.code}
        except (Unavailable, OutsideFailed):
            found = {"error": "temporarily_unavailable"}
        except LowtideError as error:
            found = {"error": "server_error", "error_description": error.message}
        else:
            arrived = Arrived(challenge=way.challenge, proof=proof)
            found = {"code": self._challenges.issue(FINISH, data=msgspec.json.encode(arrived).decode())}
        return with_query(way.redirect_uri, found | {"state": way.state})

    async def finish(self, code: str, verifier: str) -> Evidence:
        """What the provider said, for the app whose device began. Raises ``InvalidGrant``.

        Only who has the verifier can use the code up.
        """
        challenge = self._challenges.open(FINISH, code)
        arrived = msgspec.json.decode(challenge.data, type=Arrived)
        if not hmac.compare_digest(s256(verifier), arrived.challenge):
            raise InvalidGrant("The sign-in was begun on another device.")

        async def spend(tx: Tx) -> None:
            await self._challenges.use(tx, challenge)

        return Evidence(arrived.proof, spend)

    # -- the provider's side -----------------------------------------------------------------------

    async def _proof(self, provider: Upstream, way: Way, answer: Mapping[str, str]) -> Proof:
        metadata = await self._discoveries[provider.name].find()
        # RFC 9207: an answer that another provider gave must not be taken to this one.
        issuer = answer.get("iss")
        if issuer is None and metadata.authorization_response_iss_parameter_supported:
            raise InvalidGrant("The provider did not say who it is.")
        if issuer is not None and issuer != metadata.issuer:
            raise InvalidGrant("Another provider has answered.")
        if "error" in answer:
            known = ("access_denied", "login_required", "consent_required", "temporarily_unavailable")
            raise _Declined(answer["error"] if answer["error"] in known else "server_error")
        code = answer.get("code", "")
        if not 0 < len(code) <= MAX_CODE:
            raise InvalidGrant("The provider gave no code.")
        tokens = await self._exchange(provider, metadata, code, way.verifier)
        id_token, access = tokens.get("id_token"), tokens.get("access_token")
        if not isinstance(id_token, str):
            raise InvalidGrant("The provider gave no id token.")
        expected = Issuer(
            name=provider.name,
            issuers=(metadata.issuer,),
            audiences=(provider.client_id,),
            jwks_url=metadata.jwks_uri,
            algorithms=metadata.algorithms,
        )
        claims = dict(await self._id_tokens.verify(expected, id_token, nonce=way.nonce))
        told = told_time(claims, self._clock.now())
        # OpenID Connect Core, section 3.1.3.7: not every provider heeds what it is asked.
        if way.since is not None and (told is None or told // 1000 < way.since - LEEWAY):
            raise _Declined("login_required")
        if metadata.userinfo_endpoint and isinstance(access, str) and "email" not in claims:
            more = await self._userinfo(metadata.userinfo_endpoint, access)
            # OpenID Connect Core, section 5.3.2: else it may be somebody else's.
            if more.get("sub") != claims["sub"]:
                raise InvalidGrant("The provider's userinfo is of another user.")
            claims = more | claims
        return msgspec.structs.replace(read_proof(provider.name, claims), auth_time=told)

    async def _exchange(
        self, provider: Upstream, metadata: Metadata, code: str, verifier: str
    ) -> Mapping[str, Any]:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._callback(provider.name),
            "code_verifier": verifier,
        }
        headers = {"accept": "application/json", "content-type": "application/x-www-form-urlencoded"}
        if provider.client_secret and "client_secret_basic" in metadata.token_endpoint_auth_methods_supported:
            # RFC 6749, section 2.3.1: each part is form-encoded before it is joined.
            pair = f"{quote(provider.client_id, safe='')}:{quote(provider.client_secret, safe='')}"
            headers["authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        else:
            form["client_id"] = provider.client_id
            if provider.client_secret:
                form["client_secret"] = provider.client_secret
        return await self._ask("POST", metadata.token_endpoint, headers, urlencode(form).encode())

    async def _userinfo(self, address: str, access: str) -> dict[str, Any]:
        headers = {"accept": "application/json", "authorization": f"Bearer {access}"}
        return dict(await self._ask("GET", address, headers, b""))

    async def _ask(
        self, method: Method, url: str, headers: Mapping[str, str], body: bytes
    ) -> Mapping[str, Any]:
        answer = await self._egress.request(
            method, url, headers=dict(headers), body=body, deadline=PATIENCE, max_bytes=MAX_DOCUMENT
        )
        if answer.status >= 500 or answer.status == 429:
            raise Unavailable(f"The identity provider answered {answer.status}.")
        if answer.status != 200:
            raise InvalidGrant(f"The identity provider answered {answer.status}.")
        found = decode_json(answer.body, max_bytes=MAX_DOCUMENT, max_depth=16)
        if not isinstance(found, dict):
            raise InvalidGrant("The identity provider's answer cannot be read.")
        return found

    def _provider(self, name: str) -> Upstream:
        provider = self._providers.get(name)
        if provider is None:
            raise NotFound("There is no such identity provider here.")
        return provider

    def _callback(self, name: str) -> str:
        return f"{self._address}/v1/auth/oidc/{name}/callback"


GOOGLE = ("https://accounts.google.com", "accounts.google.com")
"""As the issuer calls itself."""


class _Declined(Exception):
    """The provider sent the user back without a code."""

    def __init__(self, code: str):
        self.code = code


def told_time(claims: Mapping[str, Any], now: int) -> int | None:
    """When the user proved who they are there, in milliseconds; never later than ``now``."""
    told = claims.get("auth_time")
    if isinstance(told, bool) or not isinstance(told, int | float) or told <= 0:
        return None
    return int(min(told * 1000, now))


def read_proof(provider: str, claims: Mapping[str, Any], name: str | None = None) -> Proof:
    """What verified claims prove. What does not fit is left out: a long name is no reason to lock out.

    ``name``: what the app was told, where the token says none, as Apple's never does.
    """
    email = claims.get("email")
    email = normal_email(email) if isinstance(email, str) else None
    if email is not None and not (0 < len(email) <= MAX_EMAIL and "@" in email and email.isprintable()):
        email = None
    verified = claims.get("email_verified")  # Apple writes it as a text
    told = claims.get("name")
    name = told if isinstance(told, str) else name
    if name is not None:
        name = "".join(one for one in name.strip() if one.isprintable())[:MAX_PERSON] or None
    shown = ("is_private_email", "hd", "locale", "picture", "groups", "roles", "preferred_username")
    extra = {one: claims[one] for one in shown if one in claims}
    return Proof(
        provider=provider,
        subject=claims["sub"],
        email=email,
        email_verified=(verified is True or verified == "true") and _vouches(claims, email),
        name=name,
        amr=("fed",),
        claims=extra if len(msgspec.json.encode(extra)) <= MAX_SHOWN else {},
    )


def _vouches(claims: Mapping[str, Any], email: str | None) -> bool:
    """May the issuer say whose address it is?

    Google verifies an address of another domain once, and the account stays when the mailbox goes to
    somebody else: its word counts for its own domains and its customers'.
    """
    if email is None:
        return False
    if claims.get("iss") not in GOOGLE:
        return True
    return email.rpartition("@")[2] in ("gmail.com", "googlemail.com") or bool(claims.get("hd"))


def s256(verifier: str) -> str:
    """RFC 7636, section 4.2."""
    return encode(hashlib.sha256(verifier.encode()).digest())


def with_query(address: str, parameters: Mapping[str, str]) -> str:
    """``address`` with ``parameters`` behind those that it has; empty ones are left out."""
    parts = urlsplit(address)
    pairs = parse_qsl(parts.query, keep_blank_values=True) + [pair for pair in parameters.items() if pair[1]]
    return urlunsplit(parts._replace(query=urlencode(pairs)))
