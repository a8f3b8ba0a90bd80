"""Those who ask in the matrix, and the owner's things that they ask for."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pyotp

from lowtide.app import Lowtide
from lowtide.auth.passkeys.ceremony import RegistrationCredential
from lowtide.kernel.schema import Principal
from tests.api.client import Answer, Client
from tests.auth.authenticator import Authenticator
from tests.auth.ring import forge, good_claims

SECRET = "the tide is low at seven"
"""In every note of ann's: whoever is shown it has seen her data."""
HOUR = 3600


class People:
    """Ann, the others, and what is ann's; every call makes something new."""

    def __init__(self, lowtide: Lowtide):
        self.client = Client(lowtide.asgi)
        self._lowtide = lowtide
        self._made = 0
        self._devices: dict[str, int] = {}
        self._ended = ""

    def token(self, who: str) -> str | None:
        """The token with which ``who`` asks; None for one who has none."""
        sign = self._lowtide.tokens.sign
        match who:
            case "owner":
                return sign("ann")
            case "member":
                return sign("bob")
            case "other":
                return sign("eve", space="elsewhere")
            case "admin":
                return self._lowtide.tokens.issue(Principal(user="root", roles=("admin",)), ttl=HOUR)
            case "server":
                return sign("app", server=True)
            case "expired":
                return self._forged(-24 * HOUR)
            case "revoked":
                return self._lowtide.tokens.issue(Principal(user="ann", session=self._ended), ttl=HOUR)
            case _:
                return None

    def _forged(self, shift: int) -> str:
        tokens = self._lowtide.tokens
        now = int(time.time()) + shift
        claims = good_claims(
            iss=tokens._issuer, aud=tokens._audience, sub="ann", iat=now, exp=now + 600, space="main"
        )
        return forge(self._lowtide.keys.current, claims)

    async def join(self) -> None:
        """Let ann and bob into one team; eve into one of the same name, in her space. End a session."""
        for space, user in (("main", "ann"), ("main", "bob"), ("elsewhere", "eve")):
            token = self._lowtide.tokens.sign("app", space=space, server=True)
            body = self.batch("put", "membership", self.fresh(), {"user_id": user, "team_id": "red"})
            await self.expect(200, "POST", "/v1/sync/batches", token, json=body)

        begun = (await self.expect(201, "POST", "/v1/auth/anonymous", None, json={})).json()
        await self.expect(204, "POST", "/v1/auth/sign-out", begun["access_token"])
        self._ended = begun["session_id"]
        refused = await self.expect(401, "GET", "/v1/auth/me", self.token("revoked"))
        assert refused.code == "session_revoked"

    def fresh(self) -> str:
        """A name that nothing has."""
        self._made += 1
        return f"fresh-{self._made}"

    def batch(
        self, op: str, model: str, id: str, data: dict[str, Any], base: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """The upload of one mutation from a device of its own."""
        mutation = {"n": 1, "op": op, "model": model, "id": id, "data": data, "base": base}
        return {"client_id": self.fresh(), "transactions": [{"mutations": [mutation]}]}

    async def expect(
        self, status: int, method: str, target: str, token: str | None, **options: Any
    ) -> Answer:
        """The answer, which must have this status."""
        answer = await self.client.request(method, target, token=token, **options)
        assert answer.status == status, answer.body
        return answer

    async def upload(self, *changes: Any, **named: Any) -> None:
        """A change of ann's, applied."""
        body = self.batch(*changes, **named)
        answer = await self.expect(200, "POST", "/v1/sync/batches", self.token("owner"), json=body)
        assert answer.json()["results"][0]["status"] in ("applied", "merged"), answer.body

    async def note(self) -> str:
        """A note of ann's."""
        note = self.fresh()
        await self.upload("put", "note", note, {"owner_id": "ann", "title": "plain", "body": SECRET})
        return note

    async def device(self) -> str:
        """A device of ann's that has uploaded."""
        body = self.batch("put", "note", self.fresh(), {"owner_id": "ann", "title": "plain"})
        await self.expect(200, "POST", "/v1/sync/batches", self.token("owner"), json=body)
        return str(body["client_id"])

    async def user(self) -> str:
        """A user with an account: its id."""
        made = await self.expect(201, "POST", "/v1/admin/users", self.token("server"), json={})
        return str(made.json()["id"])

    async def equipped(self) -> tuple[str, str]:
        """A user with an authenticator app and a passkey: the ids of the user and of the passkey."""
        user, lowtide = await self.user(), self._lowtide
        who = Principal(user=user, auth_time=lowtide.clock.now())
        secret = (await lowtide.methods.seconds.enrol(who)).secret
        code = pyotp.TOTP(secret).at(lowtide.clock.now() // 1000)
        await lowtide.methods.seconds.confirm(who, code, ip="", request="")
        site = lowtide.settings.passkey_rp_id
        device = Authenticator(rp_id=site, origin=f"https://{site}")
        answer = device.register(await lowtide.passkeys.begin_registration(who))
        credential = msgspec.convert(answer, RegistrationCredential)
        return user, (await lowtide.passkeys.register(who, credential, "Phone", "")).id

    async def conflict(self) -> tuple[str, str]:
        """A note of ann's and a value that it lost: two of her devices changed it without knowing."""
        note = await self.note()
        base = {"title": "plain"}
        await self.upload("patch", "note", note, {"title": SECRET}, base)
        await self.upload("patch", "note", note, {"title": "later"}, base)
        listed = await self.expect(
            200, "GET", f"/v1/sync/conflicts?model=note&id={note}", self.token("owner")
        )
        (lost,) = listed.json()["conflicts"]
        return note, lost["id"]
