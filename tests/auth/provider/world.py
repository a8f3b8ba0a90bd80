"""A provider behind the edge, in this process: apps that ask, and browsers that obey."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from html.parser import HTMLParser
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from lowtide.api.edge import Edge
from lowtide.api.health import health_routes
from lowtide.api.limits import Load
from lowtide.api.logs import AccessLog
from lowtide.api.origins import Hosts
from lowtide.audit import Audit
from lowtide.auth import auth_routes
from lowtide.auth.challenges import Challenges
from lowtide.auth.dpop import Proofs
from lowtide.auth.keys import Keys
from lowtide.auth.model import Evidence, Factor, Proof, nothing
from lowtide.auth.outside.upstream import s256
from lowtide.auth.proofs import SharedProofs
from lowtide.auth.provider import Provider
from lowtide.kernel.clients import Client as App
from lowtide.kernel.clock import ManualClock
from lowtide.kernel.errors import InvalidGrant, Malformed, NotFound
from lowtide.kernel.http import Request, Route
from lowtide.kernel.ids import SeededIds
from lowtide.storage.db import Database
from tests.api.client import Answer, Client
from tests.auth.world import World, code

ISSUER = "https://id.example.com"
HOST = "id.example.com"
AUTHORIZE, TOKEN, PAR = "/v1/oauth/authorize", "/v1/oauth/token", "/v1/oauth/par"
SECRET = "server-secret"
SECRET_HASH = hashlib.sha256(SECRET.encode()).hexdigest()

FIRST = App(
    id="first",
    name="Crew",
    redirect_uris=(
        "com.example.crew:/signed-in",
        "https://app.example.com/cb?from=lowtide",
        "http://127.0.0.1/cb",
    ),
    post_logout_redirect_uris=("com.example.crew:/signed-out",),
    scopes=("openid", "profile", "email", "phone", "offline_access", "api"),
    first_party=True,
)
THIRD = App(id="third", name="<b>Third</b> & Co", redirect_uris=("https://third.example/cb",))
SERVER = App(
    id="server", name="Server", redirect_uris=("https://server.example/cb",), secret_sha256=SECRET_HASH
)
BOUND = App(id="bound", name="Bound", redirect_uris=("com.example.bound:/cb",), dpop=True, first_party=True)


class Mailbox:
    """Ways to sign in whose letters can be read here: a code for each address, and passwords for some."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.sent: dict[str, tuple[str, str]] = {}
        self.words: dict[str, str] = {}
        self.waiting: set[str] = set()
        self.confirmed: set[str] = set()
        self.passwords = True
        self.passkeys = False
        self.upstreams: tuple[tuple[str, str], ...] = ()
        self.left: list[dict[str, Any]] = []
        self.arrivals: dict[str, tuple[str, str]] = {}
        self.told: int | None = None

    async def send(self, email: str, request: Request[Any, Any]) -> tuple[str, str]:
        if "@" not in email:
            raise Malformed("That is no e-mail address.")
        flow = f"flow-{len(self.sent)}"
        self.sent[flow] = (email, f"{len(self.sent):08}")
        return flow, "42"

    async def code(self, flow: str, given: str | None, request: Request[Any, Any]) -> Evidence:
        if flow not in self.sent:
            raise InvalidGrant("The code has expired or was used, or tried too often.", tries_left=0)
        email, right = self.sent[flow]
        if given != right and flow not in self.confirmed:
            raise InvalidGrant("The code is wrong.", tries_left=3)
        del self.sent[flow]
        return Evidence(code(email))

    async def password(self, email: str, password: str, request: Request[Any, Any]) -> Evidence:
        if self.words.get(email) != password:
            raise InvalidGrant("The address or the password is wrong.")
        proof = Proof(provider="email", subject=email, email=email, email_verified=True, amr=("pwd",))
        return Evidence(proof)

    async def second(self, ticket: str, given: str, ask: Any) -> Factor:
        await self._world.sign_in.waiting(ticket)
        if given != "123456":
            raise InvalidGrant("The code is wrong.", tries_left=2)
        return Factor(("otp",), nothing)

    async def ask_passkey(self, ticket: str = "") -> Mapping[str, Any]:
        if ticket:
            await self._world.sign_in.waiting(ticket)
        return {"challenge": "AAAA", "allowCredentials": [], "rpId": "example.com"}

    async def passkey(self, credential: str, request: Request[Any, Any]) -> Evidence:
        if credential != "ann's phone":
            raise InvalidGrant("The passkey's answer is not right.")
        return Evidence(Proof(provider="passkey", subject="1", amr=("hwk", "user"), strong=True))

    async def second_passkey(self, ticket: str, credential: str, ask: Any) -> Factor:
        await self._world.sign_in.waiting(ticket)
        if credential != "ann's phone":
            raise InvalidGrant("The passkey's answer is not right.")
        return Factor(("hwk", "user"), nothing)

    async def leave(self, name: str, **given: Any) -> str:
        if name not in dict(self.upstreams):
            raise NotFound("There is no such identity provider here.")
        self.left.append(given)
        return f"https://{name}.example/authorize"

    async def arrive(self, code: str, verifier: str) -> Evidence:
        email, challenge = self.arrivals.get(code, ("", ""))
        if s256(verifier) != challenge:
            raise InvalidGrant("The sign-in was begun on another device.")
        del self.arrivals[code]
        proof = Proof(provider="okta", subject=email, email=email, email_verified=True, auth_time=self.told)
        return Evidence(proof)

    def newest(self) -> str:
        """The code of the last letter."""
        return list(self.sent.values())[-1][1]


