"""Token confusion over HTTP: tokens that are almost ann's, at the address that says whose they are.

Each has one thing that is wrong, and a right signature wherever it can have one.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socket
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from lowtide.auth.keys import SigningKey, thumbprint
from tests.attacks.conftest import Besieged
from tests.auth.ring import es256, good_header, segment, without_none


class Forger:
    """Whoever has the server's key, ann's claims, and bad intentions."""

    def __init__(self, besieged: Besieged, address: str):
        self.besieged = besieged
        self.address = address
        """A server of the attacker's."""
        besieged.server.token("nobody")
        tokens = besieged.server._tokens
        assert tokens is not None
        key = tokens._keys.find(json.loads(decoded(besieged.ann.token, 0))["kid"])
        assert key is not None
        self.key = key
        self.claims: dict[str, Any] = json.loads(decoded(besieged.ann.token, 1))

    def signed(self, header: dict[str, Any] | None = None, claims: dict[str, Any] | None = None) -> str:
        """With the right key, whatever it says."""
        return self.by(self.key, header, claims)

    def by(
        self, key: SigningKey, header: dict[str, Any] | None = None, claims: dict[str, Any] | None = None
    ) -> str:
        """With any key; None takes a part away."""
        head = good_header(self.key, **(header or {}))
        content = f"{segment(head)}.{segment(without_none(self.claims | (claims or {})))}"
        return f"{content}.{segment(es256(key, content))}"

    def hmac(self, secret: bytes, **header: Any) -> str:
        """Signed as if the key were a secret."""
        head = segment(good_header(self.key, alg="HS256") | header)
        content = f"{head}.{segment(self.claims)}"
        return f"{content}.{segment(hmac.digest(secret, content.encode(), hashlib.sha256))}"

    @property
    def pem(self) -> bytes:
        return self.key.public.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def own(self) -> tuple[SigningKey, dict[str, str]]:
        """A key of the attacker's, and its public half as a JWK."""
        private = ec.generate_private_key(ec.SECP256R1())
        numbers = private.public_key().public_numbers()
        x, y = (segment(number.to_bytes(32, "big")) for number in (numbers.x, numbers.y))
        key = SigningKey(thumbprint(private.public_key()), "current", private.public_key(), private, 0)
        return key, {"kty": "EC", "crv": "P-256", "x": x, "y": y, "alg": "ES256", "kid": key.kid}

    def foreign(self, **header: Any) -> str:
        """Signed with a key of the attacker's, which the header is to make the server use."""
        key, jwk = self.own()
        made = {name: jwk if value == "jwk" else value for name, value in header.items()}
        return self.by(key, {"kid": key.kid} | made)


def decoded(token: str, part: int) -> bytes:
    text = token.split(".")[part]
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def unsigned(forger: Forger, alg: str, signature: str = "") -> str:
    return f"{segment(good_header(forger.key, alg=alg))}.{segment(forger.claims)}.{signature}"


Forged = Callable[[Forger], str]
PATHS = (
    "../../../../dev/null",
    "/dev/null",
    "file:///dev/null",
    "..\\..\\nul",
    "%2e%2e%2fdev%2fnull",
    "a\0b",
    "x' OR '1'='1",
    "x' UNION SELECT 'AAAA",
    "|id",
    "${jndi:ldap://127.0.0.1/a}",
    "",
)