class House:
    """A whole provider."""

    def __init__(self, world: World, keys: Keys, clients: Iterable[App]):
        self.world, self.clock = world, world.clock
        self.keys = keys
        self.mailbox = Mailbox(world)
        self.proofs = Proofs(self.clock, lambda: keys.derive("dpop"), public_url=ISSUER)
        challenges = Challenges(world.vault, self.clock, world.ids)
        self.provider = Provider(
            world.database,
            world.accounts,
            keys,
            lambda: keys.derive("forms"),
            lambda: world.tokens,
            SharedProofs(self.proofs, world.database, challenges, self.clock),
            self.mailbox,
            self.clock,
            address=ISSUER,
            app="app",
            title="Crew",
            clients=clients,
        )
        load = Load()

        async def api(request: Request[None, None]) -> dict[str, str]:
            return {"user": request.principal.user}

        self.edge = Edge(
            [
                *health_routes({}, load),
                *auth_routes(keys),
                *self.provider.routes(),
                Route("GET", "/v1/api", api, response=dict[str, str]),
            ],
            authenticate=lambda token: world.tokens.verify(token),
            clock=self.clock,
            ids=world.ids,
            hosts=Hosts([HOST]),
            access=AccessLog(self.clock, world.ids),
            load=load,
            prove=self.proofs.check,
        )
        self.http = Client(self.edge, host=HOST)

    def browser(self) -> Browser:
        """One that has never been here."""
        return Browser(self)

    async def post(self, path: str, fields: Any = (), **headers: str) -> Answer:
        """A form, as a client sends it."""
        body = fields if isinstance(fields, bytes) else urlencode(fields).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.http.post(
            path, body=body, headers={"content-type": "application/x-www-form-urlencoded", **named}
        )

    async def sign_in(
        self, flow: Flow, *, browser: Browser | None = None, email: str = "ann@example.com"
    ) -> str:
        """Go the whole way in a browser; the code."""
        browser = browser or self.browser()
        answer = await browser.get(f"{AUTHORIZE}?{flow.query()}")
        return flow.code(await browser.sign_in(answer, email))

    async def tokens(self, flow: Flow, **more: Any) -> dict[str, Any]:
        """What a whole sign-in gives."""
        code = await self.sign_in(flow, **more)
        answer = await self.post(TOKEN, flow.redeem(code))
        assert answer.status == 200, answer.body
        found: dict[str, Any] = answer.json()
        return found