UNAUTHORIZED: dict[str, Forged] = {
    "alg none": lambda f: unsigned(f, "none"),
    "alg None": lambda f: unsigned(f, "None"),
    "alg NONE with a signature": lambda f: unsigned(f, "NONE", f.besieged.ann.token.split(".")[2]),
    "no signature": lambda f: f.besieged.ann.token.rpartition(".")[0] + ".",
    "HS256 with the public key": lambda f: f.hmac(f.pem),
    "HS256 with the public key on one line": lambda f: f.hmac(f.pem.strip()),
    "HS256 with nothing": lambda f: f.hmac(b""),
    "HS256 with the key's name": lambda f: f.hmac(f.key.kid.encode()),
    "an id token": lambda f: f.signed({"typ": "JWT"}),
    "an id token by name": lambda f: f.signed({"typ": "id_token"}),
    "a refresh token by name": lambda f: f.signed({"typ": "rt+jwt"}),
    "a proof": lambda f: f.signed({"typ": "dpop+jwt"}),
    "a log-out token": lambda f: f.signed({"typ": "logout+jwt"}),
    "no typ": lambda f: f.signed({"typ": None}),
    "another audience": lambda f: f.signed(claims={"aud": "another"}),
    "another audience that holds ours": lambda f: f.signed(claims={"aud": "crew.evil.example"}),
    "no audience": lambda f: f.signed(claims={"aud": None}),
    "a client as the audience": lambda f: f.signed(claims={"aud": ["another"]}),
    "another issuer": lambda f: f.signed(claims={"iss": "https://evil.example"}),
    "no issuer": lambda f: f.signed(claims={"iss": None}),
    "no end": lambda f: f.signed(claims={"exp": None}),
    "an end in text": lambda f: f.signed(claims={"exp": "9999999999"}),
    "from the future": lambda f: f.signed(
        claims={"iat": f.claims["iat"] + 900, "exp": f.claims["exp"] + 900}
    ),
    "no user": lambda f: f.signed(claims={"sub": None}),
    "a list of users": lambda f: f.signed(claims={"sub": [f.besieged.ann.id]}),
    "the attacker's key inside": lambda f: f.foreign(jwk="jwk"),
    "the attacker's key under our name": lambda f: f.foreign(jwk="jwk", kid=f.key.kid),
    "the attacker's keys elsewhere": lambda f: f.foreign(jku=f"{f.address}/jwks.json"),
    "the attacker's certificate elsewhere": lambda f: f.foreign(x5u=f"{f.address}/cert.pem"),
    "the attacker's certificate inside": lambda f: f.foreign(x5c=["AAAA"]),
    "our key, the attacker's address": lambda f: f.signed({"jku": f"{f.address}/jwks.json"}),
    "our key, something critical": lambda f: f.signed({"crit": ["b64"], "b64": False}),
    "the attacker's key, our name": lambda f: f.by(f.own()[0]),
    **{f"kid {path!r}": lambda f, path=path: f.hmac(b"", kid=path) for path in PATHS},  # type: ignore[misc]
    **{f"kid {path!r}, ES256": lambda f, path=path: f.foreign(kid=path) for path in PATHS},  # type: ignore[misc]
    "bob's claims": lambda f: f.besieged.ann.token.replace(
        f.besieged.ann.token.split(".")[1], f.besieged.bob.token.split(".")[1]
    ),
    "the refresh token itself": lambda f: str(f.besieged.ann.signed["refresh_token"]),
    "the session's id": lambda f: str(f.besieged.ann.signed["session_id"]),
    "five parts": lambda f: f"{f.besieged.ann.token}.a.b",
    "two tokens": lambda f: f"{f.besieged.ann.token} {f.besieged.ann.token}",
    "a JSON serialization": lambda f: json.dumps({"payload": f.besieged.ann.token.split(".")[1]}),
}


@pytest.fixture(scope="module")
def trap() -> Any:
    """A server of the attacker's, which nobody must ask."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield listener
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.fixture
def forger(besieged: Besieged, trap: socket.socket) -> Forger:
    return Forger(besieged, f"http://127.0.0.1:{trap.getsockname()[1]}")


@pytest.mark.parametrize("name", UNAUTHORIZED)
def test_what_is_almost_a_token_is_nobodys(forger: Forger, name: str) -> None:
    """401 with one code for all, and not a word of ann; nothing is fetched to find out."""
    answer = forger.besieged.me(UNAUTHORIZED[name](forger))
    assert (answer.status, answer.code) == (401, "unauthorized")
    assert forger.besieged.ann.id.encode() not in answer.body
    assert answer.headers["www-authenticate"].startswith("Bearer")


def test_a_forgers_signature_is_right_where_nothing_is_wrong(forger: Forger) -> None:
    """The same parts without a mistake are ann: what refuses the others is the mistake."""
    assert forger.besieged.me(forger.signed()).json()["id"] == forger.besieged.ann.id


def test_a_token_of_yesterday_is_expired(forger: Forger) -> None:
    """It was good once, and the client is told to refresh."""
    old = {"iat": forger.claims["iat"] - 86_400, "exp": forger.claims["exp"] - 86_400}
    answer = forger.besieged.me(forger.signed(claims=old))
    assert (answer.status, answer.code) == (401, "token_expired")


@pytest.mark.parametrize(
    "place",
    [
        {"Cookie": "access_token={token}"},
        {"X-Access-Token": "{token}"},
        {"Proxy-Authorization": "Bearer {token}"},
        {"Authorization": "{token}"},
        {"Authorization": "Basic {token}"},
        {"Authorization": "DPoP {token}"},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer={token}"},
        {"Authorization": "Bearer {token}, Bearer {token}"},
        {"authorization_": "Bearer {token}"},
        {},
    ],
)
def test_a_token_is_read_in_one_place(besieged: Besieged, place: dict[str, str]) -> None:
    """Not from cookies, other headers, the address, or another scheme."""
    headers = {name: value.format(token=besieged.ann.token) for name, value in place.items()}
    target = "/v1/auth/me" if place else f"/v1/auth/me?access_token={besieged.ann.token}"
    answer = besieged.ask("GET", target, headers)
    assert (answer.status, answer.code) == (401, "unauthorized")