class Flow:
    """One authorization request of an app, with its PKCE verifier."""

    def __init__(self, client: App = FIRST, **changed: Any):
        self.client = client
        self.verifier = secrets.token_urlsafe(40)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(self.verifier.encode()).digest()).rstrip(b"=")
        default = {
            "client_id": client.id,
            "redirect_uri": client.redirect_uris[0],
            "response_type": "code",
            "scope": "openid email offline_access",
            "state": "the state",
            "nonce": "the-nonce",
            "code_challenge": challenge.decode(),
            "code_challenge_method": "S256",
        }
        self.parameters = {k: str(v) for k, v in (default | changed).items() if v is not None}

    def query(self) -> str:
        return urlencode(self.parameters)

    def redeem(self, code: str, **changed: Any) -> dict[str, str]:
        """The form that takes tokens for ``code``."""
        fields = {
            "grant_type": "authorization_code",
            "client_id": self.client.id,
            "code": code,
            "redirect_uri": self.parameters["redirect_uri"],
            "code_verifier": self.verifier,
        }
        return {k: v for k, v in (fields | changed).items() if v is not None}

    def answer(self, answer: Answer) -> dict[str, str]:
        """What the redirect tells the app; it must be to the app."""
        assert answer.status == 303, answer.body
        location = answer.headers["location"]
        assert location.startswith(self.parameters["redirect_uri"]), location
        found = parse_qsl(urlsplit(location).query, keep_blank_values=True, strict_parsing=True)
        assert len(dict(found)) == len(found)
        return dict(found)

    def code(self, answer: Answer) -> str:
        found = self.answer(answer)
        assert found["iss"] == ISSUER
        assert found.get("state") == self.parameters.get("state")
        return found["code"]


class Form(HTMLParser):
    """The forms of a page: by the ``step`` that each sends, its fields."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.forms: dict[str, dict[str, str]] = {}
        self.actions: dict[str, str] = {}
        """Where each form goes; empty: to where the page stands."""
        self._action = ""
        self._fields: dict[str, str] | None = None
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        if tag == "form":
            assert found.get("method") == "post"
            action = found.get("action") or ""
            assert action == "" or action.startswith(f"{AUTHORIZE}?")
            self._fields = {}
            self._action = action
        elif tag == "input" and self._fields is not None and found.get("name"):
            self._fields[found["name"] or ""] = found.get("value") or ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "form" and self._fields is not None:
            step = self._fields.get("step", "")
            self.forms[step] = self._fields
            self.actions[step] = self._action
            self._fields = None


class Browser:
    """Keeps cookies as browsers do, fills forms in, and follows nothing by itself."""

    def __init__(self, house: House) -> None:
        self._house = house
        self.cookies: dict[str, str] = {}
        self.at = ""

    async def get(self, target: str) -> Answer:
        self.at = target
        return self._kept(await self._house.http.get(target, headers=self._headers()))

    async def send(self, fields: dict[str, str], *, at: str | None = None, **headers: str | None) -> Answer:
        """Post a form of the page that is shown."""
        whole: dict[str, str | None] = {
            "content-type": "application/x-www-form-urlencoded",
            "origin": ISSUER,
            "sec-fetch-site": "same-origin",
        }
        whole |= {name.replace("_", "-"): value for name, value in headers.items()}
        sent = [*self._headers().items(), *((k, v) for k, v in whole.items() if v is not None)]
        body = urlencode(fields).encode()
        return self._kept(await self._house.http.post(at or self.at, body=body, headers=sent))

    async def fill(self, answer: Answer, step: str, /, **values: str) -> Answer:
        """Send the form of ``answer``'s page for a step."""
        page = Form(answer.body)
        return await self.send(page.forms[step] | values, at=page.actions[step] or None)

    async def sign_in(self, answer: Answer, email: str = "ann@example.com") -> Answer:
        """From the first page to what follows the code."""
        shown = await self.fill(answer, "email", email=email)
        assert shown.status == 200, shown.body
        return await self.fill(shown, "code", code=self._house.mailbox.newest())

    def _headers(self) -> dict[str, str]:
        if not self.cookies:
            return {}
        return {"cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())}

    def _kept(self, answer: Answer) -> Answer:
        header = answer.headers.get("set-cookie")
        if header is not None:
            first, *rest = [part.strip() for part in header.split(";")]
            name, _, value = first.partition("=")
            # RFC 6265bis section 4.1.3.2: what the prefix promises.
            assert name == "__Host-lowtide"
            assert {"Secure", "HttpOnly", "Path=/", "SameSite=Lax"} <= set(rest)
            assert not any(part.startswith("Domain") for part in rest)
            self.cookies[name] = value
        return answer


@asynccontextmanager
async def housed(
    database: Database,
    clock: ManualClock,
    ids: SeededIds,
) -> AsyncIterator[House]:
    """A provider at work."""
    world = World(database, clock, ids)
    await world.start()
    keys = Keys(database, clock, world.vault, Audit(clock, ids))
    await keys.load()
    try:
        yield House(world, keys, (FIRST, THIRD, SERVER, BOUND))
    finally:
        await world.bus.close()
